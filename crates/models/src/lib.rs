//! Denoising networks.
//!
//! A network maps a noisy sample and a time to a raw output, which [`NetworkDenoiser`] converts to a prediction for
//! solvers. Parameters are named as in published checkpoints (see [`params`]).
//!
//! ```
//! use burn::tensor::Device;
//! use tweedie_core::{Denoiser, Level, Parameterization};
//! use tweedie_models::{Conditions, NetworkDenoiser, UNet2DConfig, UNet2DModel};
//! use tweedie_ops::{RowNoise, SampleShape};
//!
//! let config = UNet2DConfig::from_json(
//!     r#"{"block_out_channels": [16, 32], "norm_num_groups": 8, "layers_per_block": 1,
//!         "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
//!         "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}"#,
//! )?;
//! let device = Device::flex();
//! let unet = UNet2DModel::new(&config, 0, &device)?;
//!
//! let denoiser = NetworkDenoiser::new(&unet, Parameterization::Eps, Conditions::none());
//! let x = RowNoise(vec![1, 2]).batch(&SampleShape::from([3, 16, 16]), 0, &device);
//! let prediction = denoiser.denoise(&x, Level { alpha: 0.6, sigma: 0.8, t: 400.0 })?;
//! assert_eq!(prediction.x0.tensor().dims(), [2, 3, 16, 16]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
pub mod clap;
pub mod codec;
pub mod conditions;
mod config;
pub mod controlnet;
pub mod denoiser;
pub mod dit;
mod first_channels;
mod last_step;
pub mod layers;
pub mod memory;
pub mod network;
pub mod oobleck;
pub mod params;
pub mod perceptual;
pub mod prior;
pub mod registry;
mod renamed;
pub mod spectrogram;
pub mod stable_audio;
pub mod t5;
pub mod text;
pub mod unet;
pub mod unet_1d;
pub mod unet_3d;
pub mod unet_condition;
pub mod vae;
pub mod vision;
pub mod vocoder;
pub mod wan;
pub mod wan_vae;
mod windows;

pub use adapter::{T2iAdapter, T2iAdapterConfig};
pub use clap::{ClapTextConfig, ClapTextModel};
pub use codec::{Codec, CodecSpec, Encoded};
pub use conditions::{Conditions, Entry};
pub use controlnet::{ControlNetConfig, ControlNetModel, Controlled, Guide};
pub use denoiser::NetworkDenoiser;
pub use dit::{DitConfig, DitTransformer};
pub use first_channels::FirstChannels;
pub use last_step::LastStep;
pub use network::{Classes, InputError, IoSpec, Mode, Network};
pub use oobleck::{AutoencoderOobleck, AutoencoderOobleckConfig};
pub use params::{HostTensor, ParamError, TensorSource, count, export, import, settle};
pub use perceptual::Perceptual;
pub use prior::{
    EmbeddingProjection, EmbeddingProjectionConfig, PriorConfig, PriorTransformer, Standardized,
};
pub use registry::{CODECS, CodecEntry, NETWORKS, NetworkEntry};
pub use spectrogram::{MelSpectrogram, MelSpectrogramConfig};
pub use stable_audio::{
    StableAudioDit, StableAudioDitConfig, StableAudioProjection, StableAudioProjectionConfig,
};
pub use t5::{T5Config, T5Encoder};
pub use text::{ClipTextConfig, ClipTextModel, TextFeatures};
pub use tweedie_ops::{ExecContext, PackedWeights, Precision};
pub use unet::{ConfigError, LoadError, UNet2DConfig, UNet2DModel};
pub use unet_1d::{DownBlock1DType, UNet1DConfig, UNet1DModel, UpBlock1DType};
pub use unet_3d::{UNet3DConfig, UNetMotionConfig, UNetSpatioTemporalConfig, VideoUNet, VideoUNetConfig};
pub use unet_condition::{UNet2DConditionConfig, UNet2DConditionModel};
pub use vae::{
    AutoencoderKl, AutoencoderKlConfig, AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig,
    AutoencoderTiny, AutoencoderTinyConfig, VqModel, VqModelConfig,
};
pub use vision::{ClipVisionConfig, ClipVisionModel};
pub use vocoder::{HifiGan, HifiGanConfig, MelAutoencoder};
pub use wan::{WanTransformer, WanTransformerConfig};
pub use wan_vae::{AutoencoderKlWan, AutoencoderKlWanConfig};
pub use windows::Windows;
