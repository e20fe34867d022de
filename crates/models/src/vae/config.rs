//! Configurations of autoencoders in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
    unet::SampleSize,
};

const MAX_WIDTH: usize = 1 << 20;
const MAX_BLOCKS: usize = 12;

/// A block of the encoder. Each but the last halves the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncoderBlockType {
    /// Residual layers.
    DownEncoderBlock2D,
}

/// A block of the decoder. Each but the last doubles the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecoderBlockType {
    /// Residual layers.
    UpDecoderBlock2D,
}

/// The keys of an `AutoencoderKL`'s `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKlConfig {
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the decoded images.
    pub out_channels: usize,
    /// The blocks of the encoder.
    pub down_block_types: Vec<EncoderBlockType>,
    /// The blocks of the decoder.
    pub up_block_types: Vec<DecoderBlockType>,
    /// Channels at each resolution, from the highest.
    pub block_out_channels: Vec<usize>,
    /// Residual layers in each block of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Activation of the residual layers.
    pub act_fn: Activation,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of the group normalizations.
    pub norm_num_groups: usize,
    /// Size of the training images; other sizes are supported too. Tiled processing uses tiles of this size.
    pub sample_size: SampleSize,
    /// Diffusion uses `(latents − shift_factor)·scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`.
    pub shift_factor: Option<f64>,
    /// Mean of each channel of the latents. With `latents_std`, diffusion uses `(latents − mean)·scaling_factor/std`.
    pub latents_mean: Option<Vec<f64>>,
    /// See `latents_mean`.
    pub latents_std: Option<Vec<f64>>,
    /// Unused; for half precision.
    pub force_upcast: bool,
    /// Whether a 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle blocks have attention.
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: Activation::Silu,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: SampleSize::Square(32),
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "AutoencoderKL";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &[] };
        let config: Self = config::read(text, &format)?;
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
        let blocks = self.block_out_channels.len();
        check_widths("block_out_channels", &self.block_out_channels)?;
        for (key, found) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if found != blocks {
                let reason = format!("expected {blocks} blocks, one for each entry of `block_out_channels`");
                return Err(ConfigError::value(key, found, reason));
            }
        }
        in_range(&[
            ("in_channels", self.in_channels, 1, MAX_WIDTH),
            ("out_channels", self.out_channels, 1, MAX_WIDTH),
            ("latent_channels", self.latent_channels, 1, MAX_WIDTH),
            ("layers_per_block", self.layers_per_block, 1, 64),
            ("norm_num_groups", self.norm_num_groups, 1, MAX_WIDTH),
        ])?;
        if let Some(width) = self.block_out_channels.iter().find(|w| **w % self.norm_num_groups != 0) {
            let reason = format!("expected a divisor of {width} channels");
            return Err(ConfigError::value("norm_num_groups", self.norm_num_groups, reason));
        }
        check_scale("scaling_factor", self.scaling_factor)?;
        if let Some(shift) = self.shift_factor.filter(|s| !s.is_finite()) {
            return Err(ConfigError::value("shift_factor", shift, "expected a finite value"));
        }
        for (key, list) in [("latents_mean", &self.latents_mean), ("latents_std", &self.latents_std)] {
            if let Some(list) = list.as_ref().filter(|list| list.len() != self.latent_channels) {
                let reason = format!("expected {} values, one per channel", self.latent_channels);
                return Err(ConfigError::value(key, list, reason));
            }
        }
        Ok(())
    }

    /// The size in image pixels that corresponds to one pixel of the latents.
    pub fn stride(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }
}

/// The keys of an `AutoencoderTiny`'s `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderTinyConfig {
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the decoded images.
    pub out_channels: usize,
    /// Channels of each stage of the encoder.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of each stage of the decoder.
    pub decoder_block_out_channels: Vec<usize>,
    /// Activation of the blocks.
    pub act_fn: Activation,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Upsampling factor of each stage of the decoder.
    pub upsampling_scaling_factor: usize,
    /// Blocks in each stage of the encoder.
    pub num_encoder_blocks: Vec<usize>,
    /// Blocks in each stage of the decoder.
    pub num_decoder_blocks: Vec<usize>,
    /// Unused; range of latents stored as bytes.
    pub latent_magnitude: f64,
    /// Unused; offset of latents stored as bytes.
    pub latent_shift: f64,
    /// Unused; for half precision.
    pub force_upcast: bool,
    /// Diffusion uses `(latents − shift_factor)·scaling_factor`.
    pub scaling_factor: f64,
    /// See `scaling_factor`.
    pub shift_factor: f64,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: Activation::Relu,
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            force_upcast: false,
            scaling_factor: 1.0,
            shift_factor: 0.0,
        }
    }
}

impl AutoencoderTinyConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "AutoencoderTiny";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format {
            class: Self::CLASS,
            harmless: &["block_out_channels"],
            fixed: &[("upsample_fn", "\"nearest\"")],
        };
        let config: Self = config::read(text, &format)?;
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
        for (key, widths, counts_key, counts) in [
            (
                "encoder_block_out_channels",
                &self.encoder_block_out_channels,
                "num_encoder_blocks",
                &self.num_encoder_blocks,
            ),
            (
                "decoder_block_out_channels",
                &self.decoder_block_out_channels,
                "num_decoder_blocks",
                &self.num_decoder_blocks,
            ),
        ] {
            check_widths(key, widths)?;
            if let Some(pair) = widths.windows(2).find(|w| w[0] != w[1]) {
                let reason =
                    format!("expected the same channels in all stages, got {} after {}", pair[1], pair[0]);
                return Err(ConfigError::value(key, widths, reason));
            }
            if counts.len() != widths.len() || counts.iter().any(|n| *n > 64) {
                let reason = format!("expected {} values up to 64, one per stage", widths.len());
                return Err(ConfigError::value(counts_key, counts, reason));
            }
        }
        if self.encoder_block_out_channels.len() != self.decoder_block_out_channels.len() {
            let reason = "expected as many stages as in the encoder";
            return Err(ConfigError::value(
                "decoder_block_out_channels",
                &self.decoder_block_out_channels,
                reason,
            ));
        }
        in_range(&[
            ("in_channels", self.in_channels, 1, MAX_WIDTH),
            ("out_channels", self.out_channels, 1, MAX_WIDTH),
            ("latent_channels", self.latent_channels, 1, MAX_WIDTH),
            ("upsampling_scaling_factor", self.upsampling_scaling_factor, 2, 2),
        ])?;
        check_scale("scaling_factor", self.scaling_factor)
    }

    /// The size in image pixels that corresponds to one pixel of the latents.
    pub fn stride(&self) -> usize {
        1 << self.encoder_block_out_channels.len().saturating_sub(1)
    }
}

fn check_widths(key: &str, widths: &[usize]) -> Result<(), ConfigError> {
    let fits = (1..=MAX_BLOCKS).contains(&widths.len()) && widths.iter().all(|w| (1..=MAX_WIDTH).contains(w));
    let reason = format!("expected 1 to {MAX_BLOCKS} entries between 1 and {MAX_WIDTH}");
    if fits { Ok(()) } else { Err(ConfigError::value(key, widths, reason)) }
}

fn check_scale(key: &str, value: f64) -> Result<(), ConfigError> {
    let reason = "expected a finite value other than 0";
    if value.is_finite() && value != 0.0 { Ok(()) } else { Err(ConfigError::value(key, value, reason)) }
}
