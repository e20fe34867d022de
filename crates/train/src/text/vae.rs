//! The finished autoencoder of a text-to-image run.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use tweedie_hub::{Component, ComponentDir};
use tweedie_models::{Autoencoder, AutoencoderKl};
use tweedie_ops::{Device, to_host};

use crate::error::TrainError;

/// An autoencoder between images and scaled latents. It is not trained.
#[derive(Clone, Debug)]
pub(crate) struct Vae {
    autoencoder: Autoencoder,
}

/// Where an autoencoder may be in a folder: itself, in a pipeline, or in a run.
const PLACES: [&str; 4] = ["", "vae", "model", "model/vae"];

impl Vae {
    /// Loads the autoencoder in the folder `dir`.
    ///
    /// # Errors
    /// If there is none, or it is damaged or of another class.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, TrainError> {
        let wrong = |expected: &str| TrainError::config("text.vae", dir.display(), expected);
        let found = PLACES.iter().map(|place| dir.join(place)).find(|p| p.join("config.json").is_file());
        let Some(found): Option<PathBuf> = found else {
            return Err(wrong("the folder of an AutoencoderKL, of a pipeline with one, or of a run"));
        };
        let component = ComponentDir::open(&found)?;
        match component.load(device)? {
            Component::Autoencoder(autoencoder @ Autoencoder::Kl(_)) => Ok(Self { autoencoder }),
            _ => Err(wrong(&format!("an AutoencoderKL, not {}", component.class()))),
        }
    }

    /// The network.
    pub fn autoencoder(&self) -> &Autoencoder {
        &self.autoencoder
    }

    /// The network, unless it is an AutoencoderTiny.
    pub fn kl(&self) -> Option<&AutoencoderKl> {
        match &self.autoencoder {
            Autoencoder::Kl(vae) => Some(vae),
            Autoencoder::Tiny(_) => None,
        }
    }

    /// Channels, height and width of the latents of images of `size`×`size`.
    ///
    /// # Errors
    /// If the autoencoder does not support such images.
    pub fn shape(&self, size: usize) -> Result<[usize; 3], TrainError> {
        let stride = self.autoencoder.stride();
        let channels = self.kl().map_or(3, |vae| vae.config().in_channels);
        if !size.is_multiple_of(stride) {
            let expected = format!("a multiple of {stride}, the downsampling factor of the autoencoder");
            return Err(TrainError::config("data.size", size, expected));
        }
        if channels != 3 {
            let expected = "an autoencoder for images with 3 channels";
            return Err(TrainError::config("text.vae", format!("{channels} channels"), expected));
        }
        Ok([self.autoencoder.latent_channels(), size / stride, size / stride])
    }

    /// Mean and standard deviation of the scaled latents of images `[B, 3, H, W]`.
    ///
    /// # Errors
    /// If the autoencoder does not support the images.
    pub fn encode(&self, x: Tensor<4>) -> Result<[Vec<f32>; 2], TrainError> {
        let (mean, logvar) = self.autoencoder.encode(x).map_err(|e| TrainError::Model(e.to_string()))?;
        let scaled = self.autoencoder.scaled(mean.clone());
        let std = match logvar {
            Some(logvar) => {
                let above = mean + logvar.mul_scalar(0.5f32).exp();
                self.autoencoder.scaled(above) - scaled.clone()
            }
            None => scaled.zeros_like(),
        };
        Ok([to_host(scaled), to_host(std)])
    }
}
