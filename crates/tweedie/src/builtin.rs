//! The model that is part of the binary: `models/emoji-32` of the repository.

use std::path::Path;

use tweedie_hub::{Extras, HubError, Model, SafetensorsFile, SchedulerConfig};
use tweedie_models::{ConfigError, LoadError, UNet2DConfig, UNet2DModel};
use tweedie_ops::Device;

/// The class-conditional model of emoji.
pub const IMAGES: &str = "emoji-32";

macro_rules! file {
    ($include:ident, $part:literal) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji-32/", $part))
    };
}

static WEIGHTS: &[u8] = file!(include_bytes, "unet/diffusion_pytorch_model.safetensors");

/// Bytes of its weights in memory.
pub fn bytes() -> u64 {
    // The file stores f16.
    2 * WEIGHTS.len() as u64
}

fn config_error(source: ConfigError) -> HubError {
    HubError::Config { path: "built-in model".into(), source }
}

fn load_error(error: LoadError) -> HubError {
    match error {
        LoadError::Config(source) => config_error(source),
        LoadError::Params(source) => HubError::Params { path: "built-in model".into(), source },
    }
}

/// The network.
///
/// # Errors
/// None that a correct build could cause.
pub fn network(device: &Device) -> Result<UNet2DModel, HubError> {
    let config = UNet2DConfig::from_json(file!(include_str, "unet/config.json")).map_err(config_error)?;
    let weights = SafetensorsFile::from_static(IMAGES, WEIGHTS)?;
    UNet2DModel::load(&config, &weights, device).map_err(load_error)
}

/// The scheduler and the defaults.
///
/// # Errors
/// None that a correct build could cause.
pub fn settings() -> Result<(SchedulerConfig, Extras), HubError> {
    let wrong = |e: serde_json::Error| HubError::Format { path: IMAGES.into(), reason: e.to_string() };
    let extras = serde_json::from_str(file!(include_str, "tweedie.json")).map_err(wrong)?;
    let scheduler = file!(include_str, "scheduler/scheduler_config.json");
    Ok((SchedulerConfig::from_json(scheduler, Path::new(IMAGES))?, extras))
}

/// The model.
///
/// # Errors
/// None that a correct build could cause.
pub fn load(device: &Device) -> Result<Model, HubError> {
    let (scheduler, extras) = settings()?;
    Ok(Model::of_network(Box::new(network(device)?), scheduler, extras))
}
