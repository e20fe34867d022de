//! `tweedie train`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use indicatif::{HumanBytes, HumanDuration, ProgressBar};
use serde_json::json;
use tweedie::{
    data::{Source, survey},
    train::{
        Choice, ConfigBuilder, PRESETS, RunConfig, Suited, TaskKind, TrainEvent, TrainLoop, dry_run, task_of,
    },
};

use crate::{
    interrupt::{self, INTERRUPTED},
    source,
    team::Team,
    ui::Ui,
};

#[derive(ClapArgs, Debug)]
#[command(after_help = presets())]
pub struct Args {
    /// TOML file with the run's configuration; its keys override the preset.
    config: Option<PathBuf>,
    /// Preset to start from.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Training data: `emoji`, a folder of images, sounds or clips, a zip or tar archive, IDX, CIFAR's batches, NPY, NPZ or Parquet.
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Autoencoder of a text-to-image model: its folder, or that of the run that trained it.
    #[arg(long, value_name = "DIR")]
    vae: Option<PathBuf>,
    /// CLIP for a prior or a decoder: its folder, or that of the run that trained it.
    #[arg(long, value_name = "DIR")]
    clip: Option<PathBuf>,
    /// Finished prior for a decoder: its folder, or that of its run [default: none; the model only makes variations of images].
    #[arg(long, value_name = "DIR")]
    prior: Option<PathBuf>,
    /// Finished model of the preset `enlarger` for a decoder [default: none; results have the decoder's size].
    #[arg(long, value_name = "DIR")]
    enlarger: Option<PathBuf>,
    /// Start from a trained model instead of random weights: its folder, or that of its run. The network, the noise process
    /// and the image size are the model's.
    #[arg(long, value_name = "MODEL", conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Folder of the run: checkpoints, logs, previews and the finished model.
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Stop after this many optimizer steps.
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Stop after this many minutes.
    #[arg(long, value_name = "M")]
    minutes: Option<f64>,
    /// Images per step.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Seed of weights, order, noise and augmentation, up to 9223372036854775807.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Set any configuration key, for example `--set optimizer.beta2=0.99`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Resume the run in the output folder; the result is the same as without interruption.
    #[arg(long)]
    resume: bool,
    /// Print the resolved configuration, the number of parameters and the required memory, and exit.
    #[arg(long)]
    dry_run: bool,
}

fn presets() -> String {
    let lines: Vec<_> = PRESETS.iter().map(|p| format!("  {:<16} {}", p.name, p.about)).collect();
    format!("Presets:\n{}", lines.join("\n"))
}

