//! The configuration of a [`T5Encoder`](super::T5Encoder) in the format of transformers' `config.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{self, ConfigError, Format, in_range};

/// Keys of transformers that do not affect the output of the encoder.
const HARMLESS: [&str; 31] = [
    "add_cross_attention",
    "architectures",
    "bos_token_id",
    "classifier_dropout",
    "decoder_start_token_id",
    "dense_act_fn",
    "dropout_rate",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "initializer_factor",
    "is_decoder",
    "is_encoder_decoder",
    "is_gated_act",
    "model_type",
    "n_positions",
    "num_decoder_layers",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "return_dict",
    "scalable_attention",
    "scale_decoder_outputs",
    "task_specific_params",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// The feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum T5FeedForward {
    /// Two linear layers with ReLU in between, as published first.
    #[serde(rename = "relu")]
    Relu,
    /// Gated by GELU in its approximation by tanh, as in version 1.1 (Shazeer 2020, arXiv:2002.05202).
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

/// The keys of `config.json`. Missing keys have transformers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct T5Config {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Width of a token.
    pub d_model: usize,
    /// Width of a head.
    pub d_kv: usize,
    /// Width of the feed-forward layers.
    pub d_ff: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Number of attention heads.
    pub num_heads: usize,
    /// Number of classes of distances between tokens, half of them for each direction.
    pub relative_attention_num_buckets: usize,
    /// From this distance on, all are of one class.
    pub relative_attention_max_distance: usize,
    /// Added to mean squares.
    pub layer_norm_epsilon: f64,
    /// The feed-forward layers.
    pub feed_forward_proj: T5FeedForward,
    /// Whether each layer has a table of what distances add to scores, as in UMT5, instead of one for all. Not in files, whose
    /// class says it.
    #[serde(skip)]
    pub biased_layers: bool,
}

impl Default for T5Config {
    fn default() -> Self {
        Self {
            vocab_size: 32128,
            d_model: 512,
            d_kv: 64,
            d_ff: 2048,
            num_layers: 6,
            num_heads: 8,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            feed_forward_proj: T5FeedForward::Relu,
            biased_layers: false,
        }
    }
}

impl T5Config {
    /// The class in transformers.
    pub const CLASS: &str = "T5EncoderModel";
    /// The class whose layers have a table each.
    pub const UMT5: &str = "UMT5EncoderModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &HARMLESS, fixed: &[] };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The same for `UMT5EncoderModel`, which has other defaults.
    ///
    /// # Errors
    /// Those of [`Self::from_json`].
    pub fn from_umt5_json(text: &str) -> Result<Self, ConfigError> {
        let mut entries: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| ConfigError::Json(e.to_string()))?;
        for (key, value) in [
            ("vocab_size", json!(250112)),
            ("d_ff", json!(1024)),
            ("num_layers", json!(8)),
            ("num_heads", json!(6)),
            ("feed_forward_proj", json!(T5FeedForward::GatedGelu)),
        ] {
            entries.entry(key).or_insert(value);
        }
        let config = Self::from_json(&Value::Object(entries).to_string())?;
        Ok(Self { biased_layers: true, ..config })
    }

    /// Checks that an encoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const MAX: usize = 1 << 20;
        let (buckets, farthest) = (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        in_range(&[
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("d_model", self.d_model, 1, MAX),
            ("d_kv", self.d_kv, 1, MAX),
            ("d_ff", self.d_ff, 1, MAX),
            ("num_layers", self.num_layers, 1, 256),
            ("num_heads", self.num_heads, 1, 1 << 12),
            ("relative_attention_num_buckets", buckets, 4, MAX),
            ("relative_attention_max_distance", farthest, buckets / 4 + 1, MAX),
        ])?;
        match self.layer_norm_epsilon.is_finite() && self.layer_norm_epsilon >= 0.0 {
            true => Ok(()),
            false => {
                Err(ConfigError::value("layer_norm_epsilon", self.layer_norm_epsilon, "expected 0 or more"))
            }
        }
    }
}
