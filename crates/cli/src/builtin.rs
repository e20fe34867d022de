//! The model that the program carries in itself: `models/emoji-32` of the repository.

use std::path::Path;

use anyhow::{Context, Result};
use tweedie::{
    hub::{Extras, SafetensorsFile, SchedulerConfig},
    models::{UNet2DConfig, UNet2DModel},
    ops::Device,
    pipe::Pipeline,
};

/// What messages call it.
const NAME: &str = "built-in model";

macro_rules! file {
    ($include:ident, $name:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji-32/", $name))
    };
}

const CONFIG: &str = file!(include_str, "unet/config.json");
const SCHEDULER: &str = file!(include_str, "scheduler/scheduler_config.json");
const EXTRAS: &str = file!(include_str, "tweedie.json");
static WEIGHTS: &[u8] = file!(include_bytes, "unet/diffusion_pytorch_model.safetensors");

/// The built-in model on `device`.
pub fn pipeline(device: &Device) -> Result<Pipeline> {
    let config = UNet2DConfig::from_json(CONFIG).context(NAME)?;
    let weights = SafetensorsFile::from_static(NAME, WEIGHTS)?;
    let unet = UNet2DModel::load(&config, &weights, device).context(NAME)?;
    Ok(Pipeline::from_parts(unet, scheduler()?, extras()?, device))
}

/// Its defaults and what was learned for it.
pub fn extras() -> Result<Extras> {
    serde_json::from_str(EXTRAS).context(NAME)
}

/// Its scheduler.
pub fn scheduler() -> Result<SchedulerConfig> {
    Ok(SchedulerConfig::from_json(SCHEDULER, Path::new(NAME))?)
}
