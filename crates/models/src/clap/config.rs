//! The configuration of a [`ClapTextModel`](super::ClapTextModel) in the format of transformers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
};

/// Keys of transformers that do not affect the output.
const HARMLESS: [&str; 22] = [
    "add_cross_attention",
    "architectures",
    "attention_probs_dropout_prob",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "eos_token_id",
    "fusion_hidden_size",
    "fusion_num_hidden_layers",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "type_vocab_size",
    "use_cache",
];
const FIXED: [(&str, &str); 2] = [("is_decoder", "false"), ("position_embedding_type", "\"absolute\"")];

/// The keys of `config.json`. Missing keys have transformers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClapTextConfig {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Entries of the table of positions, of which the first `pad_token_id + 1` are not used.
    pub max_position_embeddings: usize,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Width of the projected output.
    pub projection_dim: usize,
    /// Activation of the projection.
    pub projection_hidden_act: Activation,
    /// The token that fills up texts.
    pub pad_token_id: u32,
}

impl Default for ClapTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 50265,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            max_position_embeddings: 514,
            layer_norm_eps: 1e-12,
            projection_dim: 512,
            projection_hidden_act: Activation::Relu,
            pad_token_id: 1,
        }
    }
}

impl ClapTextConfig {
    /// The class in transformers.
    pub const CLASS: &str = "ClapTextModelWithProjection";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &HARMLESS, fixed: &FIXED };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that an encoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MAX: usize = 1 << 20;
        in_range(&[
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("hidden_size", self.hidden_size, 1, MAX),
            ("num_hidden_layers", self.num_hidden_layers, 1, 256),
            ("num_attention_heads", self.num_attention_heads, 1, MAX),
            ("intermediate_size", self.intermediate_size, 1, MAX),
            ("projection_dim", self.projection_dim, 1, MAX),
            ("max_position_embeddings", self.max_position_embeddings, self.pad_token_id as usize + 2, MAX),
        ])?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let reason = format!("expected a divisor of the width {}", self.hidden_size);
            return Err(ConfigError::value("num_attention_heads", self.num_attention_heads, reason));
        }
        Ok(())
    }

    /// Maximum number of tokens in a text.
    pub fn most_tokens(&self) -> usize {
        self.max_position_embeddings - 1 - self.pad_token_id as usize
    }
}
