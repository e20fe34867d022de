//! The configuration of a [`DitTransformer`](super::DitTransformer), as diffusers' `config.json` has it.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 2] = [("norm_type", "\"ada_norm_zero\""), ("norm_elementwise_affine", "false")];

/// The keys of `config.json`. Keys that are left out have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DitConfig {
    /// Heads of the attention.
    pub num_attention_heads: usize,
    /// Channels of a head; times the heads, the width of a token.
    pub attention_head_dim: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output, those of the input if not given: twice as many where a variance is learned.
    pub out_channels: Option<usize>,
    /// Layers.
    pub num_layers: usize,
    /// Probability of dropout while training; nothing here is trained with it yet.
    pub dropout: f64,
    /// Not read.
    pub norm_num_groups: usize,
    /// Whether queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Side of the samples: the network takes no others.
    pub sample_size: usize,
    /// Side of the squares that become tokens.
    pub patch_size: usize,
    /// Activation between the linear maps of a layer.
    pub activation_fn: Activation,
    /// Classes. One more stands for none.
    pub num_embeds_ada_norm: usize,
    /// Whether half precision overflows in attention.
    pub upcast_attention: bool,
    /// Added to variances before the linear maps.
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
    /// diffusers' name of the class.
    pub const CLASS: &'static str = "DiTTransformer2DModel";

    /// Reads `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, in contradiction to others, or of a kind of network that
    /// is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &FIXED };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// `config.json`, as diffusers reads it.
    pub fn to_json(&self) -> String {
        let mut entries = config::entries_of(self);
        if self.activation_fn == Activation::GeluTanh {
            // The only name of it that diffusers' transformers know.
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

    /// Whether a network can be built from this.
    ///
    /// # Errors
    /// Names the key and its value, and says what was expected.
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
            let reason = format!("samples of side {} do not divide into such squares", self.sample_size);
            return Err(ConfigError::value("patch_size", self.patch_size, reason));
        }
        // Sines and cosines of two coordinates.
        if !self.width().is_multiple_of(4) {
            let reason = "times the heads, expected a multiple of 4";
            return Err(ConfigError::value("attention_head_dim", self.attention_head_dim, reason));
        }
        Ok(())
    }
}
