//! The loss of an autoencoder (Rombach et al. 2022, arXiv:2112.10752, app. G): pixel loss, perceptual distance, divergence
//! of the latents from a standard normal, and an adversarial loss.
//!
//! The losses of decoded images are first differentiated with respect to the images. Their combined gradient then passes
//! through the autoencoder once, when the adaptive weight is already known.

use burn::tensor::{Device, Tensor};
use tweedie_models::{AutoencoderKl, Perceptual, vae::Posterior};
use tweedie_ops::{ConvOptions, conv2d, from_host};

use super::{
    ImageBatch,
    config::{Reconstruction, VaeConfig},
    discriminator::Discriminator,
};
use crate::{error::TrainError, event::Figure};

/// The loss and its networks.
pub(crate) struct Objective {
    config: VaeConfig,
    perceptual: Option<Perceptual>,
    device: Device,
    size: usize,
}

/// The terms of a loss, averaged over a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Parts {
    pub reconstruction: f64,
    pub perceptual: f64,
    pub kl: f64,
    /// Adversarial loss of the autoencoder, before its weight.
    pub adversarial: f64,
    /// Weight of the adversarial loss.
    pub adversarial_weight: f64,
    /// Loss of the discriminator.
    pub discriminator: f64,
}

impl Parts {
    /// Adds another batch with the weight `share`.
    pub fn add(&mut self, other: &Self, share: f64) {
        for (sum, part) in [
            (&mut self.reconstruction, other.reconstruction),
            (&mut self.perceptual, other.perceptual),
            (&mut self.kl, other.kl),
            (&mut self.adversarial, other.adversarial),
            (&mut self.adversarial_weight, other.adversarial_weight),
            (&mut self.discriminator, other.discriminator),
        ] {
            *sum += share * part;
        }
    }

    /// As numbers, in the order of the fields.
    pub fn numbers(&self) -> [f64; 6] {
        let Self { reconstruction, perceptual, kl, adversarial, adversarial_weight, discriminator } = *self;
        [reconstruction, perceptual, kl, adversarial, adversarial_weight, discriminator]
    }

    /// The inverse of [`Parts::numbers`].
    pub fn of(numbers: &[f64]) -> Self {
        let at = |index: usize| numbers.get(index).copied().unwrap_or(f64::NAN);
        let [reconstruction, perceptual, kl] = [0, 1, 2].map(at);
        let [adversarial, adversarial_weight, discriminator] = [3, 4, 5].map(at);
        Self { reconstruction, perceptual, kl, adversarial, adversarial_weight, discriminator }
    }

    /// As figures for the log; those of the discriminator only once it is used (`plays`).
    pub fn figures(&self, config: &VaeConfig, plays: bool) -> Vec<Figure> {
        let mut figures =
            vec![Figure::new("reconstruction", self.reconstruction), Figure::new("kl", self.kl)];
        if config.perceptual > 0.0 {
            figures.push(Figure::new("perceptual", self.perceptual));
        }
        if plays {
            figures.push(Figure::new("adversarial", self.adversarial));
            figures.push(Figure::new("adversarial_weight", self.adversarial_weight));
            figures.push(Figure::new("discriminator", self.discriminator));
        }
        figures
    }
}

/// The loss of a batch.
pub(crate) struct Found {
    /// The weighted sum of the terms, averaged over the batch.
    pub value: f64,
    /// A tensor with the gradient of the loss, for the autoencoder.
    pub graph: Tensor<1>,
    pub parts: Parts,
    /// The decoded images, without autodiff.
    pub decoded: Tensor<4>,
}

impl Objective {
    pub fn new(
        config: &VaeConfig,
        perceptual: Option<Perceptual>,
        size: usize,
        device: &Device,
    ) -> Result<Self, TrainError> {
        if let Some(least) = perceptual.as_ref().map(Perceptual::least).filter(|least| size < *least) {
            let expected = format!("at least {least} for the network of vae.perceptual");
            return Err(TrainError::config("data.size", size, expected));
        }
        Ok(Self { config: config.clone(), perceptual, device: device.clone(), size })
    }

    /// The images of a batch.
    pub fn images(&self, batch: &ImageBatch) -> Tensor<4> {
        from_host(batch.images.clone(), [batch.rows, 3, self.size, self.size], &self.device)
    }

