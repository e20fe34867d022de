//! The model a command works with: a folder of the user's, or the built-in one.

use std::path::Path;

use anyhow::Result;
use tweedie::{
    hub::{ModelDir, SchedulerConfig, latent_dir},
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
