//! Exports the trained autoencoder as a diffusers folder.

use serde_json::{Map, Value, json};
use tweedie_hub::{Extras, component, weights::Precision};
use tweedie_models::AutoencoderKl;

use crate::{config::RunConfig, error::TrainError, event::Summary, export::recorded};

/// Statistics of the latents over training images.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel, including the posterior's variance.
    pub std: Vec<f64>,
    /// Divergence of each channel from a standard normal, in nats per latent pixel.
    pub kl: Vec<f64>,
}

impl Measured {
    /// The factor that scales all latents together to variance 1 (Rombach et al. 2022, app. G).
    pub fn scaling_factor(&self) -> f64 {
        let channels = self.mean.len() as f64;
        let mean = self.mean.iter().sum::<f64>() / channels;
        let squares = self.mean.iter().zip(&self.std).map(|(m, s)| m * m + s * s);
        let variance = squares.sum::<f64>() / channels - mean * mean;
        1.0 / variance.sqrt()
    }
}

/// Writes the autoencoder to the folder `summary.model`, with its scaling factor and `tweedie.json`, which contains the
/// training configuration and the statistics of the latents.
pub(crate) fn export(
    model: AutoencoderKl,
    measured: &Measured,
    quality: Map<String, Value>,
    config: &RunConfig,
    summary: &Summary,
) -> Result<(), TrainError> {
    let factor = measured.scaling_factor();
    if !(factor.is_finite() && factor > 0.0) {
        let reason = "the latents of the training images are constant; the autoencoder has collapsed";
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
