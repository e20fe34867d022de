//! `tweedie convert`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::hub::{Precision, files, latent_dir, model_index};

use crate::{model, ui::Ui};

/// How values are stored.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Stored {
    F32,
    F16,
    Bf16,
}

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Stable Diffusion 1.x, 2.x or XL in one safetensors file, or the folder of a model in latents.
    #[arg(short, long, value_name = "PATH")]
    model: PathBuf,
    /// CLIP's tokenizer, for a model in one file [default: what lies beside it].
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// What the network of a model in one file answers [default: `eps`; `v` of Stable Diffusion 2.x].
    #[arg(long, value_name = "KIND")]
    prediction: Option<model::Prediction>,
    /// Which variant of the weights in a folder is read, such as `fp16` [default: the weights without a variant, else
    /// fp32, fp16 or bf16, whichever is there].
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// A low-rank change of the weights that becomes part of them, and how much of it; may be repeated.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// The folder to write, in the layout of diffusers. A pipeline that is there already is replaced.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// How weights are stored.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Stored,
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let (path, out) = (&args.model, &args.out);
    path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if let (Ok(a), Ok(b)) = (path.canonicalize(), out.canonicalize()) {
        ensure!(!a.starts_with(&b), "--out {}: holds the model itself; name another folder", out.display());
    }
    files::check_dir(out, model_index::FILE)?;
    ensure!(
        path.is_file() || latent_dir::class_of(path)?.is_some(),
        "{}: not a model in latents: expected one file, or a folder with a `model_index.json` of Stable Diffusion, \
         Stable Diffusion XL, DiT or LDM",
        path.display()
    );
    let device = tweedie::ops::device("cpu")?;
    let loras = args.lora.iter().map(|text| model::lora(text)).collect::<Result<Vec<_>>>()?;
    let (tokenizer, variant) = (args.tokenizer.as_deref(), args.variant.as_deref());
    let model = model::latent(path, tokenizer, args.prediction, variant, &loras, &device, ui)?;
    let precision = match args.precision {
        Stored::F32 => Precision::F32,
        Stored::F16 => Precision::F16,
        Stored::Bf16 => Precision::BF16,
    };
    model.save(out, precision)?;
    let class = model.class.name();
    ui.result(
        &json!({ "event": "finished", "model": path, "out": out, "pipeline": class, "precision": precision,
            "loras": args.lora }),
        format!("{class} in {}", out.display()),
    );
    Ok(())
}
