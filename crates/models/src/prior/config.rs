//! The configuration of a [`PriorTransformer`](super::PriorTransformer) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
    network::IoSpec,
};

/// Tokens besides those of the text: the text's embedding, the time, and the noisy embedding; a learned one may follow.
const OTHERS: usize = 3;

/// The normalization of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputNorm {
    /// Layer normalization.
    Layer,
}

/// How the features of the text's tokens are brought to the width of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextProjection {
    /// By a linear layer.
    Linear,
}

/// The last token, where the prediction is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddedToken {
    /// A learned one.
    Prd,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorConfig {
    /// Number of attention heads.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Width of the embeddings that are sampled, and of the features of the text's tokens.
    pub embedding_dim: usize,
    /// Number of tokens of the text.
    pub num_embeddings: usize,
    /// Number of the other tokens.
    pub additional_embeddings: usize,
    /// Dropout probability in training; not used for inference.
    pub dropout: f64,
    /// Activation of the time embedding.
    pub time_embed_act_fn: Activation,
    /// Normalization of the tokens before the first layer.
    pub norm_in_type: Option<InputNorm>,
    /// Normalization of the text's embedding.
    pub embedding_proj_norm_type: Option<InputNorm>,
    /// How the text's tokens are read.
    pub encoder_hid_proj_type: Option<TextProjection>,
    /// The last token.
    pub added_emb_type: Option<AddedToken>,
    /// Width of the time embedding's inner layer; by default that of the network.
    pub time_embed_dim: Option<usize>,
    /// Width of the text's embedding; by default `embedding_dim`.
    pub embedding_proj_dim: Option<usize>,
    /// Width of the prediction; by default `embedding_dim`.
    pub clip_embed_dim: Option<usize>,
}

impl Default for PriorConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 32,
            attention_head_dim: 64,
            num_layers: 20,
            embedding_dim: 768,
            num_embeddings: 77,
            additional_embeddings: 4,
            dropout: 0.0,
            time_embed_act_fn: Activation::Silu,
            norm_in_type: None,
            embedding_proj_norm_type: None,
            encoder_hid_proj_type: Some(TextProjection::Linear),
            added_emb_type: Some(AddedToken::Prd),
            time_embed_dim: None,
            embedding_proj_dim: None,
            clip_embed_dim: None,
        }
    }
}

impl PriorConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "PriorTransformer";

    /// Parses `config.json` and validates it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to a network that is not supported.
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
        const MAX: usize = 1 << 16;
        in_range(&[
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 10),
            ("attention_head_dim", self.attention_head_dim, 1, 1 << 10),
            ("num_layers", self.num_layers, 1, 256),
            ("embedding_dim", self.embedding_dim, 1, MAX),
            ("num_embeddings", self.num_embeddings, 1, MAX),
            ("time_embed_dim", self.time_embed_dim.unwrap_or(1), 1, MAX),
            ("embedding_proj_dim", self.embedding_proj_dim.unwrap_or(1), 1, MAX),
        ])?;
        let others = OTHERS + usize::from(self.added_emb_type.is_some());
        if self.additional_embeddings != others {
            let reason = format!("expected {others}, the number of tokens besides those of the text");
            return Err(ConfigError::value("additional_embeddings", self.additional_embeddings, reason));
        }
        if self.encoder_hid_proj_type.is_none() && self.embedding_dim != self.width() {
            let reason = format!(
                "without it the text's tokens of width {} must have the network's width {}",
                self.embedding_dim,
                self.width()
            );
            return Err(ConfigError::value("encoder_hid_proj_type", (), reason));
        }
        match self.clip_embed_dim {
            Some(width) if width != self.embedding_dim => {
                let reason = format!("expected {}, the width of the input", self.embedding_dim);
                Err(ConfigError::value("clip_embed_dim", width, reason))
            }
            _ => Ok(()),
        }
    }

    /// Width of the network.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Width of the text's embedding.
    pub fn text_embedding(&self) -> usize {
        self.embedding_proj_dim.unwrap_or(self.embedding_dim)
    }

    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        IoSpec {
            native: Some(Vec::new()),
            fixed: true,
            text: Some(self.embedding_dim),
            pooled: true,
            lengths: true,
            ..IoSpec::new(Self::CLASS, 0, [self.embedding_dim; 2])
        }
    }
}
