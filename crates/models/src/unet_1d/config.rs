//! The configuration of a [`UNet1DModel`](super::UNet1DModel) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use super::blocks::heads;
use crate::config::{self, ConfigError, Format, in_range};

/// Keys whose other values belong to networks that are not supported: those for reinforcement learning.
const FIXED: [(&str, &str); 5] = [
    ("time_embedding_type", "\"fourier\""),
    ("use_timestep_embedding", "false"),
    ("mid_block_type", "\"UNetMidBlock1D\""),
    ("out_block_type", "null"),
    ("downsample_each_block", "false"),
];

/// More blocks would need samples of more than `3·2²⁴` values.
const MAX_BLOCKS: usize = 24;

/// A block of the down path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)]
pub enum DownBlock1DType {
    /// Reads the sample and the time at the full length. Always the first block, and only that.
    DownBlock1DNoSkip,
    /// Halves the length.
    DownBlock1D,
    /// Halves the length; attention follows every residual layer.
    AttnDownBlock1D,
}

/// A block of the up path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)]
pub enum UpBlock1DType {
    /// Doubles the length; attention follows every residual layer.
    AttnUpBlock1D,
    /// Doubles the length.
    UpBlock1D,
    /// Ends the network at the full length. Always the last block, and only that.
    UpBlock1DNoSkip,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet1DConfig {
    /// Length of the samples in training; others are possible.
    pub sample_size: usize,
    /// Values per second of the samples, in Hz.
    pub sample_rate: Option<usize>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the time embedding, whose channels follow those of the input.
    pub extra_in_channels: usize,
    /// The same as `extra_in_channels`, if present. diffusers' default is twice the channels of the first block, which does
    /// not match published networks: they are older than this key.
    pub time_embedding_dim: Option<usize>,
    /// Whether cosines come before sines in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Unused; for positional time embeddings.
    pub freq_shift: f64,
    /// Blocks of the down path.
    pub down_block_types: Vec<DownBlock1DType>,
    /// Blocks of the up path.
    pub up_block_types: Vec<UpBlock1DType>,
    /// Channels at each length, the longest first.
    pub block_out_channels: Vec<usize>,
    /// Unused; for other blocks.
    pub act_fn: Option<String>,
    /// Unused; for other blocks.
    pub norm_num_groups: Option<usize>,
    /// Unused; for other blocks.
    pub layers_per_block: usize,
}

impl Default for UNet1DConfig {
    fn default() -> Self {
        use {DownBlock1DType as Down, UpBlock1DType as Up};
        Self {
            sample_size: 65536,
            sample_rate: None,
            in_channels: 2,
            out_channels: 2,
            extra_in_channels: 0,
            time_embedding_dim: None,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![Down::DownBlock1DNoSkip, Down::DownBlock1D, Down::AttnDownBlock1D],
            up_block_types: vec![Up::AttnUpBlock1D, Up::UpBlock1D, Up::UpBlock1DNoSkip],
            block_out_channels: vec![32, 32, 64],
            act_fn: None,
            norm_num_groups: Some(8),
            layers_per_block: 1,
        }
    }
}

impl UNet1DConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "UNet1DModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to a network that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &FIXED };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        // Without this key, present versions of diffusers assume another width.
        let config = Self { time_embedding_dim: Some(self.extra_in_channels), ..self.clone() };
        config::write(&config, Self::CLASS)
    }

    /// The length that corresponds to one position at the lowest resolution, in the middle. Lengths must be multiples of it.
    pub fn stride(&self) -> usize {
        1 << self.block_out_channels.len()
    }

    /// The least length: mirror padding needs three positions in the middle.
    pub fn least(&self) -> usize {
        3 * self.stride()
    }

    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MAX: usize = 1 << 16;
        in_range(&[
            ("sample_size", self.sample_size, 1, 1 << 40),
            ("in_channels", self.in_channels, 1, MAX),
            ("out_channels", self.out_channels, 1, MAX),
        ])?;
        let width = self.extra_in_channels;
        if width == 0 || width > MAX || !width.is_multiple_of(2) {
            let reason =
                format!("expected the width of the time embedding, an even value between 2 and {MAX}");
            return Err(ConfigError::value("extra_in_channels", width, reason));
        }
        if let Some(other) = self.time_embedding_dim.filter(|other| *other != width) {
            let reason = format!("expected the value of `extra_in_channels` ({width})");
            return Err(ConfigError::value("time_embedding_dim", other, reason));
        }
        self.check_blocks()?;
        self.check_widths(MAX)
    }

    /// Checks that both paths have the same lengths: only the first and the last block do not change the length.
    fn check_blocks(&self) -> Result<(), ConfigError> {
        let (widths, downs, ups) = (&self.block_out_channels, &self.down_block_types, &self.up_block_types);
        if widths.is_empty() || widths.len() > MAX_BLOCKS {
            let reason = format!("expected 1 to {MAX_BLOCKS} entries");
            return Err(ConfigError::value("block_out_channels", widths, reason));
        }
        let blocks = widths.len();
        let count = format!("expected {blocks} blocks, one for each entry of `block_out_channels`");
        if downs.len() != blocks {
            return Err(ConfigError::value("down_block_types", downs, count));
        }
        if ups.len() != blocks {
            return Err(ConfigError::value("up_block_types", ups, count));
        }
        let full = |i: usize| downs[i] == DownBlock1DType::DownBlock1DNoSkip;
        if !full(0) || (1..blocks).any(full) {
            let reason = "expected `DownBlock1DNoSkip` as the first block and nowhere else";
            return Err(ConfigError::value("down_block_types", downs, reason));
        }
        let full = |i: usize| ups[i] == UpBlock1DType::UpBlock1DNoSkip;
        if !full(blocks - 1) || (0..blocks - 1).any(full) {
            let reason = "expected `UpBlock1DNoSkip` as the last block and nowhere else";
            return Err(ConfigError::value("up_block_types", ups, reason));
        }
        Ok(())
    }

    /// Checks channels, also that they can be divided into heads where there is attention.
    fn check_widths(&self, most: usize) -> Result<(), ConfigError> {
        let (widths, last) = (&self.block_out_channels, self.block_out_channels.len() - 1);
        let wrong = |reason: String| Err(ConfigError::value("block_out_channels", widths, reason));
        if widths.iter().any(|width| *width == 0 || *width > most) {
            return wrong(format!("expected channels between 1 and {most}"));
        }
        for (level, &width) in widths.iter().enumerate() {
            let down = self.down_block_types[level] == DownBlock1DType::AttnDownBlock1D;
            let up = level < last && self.up_block_types[last - 1 - level] == UpBlock1DType::AttnUpBlock1D;
            let attends = down || up || level == last;
            if attends && heads(width).is_none() {
                return wrong(format!(
                    "entry {level} belongs to attention, which has one head per 32 channels; expected a multiple of 32 \
                     instead of {width}"
                ));
            }
        }
        Ok(())
    }
}
