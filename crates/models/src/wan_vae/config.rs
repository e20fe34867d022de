//! The configuration of an [`AutoencoderKlWan`](super::AutoencoderKlWan) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::config::{self, ConfigError, Format, in_range};

/// Keys whose other values belong to autoencoders that are not supported, such as Wan 2.2's for 5B.
const FIXED: [(&str, &str); 3] = [("attn_scales", "[]"), ("is_residual", "false"), ("patch_size", "null")];
/// Frames per latent after the first, which is alone.
pub(super) const GROUP: usize = 4;
const MAX: usize = 1 << 16;

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKlWanConfig {
    /// Channels of the encoder at the highest resolution, before `dim_mult`.
    pub base_dim: usize,
    /// The same for the decoder, by default as in the encoder.
    pub decoder_base_dim: Option<usize>,
    /// Channels of the latents.
    pub z_dim: usize,
    /// Channels at each resolution, from the highest, in multiples of `base_dim`.
    pub dim_mult: Vec<usize>,
    /// Residual layers at each resolution of the encoder; one more in the decoder.
    pub num_res_blocks: usize,
    /// Whether the encoder halves the number of frames, too, where it halves the resolution; two of them.
    pub temperal_downsample: Vec<bool>,
    /// Unused; for training.
    pub dropout: f64,
    /// Mean of each channel of the latents. Diffusion uses `(latents − mean)/std`.
    pub latents_mean: Vec<f64>,
    /// See `latents_mean`.
    pub latents_std: Vec<f64>,
    /// Channels of the frames.
    pub in_channels: usize,
    /// Channels of the decoded frames.
    pub out_channels: usize,
    /// Frames per latent after the first: 4.
    pub scale_factor_temporal: usize,
    /// Height and width of a latent in pixels, which follows from `dim_mult`.
    pub scale_factor_spatial: usize,
}

impl Default for AutoencoderKlWanConfig {
    fn default() -> Self {
        Self {
            base_dim: 96,
            decoder_base_dim: None,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            temperal_downsample: vec![false, true, true],
            dropout: 0.0,
            latents_mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134, -0.0715, 0.5517,
                -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
            ],
            latents_std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652,
                1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
            ],
            in_channels: 3,
            out_channels: 3,
            scale_factor_temporal: GROUP,
            scale_factor_spatial: 8,
        }
    }
}

impl AutoencoderKlWanConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "AutoencoderKLWan";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to an autoencoder that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::read(text, &Format { class: Self::CLASS, harmless: &[], fixed: &FIXED })?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that an autoencoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("base_dim", self.base_dim, 1, MAX),
            ("decoder_base_dim", self.decoder_base(), 1, MAX),
            ("z_dim", self.z_dim, 1, MAX),
            ("num_res_blocks", self.num_res_blocks, 1, 64),
            ("in_channels", self.in_channels, 1, MAX),
            ("out_channels", self.out_channels, 1, MAX),
        ])?;
        let levels = self.dim_mult.len();
        if !(3..=12).contains(&levels) || self.dim_mult.iter().any(|n| !(1..=256).contains(n)) {
            return Err(ConfigError::value(
                "dim_mult",
                &self.dim_mult,
                "expected 3 to 12 entries from 1 to 256",
            ));
        }
        let halved = self.temperal_downsample.iter().filter(|halved| **halved).count();
        if self.temperal_downsample.len() + 1 != levels || halved != 2 {
            let reason = format!("expected {} entries, of which two are true", levels - 1);
            return Err(ConfigError::value("temperal_downsample", &self.temperal_downsample, reason));
        }
        for (key, value, expected) in [
            ("scale_factor_temporal", self.scale_factor_temporal, GROUP),
            ("scale_factor_spatial", self.scale_factor_spatial, self.stride()),
        ] {
            if value != expected {
                return Err(ConfigError::value(key, value, format!("expected {expected}")));
            }
        }
        // All widths of the decoder but that of the highest resolution are halved.
        if self.dim_mult.iter().skip(1).any(|n| !(n * self.decoder_base()).is_multiple_of(2)) {
            let reason = "expected even numbers of channels after multiplication with `dim_mult`";
            return Err(ConfigError::value("decoder_base_dim", self.decoder_base(), reason));
        }
        for (key, list) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            let usable = |v: &f64| v.is_finite() && (key == "latents_mean" || *v > 0.0);
            if list.len() != self.z_dim || !list.iter().all(usable) {
                let sign = if key == "latents_std" { " above 0" } else { "" };
                let reason = format!("expected {} finite values{sign}, one per channel", self.z_dim);
                return Err(ConfigError::value(key, list, reason));
            }
        }
        Ok(())
    }

    pub(super) fn decoder_base(&self) -> usize {
        self.decoder_base_dim.unwrap_or(self.base_dim)
    }

    /// Height and width of a latent in pixels.
    pub fn stride(&self) -> usize {
        1 << self.dim_mult.len().saturating_sub(1)
    }
}
