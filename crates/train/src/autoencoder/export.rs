//! The trained autoencoder as a diffusers folder.

use serde_json::{Map, Value, json};
use tweedie_hub::{Extras, component, weights::Precision};
use tweedie_models::AutoencoderKl;

use crate::{config::RunConfig, error::TrainError, event::Summary, export::recorded};

/// What latents are, over training images.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, with what is drawn.
    pub std: Vec<f64>,
    /// Divergence from standard normals of each channel, in nats per pixel of the latents.
    pub kl: Vec<f64>,
}

impl Measured {
    /// By which latents are multiplied so that all channels together have variance 1 (Rombach et al. 2022, app. G).
    pub fn scaling_factor(&self) -> f64 {
        let channels = self.mean.len() as f64;
        let mean = self.mean.iter().sum::<f64>() / channels;
        let squares = self.mean.iter().zip(&self.std).map(|(m, s)| m * m + s * s);
        let variance = squares.sum::<f64>() / channels - mean * mean;
        1.0 / variance.sqrt()
    }
}

/// Writes the autoencoder to the folder `summary.model`, with its scaling factor, and with `tweedie.json`: how it
/// was trained and what its latents are.
pub(crate) fn export(
    model: AutoencoderKl,
    measured: &Measured,
    quality: Map<String, Value>,
    config: &RunConfig,
    summary: &Summary,
) -> Result<(), TrainError> {
    let factor = measured.scaling_factor();
    if !(factor.is_finite() && factor > 0.0) {
        let reason = "the latents of the training images have no spread: nothing is left of them";
        return Err(TrainError::Model(reason.into()));
    }
    let latents = json!({ "mean": measured.mean, "std": measured.std, "kl": measured.kl });
    let training: [(&str, Value); 7] = [
        ("steps", json!(summary.step)),
        ("images", json!(summary.images)),
        ("seconds", json!(summary.elapsed_s)),
        ("loss", json!(summary.loss)),
        ("held_out", Value::Object(quality)),
        ("latents", latents),
        ("config", recorded(config)),
    ];
    let training = training.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>();
    let extras = Extras { training, ..Extras::default() };
    let model = model.with_scaling_factor(factor);
    Ok(component::save_autoencoder(&summary.model, &model, &extras, Precision::F32)?)
}
