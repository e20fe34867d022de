//! The models that are part of the binary: `models/emoji-32` and `models/emoji-text-64` of the repository.

use std::{path::Path, sync::Arc};

use tweedie_hub::{ClipTokenizer, Extras, HubError, Model, SafetensorsFile, SchedulerConfig, TextPart};
use tweedie_models::{
    AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel, ConfigError, LoadError,
    UNet2DConditionConfig, UNet2DConditionModel, UNet2DConfig, UNet2DModel,
};
use tweedie_ops::Device;

/// The class-conditional model of emoji.
pub const IMAGES: &str = "emoji-32";
/// The text-to-image model of emoji.
pub const TEXTS: &str = "emoji-text-64";
/// All of them, with a description.
pub const ALL: [(&str, &str); 2] =
    [(IMAGES, "emoji of 32×32 pixels, by class"), (TEXTS, "emoji of 64×64 pixels, by text")];

macro_rules! file {
    ($include:ident, $($part:literal),+) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $($part),+))
    };
}

/// Loads the network of a built-in folder on a device.
macro_rules! network {
    ($network:ty, $config:ty, $folder:literal, $weights:literal, $device:expr) => {{
        static WEIGHTS: &[u8] = file!(include_bytes, $folder, "/", $weights, ".safetensors");
        let config =
            <$config>::from_json(file!(include_str, $folder, "/config.json")).map_err(config_error)?;
        let weights = SafetensorsFile::from_static($folder, WEIGHTS)?;
        <$network>::load(&config, &weights, $device).map_err(load_error)?
    }};
}

/// Bytes of the weights of the built-in model called `name` in memory; 0 if there is none.
pub fn bytes(name: &str) -> u64 {
    // The files store f16.
    let stored = match name {
        IMAGES => file!(include_bytes, "emoji-32/unet/diffusion_pytorch_model.safetensors").len(),
        TEXTS => file!(include_bytes, "emoji-text-64/unet/diffusion_pytorch_model.safetensors").len(),
        _ => 0,
    };
    2 * stored as u64
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

/// The built-in model called `name`; `None` if there is none.
///
/// # Errors
/// None that a correct build could cause.
pub fn load(name: &str, device: &Device) -> Option<Result<Model, HubError>> {
    match name {
        IMAGES => Some(images(device)),
        TEXTS => Some(texts(device)),
        _ => None,
    }
}

/// The network of `emoji-32`.
///
/// # Errors
/// None that a correct build could cause.
pub fn images_network(device: &Device) -> Result<UNet2DModel, HubError> {
    Ok(network!(UNet2DModel, UNet2DConfig, "emoji-32/unet", "diffusion_pytorch_model", device))
}

fn images(device: &Device) -> Result<Model, HubError> {
    let unet = images_network(device)?;
    let (scheduler, extras) = settings(IMAGES)?;
    Ok(Model::of_network(Box::new(unet), scheduler, extras))
}

/// The scheduler and the defaults of the built-in model called `name`, or of `emoji-32`.
///
/// # Errors
/// None that a correct build could cause.
pub fn settings(name: &str) -> Result<(SchedulerConfig, Extras), HubError> {
    let (scheduler, extras) = match name {
        TEXTS => (
            file!(include_str, "emoji-text-64/scheduler/scheduler_config.json"),
            file!(include_str, "emoji-text-64/tweedie.json"),
        ),
        _ => (
            file!(include_str, "emoji-32/scheduler/scheduler_config.json"),
            file!(include_str, "emoji-32/tweedie.json"),
        ),
    };
    let wrong = |e: serde_json::Error| HubError::Format { path: name.into(), reason: e.to_string() };
    let extras = serde_json::from_str(extras).map_err(wrong)?;
    Ok((SchedulerConfig::from_json(scheduler, Path::new(name))?, extras))
}

fn texts(device: &Device) -> Result<Model, HubError> {
    let vae =
        network!(AutoencoderKl, AutoencoderKlConfig, "emoji-text-64/vae", "diffusion_pytorch_model", device);
    let unet = network!(
        UNet2DConditionModel,
        UNet2DConditionConfig,
        "emoji-text-64/unet",
        "diffusion_pytorch_model",
        device
    );
    let encoder = network!(ClipTextModel, ClipTextConfig, "emoji-text-64/text_encoder", "model", device);
    let tokenizer = ClipTokenizer::from_texts(
        TEXTS,
        file!(include_str, "emoji-text-64/tokenizer/vocab.json"),
        file!(include_str, "emoji-text-64/tokenizer/merges.txt"),
    )?;
    let part = TextPart { tokenizer: tokenizer.into(), encoder };
    let (scheduler, extras) = settings(TEXTS)?;
    Ok(Model::of_texts(Box::new(unet), Arc::new(vae), vec![part], scheduler, extras))
}
