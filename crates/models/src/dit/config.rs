//! The configuration of a [`DitTransformer`](super::DitTransformer) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 2] = [("norm_type", "\"ada_norm_zero\""), ("norm_elementwise_affine", "false")];

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DitConfig {
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Channels per head; the width of a token is this times the heads.
    pub attention_head_dim: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output, by default those of the input; twice as many for a learned variance.
    pub out_channels: Option<usize>,
    /// Number of layers.
    pub num_layers: usize,
    /// Dropout probability in training. Training DiT is not supported yet.
    pub dropout: f64,
    /// Unused.
    pub norm_num_groups: usize,
    /// Whether queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Height and width of the samples. Other sizes are not supported.
    pub sample_size: usize,
    /// Height and width of the patches that become tokens.
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    pub activation_fn: Activation,
    /// Number of classes, without the additional one for no class.
    pub num_embeds_ada_norm: usize,
    /// Unused; for half precision.
    pub upcast_attention: bool,
    /// Added to variances before the feed-forward layers.
    pub norm_eps: f64,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            dropout: 0.0,
            norm_num_groups: 32,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: Activation::GeluTanh,
            num_embeds_ada_norm: 1000,
            upcast_attention: false,
            norm_eps: 1e-5,
        }
    }
}

impl DitConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "DiTTransformer2DModel";

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
        let mut entries = config::entries_of(self);
        if self.activation_fn == Activation::GeluTanh {
            // The only name for it in diffusers' transformers.
            entries.insert("activation_fn".into(), "gelu-approximate".into());
        }
        config::write(&entries, Self::CLASS)
    }

    /// Width of a token.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the output.
    pub fn outputs(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MAX: usize = 1 << 16;
        in_range(&[
            ("num_attention_heads", self.num_attention_heads, 1, MAX),
            ("attention_head_dim", self.attention_head_dim, 1, MAX),
            ("in_channels", self.in_channels, 1, MAX),
            ("out_channels", self.outputs(), 1, MAX),
            ("num_layers", self.num_layers, 1, 1024),
            ("sample_size", self.sample_size, 1, MAX),
            ("patch_size", self.patch_size, 1, MAX),
            ("num_embeds_ada_norm", self.num_embeds_ada_norm, 1, 1 << 32),
        ])?;
        if !self.sample_size.is_multiple_of(self.patch_size) {
            let reason = format!("expected a divisor of `sample_size` ({})", self.sample_size);
            return Err(ConfigError::value("patch_size", self.patch_size, reason));
        }
        // Positions use sines and cosines of two coordinates.
        if !self.width().is_multiple_of(4) {
            let reason = "expected a value that gives a multiple of 4 when multiplied by the heads";
            return Err(ConfigError::value("attention_head_dim", self.attention_head_dim, reason));
        }
        Ok(())
    }
}
