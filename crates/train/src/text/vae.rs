//! The finished autoencoder of a text-to-image run.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tweedie_hub::{Component, ComponentDir};
use tweedie_models::{AutoencoderKlConfig, Codec, Encoded};
use tweedie_ops::{Batch, Device};

use crate::error::TrainError;

/// A codec between media and scaled latents. It is not trained.
#[derive(Clone, Debug)]
pub(crate) struct Vae {
    codec: Arc<dyn Codec>,
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
            Component::Codec(codec) if codec.spec().class == AutoencoderKlConfig::CLASS => {
                Ok(Self { codec: codec.into() })
            }
            _ => Err(wrong(&format!("an AutoencoderKL, not {}", component.class()))),
        }
    }

    /// The codec of a run that needs no autoencoder.
    pub fn of(codec: Arc<dyn Codec>) -> Self {
        Self { codec }
    }

    /// The network.
    pub fn codec(&self) -> &Arc<dyn Codec> {
        &self.codec
    }

    /// Channels, height and width of the latents of images of `size`×`size`.
    ///
    /// # Errors
    /// If the autoencoder does not support such images.
    pub fn shape(&self, size: usize) -> Result<[usize; 3], TrainError> {
        let spec = self.codec.spec();
        let (stride, channels) = (spec.stride, spec.media);
        if !size.is_multiple_of(stride) {
            let expected = format!("a multiple of {stride}, the downsampling factor of the autoencoder");
            return Err(TrainError::config("data.size", size, expected));
        }
        if channels != 3 {
            let expected = "an autoencoder for images with 3 channels";
            return Err(TrainError::config("text.vae", format!("{channels} channels"), expected));
        }
        Ok([spec.latents, size / stride, size / stride])
    }

    /// Mean and standard deviation of the scaled latents of images `[B, 3, H, W]`.
    ///
    /// # Errors
    /// If the autoencoder does not support the images.
    pub fn encode(&self, x: Batch) -> Result<[Vec<f32>; 2], TrainError> {
        let encoded = self.codec.encode(x).map_err(|e| TrainError::Model(e.to_string()))?;
        let Encoded { mean, logvar } = encoded;
        let scaled = self.codec.scaled(&mean);
        let std = match logvar {
            Some(logvar) => {
                let above = mean.rows().clone() + logvar.rows().clone().mul_scalar(0.5f32).exp();
                let above = self.codec.scaled(&mean.with_rows(above));
                above.with_rows(above.rows().clone() - scaled.rows().clone())
            }
            None => scaled.with_rows(scaled.rows().zeros_like()),
        };
        Ok([scaled.to_host(), std.to_host()])
    }
}
