//! Trains autoencoders between images and latents: reconstruction loss, KL divergence, perceptual distance and a
//! discriminator (Rombach et al. 2022, arXiv:2112.10752).

mod batches;
mod config;
mod discriminator;
mod export;
mod objective;

use std::path::Path;

use tweedie_hub::{HubError, SafetensorsFile, encoder};
use tweedie_models::{Perceptual, perceptual::Vgg};
use tweedie_ops::Device;

use crate::error::TrainError;

pub use config::{AdversarialConfig, Reconstruction, VaeConfig};

pub(crate) use batches::{ImageBatch, ImageBatches};
pub(crate) use discriminator::Discriminator;
pub(crate) use export::{Measured, export};
pub(crate) use objective::{Found, Objective, Parts, divergence, number};

/// The network of the perceptual distance, if `config` uses one.
///
/// # Errors
/// If its file is missing, damaged or of another network.
pub(crate) fn perceptual(config: &VaeConfig, device: &Device) -> Result<Option<Perceptual>, TrainError> {
    if config.perceptual == 0.0 {
        return Ok(None);
    }
    let path: &Path = &config.perceptual_weights;
    if path.as_os_str().is_empty() {
        return Ok(Some(Perceptual::Encoder(Box::new(encoder::embedded(device)?))));
    }
    let file = SafetensorsFile::open(path)?;
    let vgg = Vgg::load(&file, device).map_err(|source| HubError::Params { path: path.into(), source })?;
    Ok(Some(Perceptual::Vgg(Box::new(vgg))))
}