    /// The loss of `batch` for `model`, which must be tracked by autodiff.
    ///
    /// # Errors
    /// If the autoencoder does not support the images.
    pub fn of(
        &self,
        model: &AutoencoderKl,
        discriminator: Option<&Discriminator>,
        batch: &ImageBatch,
    ) -> Result<Found, TrainError> {
        let wrong = |e: tweedie_models::InputError| TrainError::Model(e.to_string());
        let x = self.images(batch);
        let posterior = model.encode(x.clone()).map_err(wrong)?;
        let noise = from_host(batch.noise.clone(), posterior.mean.dims(), &self.device);
        let features = model.decode_features(posterior.sample(noise.autodiff())).map_err(wrong)?;
        let last = features.clone().inner();
        let y = model.finish(features);
        let decoded = y.clone().inner();

        let seen = self.seen(&x, &decoded);
        let mut parts =
            Parts { reconstruction: seen.reconstruction, perceptual: seen.perceptual, ..Parts::default() };
        let mut gradient = seen.gradient;
        if let Some(discriminator) = discriminator {
            let leaf = decoded.clone().autodiff().require_grad();
            let loss = discriminator.forward(leaf.clone()).mean().neg();
            parts.adversarial = number(&loss);
            let adversarial = slope(&leaf, loss);
            let c = &self.config.adversarial;
            parts.adversarial_weight = c.weight;
            if c.adaptive {
                let at = |gradient: &Tensor<4>| last_layer_norm(model, &last, gradient);
                parts.adversarial_weight *= (at(&gradient) / (at(&adversarial) + 1e-4)).clamp(0.0, 1e4);
            }
            gradient = gradient + adversarial.mul_scalar(parts.adversarial_weight as f32);
        }
        let kl = divergence(&posterior).mean();
        parts.kl = number(&kl);
        let c = &self.config;
        Ok(Found {
            value: parts.reconstruction
                + c.perceptual * parts.perceptual
                + c.kl * parts.kl
                + parts.adversarial_weight * parts.adversarial,
            graph: (y * gradient.autodiff()).sum() + kl.mul_scalar(c.kl as f32),
            parts,
            decoded,
        })
    }

    /// The loss of `decoded` with respect to `x` without autodiff: the weighted sum and its terms.
    pub fn distance(&self, x: &Tensor<4>, decoded: &Tensor<4>) -> (f64, Parts) {
        let reconstruction = number(&self.pixels(x, decoded));
        let perceptual = match &self.perceptual {
            Some(network) => {
                number(&network.distance(&network.see(x.clone()), &network.see(decoded.clone())))
            }
            None => 0.0,
        };
        let value = reconstruction + self.config.perceptual * perceptual;
        (value, Parts { reconstruction, perceptual, ..Parts::default() })
    }

    fn pixels(&self, x: &Tensor<4>, y: &Tensor<4>) -> Tensor<1> {
        let difference = y.clone() - x.clone();
        match self.config.reconstruction {
            Reconstruction::L1 => difference.abs().mean(),
            Reconstruction::L2 => (difference.clone() * difference).mean(),
        }
    }

    /// The losses of decoded images that use the originals, and the gradient of their weighted sum.
    fn seen(&self, x: &Tensor<4>, decoded: &Tensor<4>) -> Seen {
        let leaf = decoded.clone().autodiff().require_grad();
        let pixels = self.pixels(&x.clone().autodiff(), &leaf);
        let reconstruction = number(&pixels);
        let Some(network) = &self.perceptual else {
            return Seen { reconstruction, perceptual: 0.0, gradient: slope(&leaf, pixels) };
        };
        let distance = network.distance(&network.see(x.clone()), &network.see(leaf.clone()));
        let perceptual = number(&distance);
        let sum = pixels + distance.mul_scalar(self.config.perceptual as f32);
        Seen { reconstruction, perceptual, gradient: slope(&leaf, sum) }
    }
}

struct Seen {
    reconstruction: f64,
    perceptual: f64,
    gradient: Tensor<4>,
}

/// The divergence of each latent value from a standard normal, in nats (Kingma & Welling 2014, arXiv:1312.6114, app. B).
pub(crate) fn divergence(posterior: &Posterior) -> Tensor<4> {
    let Posterior { mean, logvar } = posterior;
    let sum = mean.clone() * mean.clone() + logvar.clone().exp() - logvar.clone();
    sum.sub_scalar(1.0f32).mul_scalar(0.5f32)
}

/// The norm of the gradient of the decoder's last layer, with input `features` and output gradient `gradient`.
fn last_layer_norm(model: &AutoencoderKl, features: &Tensor<4>, gradient: &Tensor<4>) -> f64 {
    let weight = model.last_weight().inner().autodiff().require_grad();
    let y = conv2d(features.clone(), weight.clone(), None, ConvOptions::same(1));
    let gradients = (y * gradient.clone().autodiff()).sum().backward();
    let found = weight.grad(&gradients).map(|g| number(&(g.clone() * g).sum()));
    found.unwrap_or_default().sqrt()
}

/// The gradient of `loss` with respect to `leaf`.
fn slope(leaf: &Tensor<4>, loss: Tensor<1>) -> Tensor<4> {
    let gradients = loss.backward();
    leaf.grad(&gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

pub(crate) fn number(x: &Tensor<1>) -> f64 {
    f64::from(x.clone().into_scalar::<f32>())
}
