//! Configurations of Stable Audio's networks in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::config::{self, ConfigError, Format, in_range};

const MAX: usize = 1 << 20;

/// The keys of a `StableAudioDiTModel`'s `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StableAudioDitConfig {
    /// Length of the latents.
    pub sample_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Width of a head, a multiple of 4.
    pub attention_head_dim: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Number of heads of keys and values in the attention to the text, a divisor of `num_attention_heads`.
    pub num_key_value_attention_heads: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Width of the text features in the attention to them.
    pub cross_attention_dim: usize,
    /// Width of the embedding of the time.
    pub time_proj_dim: usize,
    /// Width of the vector that is added to the embedding of the time.
    pub global_states_input_dim: usize,
    /// Width of the text features.
    pub cross_attention_input_dim: usize,
}

impl Default for StableAudioDitConfig {
    fn default() -> Self {
        Self {
            sample_size: 1024,
            in_channels: 64,
            num_layers: 24,
            attention_head_dim: 64,
            num_attention_heads: 24,
            num_key_value_attention_heads: 12,
            out_channels: 64,
            cross_attention_dim: 768,
            time_proj_dim: 256,
            global_states_input_dim: 1536,
            cross_attention_input_dim: 768,
        }
    }
}

impl StableAudioDitConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "StableAudioDiTModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::read(text, &Format { class: Self::CLASS, harmless: &[], fixed: &[] })?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("sample_size", self.sample_size, 1, 1 << 24),
            ("in_channels", self.in_channels, 1, MAX),
            ("num_layers", self.num_layers, 1, 256),
            ("attention_head_dim", self.attention_head_dim, 4, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 12),
            ("num_key_value_attention_heads", self.num_key_value_attention_heads, 1, 1 << 12),
            ("out_channels", self.out_channels, 1, MAX),
            ("cross_attention_dim", self.cross_attention_dim, 1, MAX),
            ("time_proj_dim", self.time_proj_dim, 2, MAX),
            ("global_states_input_dim", self.global_states_input_dim, 1, MAX),
            ("cross_attention_input_dim", self.cross_attention_input_dim, 1, MAX),
        ])?;
        let heads = self.num_attention_heads;
        for (key, value, ok, expected) in [
            (
                "attention_head_dim",
                self.attention_head_dim,
                self.attention_head_dim.is_multiple_of(4),
                "a multiple of 4".to_owned(),
            ),
            (
                "num_key_value_attention_heads",
                self.num_key_value_attention_heads,
                heads.is_multiple_of(self.num_key_value_attention_heads),
                format!("a divisor of the {heads} heads"),
            ),
            (
                "time_proj_dim",
                self.time_proj_dim,
                self.time_proj_dim.is_multiple_of(2),
                "an even number".into(),
            ),
        ] {
            if !ok {
                return Err(ConfigError::value(key, value, format!("expected {expected}")));
            }
        }
        Ok(())
    }

    /// Width of a token.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }
}

/// The keys of a `StableAudioProjectionModel`'s `config.json`; all are needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StableAudioProjectionConfig {
    /// Width of the text encoder's features.
    pub text_encoder_dim: usize,
    /// Width of the features that the network reads.
    pub conditioning_dim: usize,
    /// The earliest second.
    pub min_value: f64,
    /// The last second.
    pub max_value: f64,
}

impl StableAudioProjectionConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "StableAudioProjectionModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, missing, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::read(text, &Format { class: Self::CLASS, harmless: &[], fixed: &[] })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that the layers can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("text_encoder_dim", self.text_encoder_dim, 1, MAX),
            ("conditioning_dim", self.conditioning_dim, 1, MAX),
        ])?;
        match self.min_value.is_finite() && self.max_value.is_finite() && self.min_value < self.max_value {
            true => Ok(()),
            false => {
                let reason = format!("expected more than `min_value`, {}", self.min_value);
                Err(ConfigError::value("max_value", self.max_value, reason))
            }
        }
    }
}
