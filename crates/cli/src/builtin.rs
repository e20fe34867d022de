//! The built-in models: `models/emoji-32` and `models/emoji-text-64` of the repository.

use std::path::Path;

use anyhow::{Context, Result};
use tweedie::{
    hub::{
        ClipTokenizer, Extras, LatentClass, LatentModel, LatentNetwork, SafetensorsFile, SchedulerConfig,
        TextPart,
    },
    models::{
        Autoencoder, AutoencoderKl, AutoencoderKlConfig, ClipTextConfig, ClipTextModel,
        UNet2DConditionConfig, UNet2DConditionModel, UNet2DConfig, UNet2DModel,
    },
    ops::Device,
    pipe::Pipeline,
};

/// The name in messages.
const NAME: &str = "built-in model";

macro_rules! file {
    ($include:ident, $($part:literal),+) => {
        $include!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $($part),+))
    };
}

/// Loads the network of a built-in folder on a device.
macro_rules! network {
    ($network:ty, $config:ty, $folder:literal, $weights:literal, $device:expr) => {{
        static WEIGHTS: &[u8] = file!(include_bytes, $folder, "/", $weights, ".safetensors");
        let config = <$config>::from_json(file!(include_str, $folder, "/config.json")).context(NAME)?;
        let weights = SafetensorsFile::from_static(NAME, WEIGHTS)?;
        <$network>::load(&config, &weights, $device).context(NAME)?
    }};
}

/// The class-conditional model.
pub fn pipeline(device: &Device) -> Result<Pipeline> {
    let unet = network!(UNet2DModel, UNet2DConfig, "emoji-32/unet", "diffusion_pytorch_model", device);
    Ok(Pipeline::from_parts(unet, scheduler()?, extras()?, device))
}

/// Its sampling defaults and learned samplers.
pub fn extras() -> Result<Extras> {
    serde_json::from_str(file!(include_str, "emoji-32/tweedie.json")).context(NAME)
}

/// Its scheduler.
pub fn scheduler() -> Result<SchedulerConfig> {
    const TEXT: &str = file!(include_str, "emoji-32/scheduler/scheduler_config.json");
    Ok(SchedulerConfig::from_json(TEXT, Path::new(NAME))?)
}

/// The text-to-image model.
pub fn text_model(device: &Device) -> Result<LatentModel> {
    const SCHEDULER: &str = file!(include_str, "emoji-text-64/scheduler/scheduler_config.json");
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
        NAME,
        file!(include_str, "emoji-text-64/tokenizer/vocab.json"),
        file!(include_str, "emoji-text-64/tokenizer/merges.txt"),
    )?;
    Ok(LatentModel {
        remarks: Vec::new(),
        class: LatentClass::StableDiffusion,
        autoencoder: Autoencoder::Kl(Box::new(vae)),
        network: LatentNetwork::TextUNet(Box::new(unet)),
        texts: vec![TextPart { tokenizer, encoder }],
        scheduler: SchedulerConfig::from_json(SCHEDULER, Path::new(NAME))?,
        zeros_for_no_negative: false,
        class_names: Vec::new(),
        extras: serde_json::from_str(file!(include_str, "emoji-text-64/tweedie.json")).context(NAME)?,
    })
}
