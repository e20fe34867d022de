//! The networks and codecs by their class in diffusers.

use burn::tensor::Device;

use crate::{
    codec::Codec,
    config::ConfigError,
    dit::{DitConfig, DitTransformer},
    network::{IoSpec, Network},
    oobleck::{AutoencoderOobleck, AutoencoderOobleckConfig},
    params::TensorSource,
    prior::{PriorConfig, PriorTransformer},
    spectrogram::{MelSpectrogram, MelSpectrogramConfig},
    stable_audio::{StableAudioDit, StableAudioDitConfig},
    unet::{LoadError, UNet2DConfig, UNet2DModel},
    unet_1d::{UNet1DConfig, UNet1DModel},
    unet_3d::{UNet3DConfig, UNetMotionConfig, UNetSpatioTemporalConfig, VideoUNet},
    unet_condition::{UNet2DConditionConfig, UNet2DConditionModel},
    vae::{
        AutoencoderKl, AutoencoderKlConfig, AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig,
        AutoencoderTiny, AutoencoderTinyConfig, VqModel, VqModelConfig,
    },
    wan::{WanTransformer, WanTransformerConfig},
    wan_vae::{AutoencoderKlWan, AutoencoderKlWanConfig},
};

/// A class of networks.
pub struct NetworkEntry {
    /// The name of the class in diffusers.
    pub class: &'static str,
    /// What a network with this `config.json` takes and gives.
    pub spec: fn(&str) -> Result<IoSpec, ConfigError>,
    /// Loads a network of this class: the text of its `config.json`, its weights, and the device.
    pub load: Load,
}

/// See [`NetworkEntry::load`].
pub type Load = fn(&str, &dyn TensorSource, &Device) -> Result<Box<dyn Network>, LoadError>;

macro_rules! entry {
    ($class:literal, $network:ty, $config:ty) => {
        NetworkEntry {
            class: $class,
            spec: |config| Ok(<$config>::from_json(config)?.spec()),
            load: |config, source, device| {
                Ok(Box::new(<$network>::load(&<$config>::from_json(config)?, source, device)?))
            },
        }
    };
}

/// All networks that denoise samples.
pub const NETWORKS: &[NetworkEntry] = &[
    entry!("UNet2DModel", UNet2DModel, UNet2DConfig),
    entry!("UNet2DConditionModel", UNet2DConditionModel, UNet2DConditionConfig),
    entry!("DiTTransformer2DModel", DitTransformer, DitConfig),
    entry!("UNet1DModel", UNet1DModel, UNet1DConfig),
    entry!("PriorTransformer", PriorTransformer, PriorConfig),
    entry!("UNet3DConditionModel", VideoUNet, UNet3DConfig),
    entry!("UNetMotionModel", VideoUNet, UNetMotionConfig),
    entry!("UNetSpatioTemporalConditionModel", VideoUNet, UNetSpatioTemporalConfig),
    entry!("StableAudioDiTModel", StableAudioDit, StableAudioDitConfig),
    entry!("WanTransformer3DModel", WanTransformer, WanTransformerConfig),
];

/// A class of codecs.
pub struct CodecEntry {
    /// The name of the class in diffusers.
    pub class: &'static str,
    /// Loads a codec of this class: the text of its `config.json`, its weights, and the device.
    pub load: LoadCodec,
}

/// See [`CodecEntry::load`].
pub type LoadCodec = fn(&str, &dyn TensorSource, &Device) -> Result<Box<dyn Codec>, LoadError>;

macro_rules! codec {
    ($class:literal, $codec:ty, $config:ty) => {
        CodecEntry {
            class: $class,
            load: |config, source, device| {
                Ok(Box::new(<$codec>::load(&<$config>::from_json(config)?, source, device)?))
            },
        }
    };
}

/// All autoencoders between media and latents.
pub const CODECS: &[CodecEntry] = &[
    codec!("AutoencoderKL", AutoencoderKl, AutoencoderKlConfig),
    codec!("AutoencoderKLTemporalDecoder", AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig),
    codec!("AutoencoderTiny", AutoencoderTiny, AutoencoderTinyConfig),
    codec!("MelSpectrogram", MelSpectrogram, MelSpectrogramConfig),
    codec!("VQModel", VqModel, VqModelConfig),
    codec!("AutoencoderOobleck", AutoencoderOobleck, AutoencoderOobleckConfig),
    codec!("AutoencoderKLWan", AutoencoderKlWan, AutoencoderKlWanConfig),
];

/// The networks of `class`.
pub fn find(class: &str) -> Option<&'static NetworkEntry> {
    NETWORKS.iter().find(|entry| entry.class == class)
}
