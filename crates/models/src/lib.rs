//! Denoising networks.
//!
//! A network maps a noisy sample and a time to a raw output; [`NetworkDenoiser`] reads that output through
//! a parameterization and so answers what solvers ask. Parameters are named as in published checkpoints
//! (see [`params`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod denoiser;
pub mod layers;
pub mod network;
pub mod params;
pub mod unet;

pub use denoiser::NetworkDenoiser;
pub use network::{Condition, InputError, Mode, Network};
pub use params::{HostTensor, ParamError, TensorSource, count, export, import, settle};
pub use unet::{ConfigError, LoadError, UNet2DConfig, UNet2DModel};
