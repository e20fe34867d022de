//! The configuration of a text encoder in the format of transformers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
};

/// Keys of transformers that do not affect the output.
const HARMLESS: [&str; 14] = [
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "gradient_checkpointing",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers_version",
];

/// The keys of `config.json`. Missing keys have transformers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Class in transformers: `CLIPTextModel`, or `CLIPTextModelWithProjection`, whose pooled output is projected to
    /// `projection_dim` values.
    pub architectures: Vec<String>,
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Width of a token.
    pub hidden_size: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Width of the projected output.
    pub projection_dim: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Maximum number of tokens in a text.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// The token whose features represent the text: its first occurrence, or, if this is 2, the first occurrence of the
    /// largest token id.
    pub eos_token_id: u32,
}

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            architectures: vec!["CLIPTextModel".into()],
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: "CLIPTextModel", harmless: &HARMLESS, fixed: &[] };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for transformers, for a tokenizer that starts texts with the token `begin` and pads them with
    /// `pad`.
    pub fn to_json(&self, begin: u32, pad: u32) -> String {
        let mut entries = config::entries_of(self);
        entries.insert("bos_token_id".into(), begin.into());
        entries.insert("pad_token_id".into(), pad.into());
        entries.insert("model_type".into(), "clip_text_model".into());
        entries.insert("torch_dtype".into(), "float32".into());
        let mut text = serde_json::to_string_pretty(&entries).expect("a map of JSON values");
        text.push('\n');
        text
    }

    /// Checks that an encoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self.architectures.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["CLIPTextModel"] | ["CLIPTextModelWithProjection"] => {}
            _ => {
                let reason = "expected [\"CLIPTextModel\"] or [\"CLIPTextModelWithProjection\"]";
                return Err(ConfigError::value("architectures", &self.architectures, reason));
            }
        }
        const MAX: usize = 1 << 20;
        in_range(&[
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("hidden_size", self.hidden_size, 1, MAX),
            ("intermediate_size", self.intermediate_size, 1, MAX),
            ("projection_dim", self.projection_dim, 1, MAX),
            ("num_hidden_layers", self.num_hidden_layers, 1, 256),
            ("num_attention_heads", self.num_attention_heads, 1, MAX),
            ("max_position_embeddings", self.max_position_embeddings, 1, MAX),
        ])?;
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let reason = format!("expected a divisor of the width {}", self.hidden_size);
            return Err(ConfigError::value("num_attention_heads", self.num_attention_heads, reason));
        }
        Ok(())
    }

    /// Whether the pooled output is projected.
    pub fn projects(&self) -> bool {
        self.architectures.iter().any(|a| a == "CLIPTextModelWithProjection")
    }
}
