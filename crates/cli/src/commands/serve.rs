//! `tweedie serve`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    builtin,
    library::{self, Place},
    ops::Device,
    pipe::LoadOptions,
};
use tweedie_serve::{Changes, Config, Model, Server, log};

use crate::{interrupt, ui::Ui};

#[derive(ClapArgs, Debug)]
#[command(after_help = "\
Open http://127.0.0.1:7860 in a browser, or use
  POST /v1/jobs                  jobs with events, JSON with the fields of a request (`count`, `seed`, `prompt` ...)
  POST /v1/images/generations    for clients of OpenAI's image API
  POST /sdapi/v1/txt2img         for clients of AUTOMATIC1111's web UI
/openapi.json describes the paths, docs/serving.md everything. Accepted jobs are finished even if the server is killed and
started again.")]
pub struct Args {
    /// Model to serve: a folder, a single-file checkpoint or a name of `tweedie models`; may be repeated. Loaded when it is
    /// first needed. Requests without a model use the first one [default: emoji-32, and emoji-text-64 and spoken-digits if
    /// they are found]. The model emoji-x4, which enlarges images, is always offered if it is found.
    #[arg(short, long, value_name = "PATH")]
    model: Vec<PathBuf>,
    /// Address and port; port 0 selects a free one. Addresses that other machines can reach need --tokens
    /// [default: 127.0.0.1:7860].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Folder of the journal, results and uploaded images; one server per folder [default: tweedie-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// File of lines `NAME TOKEN`, one for each client: requests then need `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// LoRA that requests can use by its name, that of the file without the extension; may be repeated.
    #[arg(long, value_name = "FILE")]
    lora: Vec<PathBuf>,
    /// Folder of a ControlNet that requests can use by its name, that of the folder; may be repeated.
    #[arg(long, value_name = "DIR")]
    controlnet: Vec<PathBuf>,
    /// TOML file with further settings: limits, batching, memory for models. docs/serving.md lists its keys. Flags take
    /// precedence.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Run jobs one after the other instead of in shared calls of the network.
    #[arg(long)]
    no_batching: bool,
}

impl Args {
    fn config(&self) -> Result<Config> {
        let mut config = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        config.listen = self.listen.unwrap_or(config.listen);
        config.data_dir = self.data_dir.clone().unwrap_or(config.data_dir);
        config.tokens = self.tokens.clone().or(config.tokens);
        config.loras.extend(self.lora.iter().cloned());
        config.controlnets.extend(self.controlnet.iter().cloned());
        config.batching &= !self.no_batching;
        Ok(config)
    }

    fn models(&self, device: &Device) -> Result<Vec<Model>> {
        let found = |name: &&Path| library::find(name).is_ok();
        let asked = self.model.iter().map(PathBuf::as_path);
        let own = OWN.map(Path::new).into_iter().filter(found);
        let own = own.filter(|_| self.model.is_empty());
        let mut models = asked.chain(own).map(|path| model(path, device)).collect::<Result<Vec<_>>>()?;
        let enlarger = Path::new(library::ENLARGER);
        if found(&enlarger) && models.iter().all(|model| model.name != library::ENLARGER) {
            models.push(model(enlarger, device)?);
        }
        Ok(models)
    }
}

/// The models that are served by default.
const OWN: [&str; 3] = [builtin::IMAGES, library::TEXTS, "spoken-digits"];

fn model(path: &Path, device: &Device) -> Result<Model> {
    let place = library::find(path)?;
    let name = match &place {
        Place::BuiltIn => builtin::IMAGES.to_owned(),
        Place::Path(path) => {
            let whole = path.canonicalize().with_context(|| path.display().to_string())?;
            let name = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
            let name = name.and_then(|name| name.to_str());
            name.with_context(|| format!("{}: the name is not UTF-8 text", path.display()))?.to_owned()
        }
    };
    let about = library::about(&name).to_owned();
    let (path, device) = (path.to_owned(), device.clone());
    let load = Box::new(move |changes: &Changes| {
        let Changes { loras, embeddings, controls } = changes;
        let options = LoadOptions { loras, embeddings, controls, ..LoadOptions::default() };
        library::load(&path, &options, &device)
    });
    Ok(Model { name, about, bytes: library::bytes(&place), enlarges: library::enlarges(&place), load })
}

pub fn run(args: Args, ui: Ui, device: &str) -> Result<ExitCode> {
    let config = args.config()?;
    let device = tweedie::ops::device(device)?;
    let models = args.models(&device)?;
    log(ui.is_json(), ui.is_quiet());
    let (folder, names) =
        (config.data_dir.clone(), models.iter().map(|m| m.name.clone()).collect::<Vec<_>>());
    let server = Server::start(config, models)?;
    let stop = server.stop();
    interrupt::answer(ui, "storing what is running", move || stop.now());
    let url = format!("http://{}", server.address());
    ui.event(&json!({ "listening": url, "models": names, "data_dir": folder, "resumed": server.taken_up() }));
    ui.note(format!("serving {} on {url}, data in {}", names.join(", "), folder.display()));
    if server.taken_up() > 0 {
        ui.note(format!("{} jobs of the last run go on", server.taken_up()));
    }
    server.wait();
    Ok(ExitCode::SUCCESS)
}