pub fn run(args: Args, ui: Ui, device: Option<&str>, team: &Team) -> Result<ExitCode> {
    if args.dry_run {
        return show(&args, ui, device);
    }
    let (config, suited) = args.resolve(device)?;
    if !suited.choices.is_empty() {
        ui.event(&json!({ "event": "chosen", "data": suited.data, "choices": suited.choices }));
        ui.note(chosen(&suited));
    } else if let Source::Packed(path) = &config.data.source {
        ui.note(format!("{}: {}", path.display(), survey(&config.data)?.recognized_as));
    }
    let ranks = team.ranks();
    let mut run =
        if args.resume { TrainLoop::resume_on(config, ranks)? } else { TrainLoop::new_on(config, ranks)? };
    let stop = run.stop_handle();
    let saved = Arc::new(Mutex::new(run.saved().map(Path::to_path_buf)));
    let (last, shared) = (saved.clone(), team.is_shared());
    interrupt::answer(ui, "stopping after this step and saving a checkpoint", move || {
        stop.request();
        if shared {
            // mpirun also interrupts the first rank if another one has died, and soon kills it.
            let last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let place = match &*last {
                Some(path) => {
                    format!("the last checkpoint is {}; --resume continues from it", path.display())
                }
                None => "there is no checkpoint yet".into(),
            };
            ui.note(format!("if another rank has died, this run ends here: {place}"));
        }
    });
    let bar = progress(ui, run.config());
    let minutes = run.config().run.minutes;
    let mut stopped = false;
    for event in &mut run {
        let event = event?;
        if let TrainEvent::Checkpointed { path, .. } = &event {
            *saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
        }
        stopped |= tell(ui, &bar, minutes, event);
    }
    bar.finish_and_clear();
    Ok(if stopped { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

impl Args {
    /// The flags as assignments to keys.
    fn assignments(&self, device: Option<&str>) -> Vec<String> {
        let mut set = Vec::new();
        let mut put = |key: &str, value: String| set.push(format!("{key}={value}"));
        if let Some(device) = device {
            put("run.device", quoted(device));
        }
        if let Some(data) = &self.data {
            let value = match source::parse(data) {
                Source::Emoji => quoted("emoji"),
                Source::MovingEmoji => quoted("moving_emoji"),
                Source::Folder(_) => format!("{{ folder = {} }}", quoted(data)),
                Source::Parquet(_) => format!("{{ parquet = {} }}", quoted(data)),
                Source::Packed(_) => format!("{{ packed = {} }}", quoted(data)),
            };
            put("data.source", value);
        }
        if let Some(steps) = self.steps {
            put("run.steps", steps.to_string());
        }
        if let Some(minutes) = self.minutes {
            put("run.minutes", format!("{minutes:?}"));
        }
        if let Some(batch) = self.batch {
            put("run.batch", batch.to_string());
        }
        if let Some(seed) = self.seed {
            put("run.seed", seed.to_string());
        }
        set.extend(self.set.iter().cloned());
        set
    }

    /// The configuration of the run in the output folder.
    fn own(&self) -> Result<ConfigBuilder> {
        let out = match &self.out {
            Some(out) => out.clone(),
            None => ConfigBuilder::preset(self.default_preset()?)?.out()?,
        };
        let file = out.join("config.toml");
        ensure!(file.is_file(), "{}: no run to resume (config.toml is missing)", out.display());
        Ok(ConfigBuilder::file(&file)?)
    }

    /// The preset for the data and the model given by --init.
    fn default_preset(&self) -> Result<&'static str> {
        Ok(match &self.init {
            Some(init) => match task_of(init)? {
                TaskKind::Diffusion if self.has_own_data() => "folder",
                TaskKind::Diffusion => "emoji",
                TaskKind::TextToImage => "text-to-image",
                TaskKind::TextToSound => "speech",
                TaskKind::TextToVideo => "text-to-video",
                TaskKind::Waveform => "waveform",
                TaskKind::Vae => "vae",
                TaskKind::SuperResolution => "super-resolution",
                TaskKind::Clip => "clip",
                TaskKind::Prior => "prior",
                TaskKind::Decoder => "decoder",
            },
            None if self.has_own_data() => "folder",
            None => "emoji",
        })
    }

    /// Whether the data is not the emoji.
    fn has_own_data(&self) -> bool {
        self.data
            .as_deref()
            .is_some_and(|data| ![Source::Emoji, Source::MovingEmoji].contains(&source::parse(data)))
    }

    /// The configuration, and the settings chosen from the data.
    fn resolve(&self, device: Option<&str>) -> Result<(RunConfig, Suited)> {
        let base = match (&self.preset, &self.config) {
            (Some(name), None) => ConfigBuilder::preset(name)?,
            (Some(name), Some(file)) => ConfigBuilder::preset(name)?.over(ConfigBuilder::file(file)?),
            (None, Some(file)) => ConfigBuilder::file(file)?,
            (None, None) if self.resume => self.own()?,
            (None, None) => ConfigBuilder::preset(self.default_preset()?)?,
        };
        let mut builder = base;
        if let Some(init) = &self.init {
            builder = builder.init(init)?;
        }
        if let Some(out) = &self.out {
            let out = out.to_str().context("--out: the path is not valid Unicode")?;
            builder = builder.set(&format!("run.out={}", quoted(out)))?;
        }
        for (flag, key, path) in [
            ("--vae", "text.vae", &self.vae),
            ("--clip", "unclip.clip", &self.clip),
            ("--prior", "unclip.prior", &self.prior),
            ("--enlarger", "unclip.enlarger", &self.enlarger),
        ] {
            if let Some(path) = path {
                let path = path.to_str().with_context(|| format!("{flag}: the path is not valid Unicode"))?;
                builder = builder.set(&format!("{key}={}", quoted(path)))?;
            }
        }
        for assignment in self.assignments(device) {
            builder = builder.set(&assignment)?;
        }
        let (builder, suited) = builder.suited()?;
        let mut config = builder.build()?;
        // A length on the command line replaces the preset's limit.
        match (self.steps, self.minutes) {
            (Some(_), None) => config.run.minutes = None,
            (None, Some(_)) => config.run.steps = None,
            _ => {}
        }
        Ok((config.resolved()?, suited))
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn progress(ui: Ui, config: &RunConfig) -> ProgressBar {
    match (config.run.steps, config.run.minutes) {
        (Some(steps), _) => ui.bar(steps, "steps"),
        (None, Some(minutes)) => ui.bar((60.0 * minutes) as u64, "s"),
        (None, None) => ui.spinner("training"),
    }
}

/// Reports an event; returns whether the run was stopped early.
fn tell(ui: Ui, bar: &ProgressBar, minutes: Option<f64>, event: TrainEvent) -> bool {
    let say = |text: String| bar.suspend(|| ui.note(text));
    match event {
        TrainEvent::Started { step, steps, parameters, images, held_out } => {
            ui.event(&json!({ "event": "started", "step": step, "steps": steps, "parameters": parameters,
                "images": images, "held_out": held_out }));
            let from = if step > 0 { format!(", resuming from step {step}") } else { String::new() };
            say(format!("{parameters} parameters, {images} images ({held_out} held out){from}"));
        }
        TrainEvent::Step(s) => {
            ui.event(&json!({ "event": "step", "step": s.step, "images": s.images, "loss": s.loss,
                "grad_norm": s.grad_norm, "learning_rate": s.learning_rate, "images_per_s": s.images_per_s,
                "elapsed_s": s.elapsed_s }));
            bar.set_position(if minutes.is_some() && bar.length() == minutes.map(|m| (60.0 * m) as u64) {
                s.elapsed_s as u64
            } else {
                s.step
            });
            bar.set_message(format!("step {} · {:.1} images/s · loss {:.4}", s.step, s.images_per_s, s.loss));
        }
        TrainEvent::Validation { step, loss, ema_loss, figures } => {
            let mut event =
                json!({ "event": "validation", "step": step, "loss": loss, "ema_loss": ema_loss });
            for figure in &figures {
                event["figures"][&figure.name] = json!(figure.value);
            }
            ui.event(&event);
            let ema = ema_loss.map_or(String::new(), |l| format!(", averaged weights {l:.4}"));
            let figures: String = figures.iter().map(|f| format!(", {} {:.4}", f.name, f.value)).collect();
            say(format!("step {step}: held-out loss {loss:.4}{ema}{figures}"));
        }
        TrainEvent::Preview { step, path, .. } => {
            ui.event(&json!({ "event": "preview", "step": step, "path": path }));
            say(format!("step {step}: preview in {}", path.display()));
        }
        TrainEvent::Checkpointed { step, path } => {
            ui.event(&json!({ "event": "checkpoint", "step": step, "path": path }));
        }
        TrainEvent::Warning(text) => bar.suspend(|| ui.warn(text)),
        TrainEvent::Finished(s) => {
            bar.finish_and_clear();
            let time = HumanDuration(std::time::Duration::from_secs_f64(s.elapsed_s));
            let verb = if s.stopped { "stopped" } else { "trained" };
            ui.result(
                &json!({ "event": "finished", "step": s.step, "images": s.images, "elapsed_s": s.elapsed_s,
                    "loss": s.loss, "stopped": s.stopped, "model": s.model }),
                format!(
                    "{verb} for {} steps on {} images in {time}; loss {:.4}\nmodel: {}",
                    s.step,
                    s.images,
                    s.loss,
                    s.model.display()
                ),
            );
            return s.stopped;
        }
    }
    false
}

/// The chosen settings, one per line.
fn chosen(suited: &Suited) -> String {
    let mut lines = vec![format!("{}; settings chosen from the data:", suited.data)];
    let key = |c: &Choice| format!("{} = {}", c.key, c.value);
    let width = suited.choices.iter().map(|c| key(c).len()).max().unwrap_or(0);
    lines.extend(suited.choices.iter().map(|c| format!("  {:<width$}  {}", key(c), c.why)));
    lines.join("\n")
}

fn show(args: &Args, ui: Ui, device: Option<&str>) -> Result<ExitCode> {
    let (config, suited) = args.resolve(device)?;
    let plan = dry_run(config)?;
    let m = &plan.memory;
    let value = json!({ "config": plan.config, "parameters": plan.parameters, "images": plan.images,
        "held_out": plan.held_out, "classes": plan.classes, "memory_bytes": m.total(),
        "chosen": suited.choices });
    let chosen = match suited.choices.is_empty() {
        true => String::new(),
        false => format!("# {}\n", chosen(&suited).replace('\n', "\n# ")),
    };
    let text = format!(
        "{}\n{chosen}# {} parameters; {} images, {} held out; {} classes\n\
         # memory about {}: weights {}, gradients {}, optimizer {}, averages {}, activations {}, data {}",
        plan.config.trim_end(),
        plan.parameters,
        plan.images,
        plan.held_out,
        plan.classes.len(),
        HumanBytes(m.total()),
        HumanBytes(m.weights),
        HumanBytes(m.gradients),
        HumanBytes(m.optimizer),
        HumanBytes(m.ema),
        HumanBytes(m.activations),
        HumanBytes(m.data),
    );
    ui.result(&value, text);
    Ok(ExitCode::SUCCESS)
}
