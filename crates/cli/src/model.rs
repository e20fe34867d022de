//! The model a command works with: a folder of the user's, or the built-in one.

use std::path::Path;

use anyhow::{Result, ensure};
use tweedie::{
    hub::{self, LatentModel, Lora, ModelDir, OriginalCheckpoint, SchedulerConfig, latent_dir},
    pipe::Pipeline,
};

use crate::builtin;

/// The pipeline of the model in `dir`, or of the built-in model.
pub fn pipeline(dir: Option<&Path>, device: &tweedie::ops::Device) -> Result<Pipeline> {
    match dir {
        Some(dir) => Ok(Pipeline::load(dir, device)?),
        None => builtin::pipeline(device),
    }
}

/// What a network answers.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
pub enum Prediction {
    /// The noise.
    Eps,
    /// The velocity.
    V,
}

/// The model in latents at `path`, a folder or one file, changed by `loras`.
pub fn latent(
    path: &Path,
    tokenizer: Option<&Path>,
    prediction: Option<Prediction>,
    loras: &[Lora],
    device: &tweedie::ops::Device,
) -> Result<LatentModel> {
    if path.is_file() {
        let prediction = prediction.map(|kind| match kind {
            Prediction::Eps => hub::Prediction::Eps,
            Prediction::V => hub::Prediction::V,
        });
        let checkpoint = OriginalCheckpoint::open(path, prediction)?;
        return Ok(LatentModel::load_original(&checkpoint, tokenizer, loras, device)?);
    }
    ensure!(tokenizer.is_none(), "--tokenizer: for models in one file; a folder has its own");
    ensure!(prediction.is_none(), "--prediction: for models in one file; a folder says it itself");
    Ok(LatentModel::load_with(path, loras, device)?)
}

/// `FILE` or `FILE:SCALE`.
pub fn lora(text: &str) -> Result<Lora> {
    let (path, scale) = match text.rsplit_once(':').map(|(path, scale)| (path, scale.parse::<f64>())) {
        Some((path, Ok(scale))) => (path, scale),
        _ => (text, 1.0),
    };
    ensure!(scale.is_finite(), "--lora {text}: expected a number after the colon");
    Ok(Lora::open(Path::new(path), scale)?)
}

/// Only the model's scheduler.
pub fn scheduler(dir: Option<&Path>) -> Result<SchedulerConfig> {
    match dir {
        Some(dir) if latent_dir::class_of(dir)?.is_some() => {
            Ok(SchedulerConfig::load(&dir.join("scheduler/scheduler_config.json"))?)
        }
        Some(dir) => ModelDir::open(dir)?
            .scheduler
            .ok_or_else(|| anyhow::anyhow!("{}: has no scheduler_config.json", dir.display())),
        None => builtin::scheduler(),
    }
}
