//! The `[vae]` table and its networks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tweedie_models::{
    AutoencoderKlConfig,
    unet::SampleSize,
    vae::{DecoderBlockType, EncoderBlockType},
};

use crate::{config::RunConfig, error::TrainError};

/// An autoencoder and its loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaeConfig {
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels at each resolution, from the highest; each resolution is half the previous one.
    pub channels: Vec<usize>,
    /// Residual layers per resolution in the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of the group normalizations; must divide all `channels`.
    pub norm_groups: usize,
    /// Whether to use attention at the lowest resolution.
    pub mid_attention: bool,
    /// Pixel loss.
    pub reconstruction: Reconstruction,
    /// Weight of the perceptual distance; 0 turns it off.
    pub perceptual: f64,
    /// Safetensors file with the weights of LPIPS or of torchvision's VGG-16 for the perceptual distance; if empty, the
    /// built-in encoder is used.
    pub perceptual_weights: PathBuf,
    /// Weight of the KL divergence of the latents from a standard normal, in nats per latent value.
    pub kl: f64,
    /// The discriminator and its loss.
    pub adversarial: AdversarialConfig,
}

/// The pixel loss, for values in −1..1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reconstruction {
    /// The mean absolute difference.
    #[default]
    L1,
    /// The mean squared difference.
    L2,
}

/// The `[vae.adversarial]` table: a discriminator of patches (Isola et al. 2017, arXiv:1611.07004), with the hinge
/// loss (Lim & Ye 2017, arXiv:1705.02894).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdversarialConfig {
    /// Weight of the adversarial loss; 0 turns it off.
    pub weight: f64,
    /// Whether to scale the weight such that the gradient at the decoder's last layer has the same norm as that of the
    /// reconstruction loss (Esser et al. 2021, arXiv:2012.09841, eq. 7).
    pub adaptive: bool,
    /// Number of steps before the adversarial loss is used.
    pub start: u64,
    /// Channels of the first layer, a multiple of 8; doubled in each further layer, up to eight times.
    pub channels: usize,
    /// Number of layers with stride 2, at least 1.
    pub layers: usize,
}

impl Default for AdversarialConfig {
    fn default() -> Self {
        Self { weight: 0.0, adaptive: true, start: 0, channels: 32, layers: 2 }
    }
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            latent_channels: 4,
            channels: vec![32, 64, 128],
            layers_per_block: 1,
            norm_groups: 8,
            mid_attention: true,
            reconstruction: Reconstruction::L1,
            perceptual: 0.5,
            perceptual_weights: PathBuf::new(),
            kl: 1e-4,
            adversarial: AdversarialConfig::default(),
        }
    }
}

impl VaeConfig {
    pub(crate) fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        for (key, value) in [
            ("vae.perceptual", self.perceptual),
            ("vae.kl", self.kl),
            ("vae.adversarial.weight", self.adversarial.weight),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(TrainError::config(key, value, "a value ≥ 0"));
            }
        }
        let AdversarialConfig { channels, layers, .. } = self.adversarial;
        if !(channels > 0 && channels <= 1 << 12 && channels.is_multiple_of(8)) {
            return Err(TrainError::config(
                "vae.adversarial.channels",
                channels,
                "a multiple of 8, at most 4096",
            ));
        }
        if !(1..=8).contains(&layers) {
            return Err(TrainError::config("vae.adversarial.layers", layers, "1 to 8"));
        }
        let size = config.data.size;
        if self.adversarial.weight > 0.0 && (size >> layers) < 3 {
            let expected = format!("fewer layers for images of data.size = {size} pixels");
            return Err(TrainError::config("vae.adversarial.layers", layers, expected));
        }
        if config.run.precision != Default::default() {
            return Err(TrainError::config("run.precision", config.run.precision, "f32"));
        }
        let network = self.autoencoder(size);
        network.validate().map_err(|e| TrainError::Model(format!("vae: {e}")))?;
        let stride = network.stride();
        if !size.is_multiple_of(stride) {
            let expected = format!("a multiple of {stride}, the downsampling factor of the autoencoder");
            return Err(TrainError::config("data.size", size, expected));
        }
        Ok(())
    }

    /// The autoencoder for images of `size`×`size`.
    pub(crate) fn autoencoder(&self, size: usize) -> AutoencoderKlConfig {
        let levels = self.channels.len();
        AutoencoderKlConfig {
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D; levels],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; levels],
            block_out_channels: self.channels.clone(),
            layers_per_block: self.layers_per_block,
            latent_channels: self.latent_channels,
            norm_num_groups: self.norm_groups,
            sample_size: SampleSize::Square(size),
            // Measured at the end of the run.
            scaling_factor: 1.0,
            mid_block_add_attention: self.mid_attention,
            force_upcast: false,
            ..AutoencoderKlConfig::default()
        }
    }
}
