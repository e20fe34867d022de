//! CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020), a transformer with causal attention. Tensors are named
//! as in transformers' `CLIPTextModel` and `CLIPTextModelWithProjection`.

mod config;
mod names;

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor, TensorData},
};

pub use config::ClipTextConfig;
pub(crate) use names::Prefixed;

use tweedie_ops::from_host;

use crate::{
    config::ConfigError,
    layers::{ClipLayer, ClipLayerSpec, Embedding, Init, LayerNorm, Linear},
    network::InputError,
    params::{HostTensor, constructors},
};

/// Embeddings of tokens and positions.
#[derive(Module, Debug)]
pub struct Embeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

/// The layers.
#[derive(Module, Debug)]
pub struct Encoder {
    layers: Vec<ClipLayer>,
}

/// Everything except the projection.
#[derive(Module, Debug)]
pub struct TextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
}

/// The text encoder.
#[derive(Module, Debug)]
pub struct ClipTextModel {
    text_model: TextModel,
    text_projection: Option<Linear>,
    #[module(skip)]
    config: ClipTextConfig,
}

/// A text encoder's outputs for texts of `T` tokens.
#[derive(Clone, Debug)]
pub struct TextFeatures {
    /// Output of the requested layer, not normalized: `[B, T, width]`.
    pub hidden: Tensor<3>,
    /// Output of the last layer, normalized: `[B, T, width]`.
    pub last: Tensor<3>,
    /// Features of the end token, `[B, width]`, or projected, `[B, projection_dim]`.
    pub pooled: Tensor<2>,
}

impl ClipTextModel {
    constructors!(ClipTextConfig, Prefixed::of_texts);

    fn build(config: &ClipTextConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let width = config.hidden_size;
        let at = init.at("text_model");
        let (tokens, layers) = (at.at("embeddings"), at.at("encoder.layers"));
        let embedding = |name: &str, entries| Embedding::normal(&tokens.at(name), entries, width, 0.02);
        let spec = ClipLayerSpec {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            layers: config.num_hidden_layers,
            eps: config.layer_norm_eps,
            activation: config.hidden_act,
        };
        let project = || Linear::new(&init.at("text_projection"), width, config.projection_dim, false);
        Ok(Self {
            text_model: TextModel {
                embeddings: Embeddings {
                    token_embedding: embedding("token_embedding", config.vocab_size),
                    position_embedding: embedding("position_embedding", config.max_position_embeddings),
                },
                encoder: Encoder {
                    layers: (0..config.num_hidden_layers)
                        .map(|i| ClipLayer::new(&layers.at(i), spec))
                        .collect(),
                },
                final_layer_norm: LayerNorm::new(&at.at("final_layer_norm"), width, config.layer_norm_eps),
            },
            text_projection: config.projects().then(project),
            config: config.clone(),
        })
    }

    /// The same encoder with more tokens, whose ids follow the vocabulary: `[tokens, width]`.
    ///
    /// # Panics
    /// If they have another width.
    #[must_use]
    pub fn with_tokens(mut self, rows: HostTensor) -> Self {
        let table = &mut self.text_model.embeddings.token_embedding;
        let more = from_host::<2>(rows.values, [rows.shape[0], rows.shape[1]], &table.weight.device());
        table.weight = table.weight.clone().map(|weight| Tensor::cat(vec![weight, more], 0));
        self.config.vocab_size += rows.shape[0];
        self
    }

    /// The features of texts of equal length. [`TextFeatures::hidden`] is the output of the layer `skip` layers before the
    /// last: 0 for the last, 1 for the one before it.
    ///
    /// # Errors
    /// For texts that are empty, too long or of different lengths, token ids outside the vocabulary, or a `skip` that is
    /// not below the number of layers.
    pub fn encode(&self, texts: &[Vec<u32>], skip: usize) -> Result<TextFeatures, InputError> {
        self.check(texts, skip)?;
        let (b, t) = (texts.len(), texts[0].len());
        let (model, width) = (&self.text_model, self.config.hidden_size);
        let tokens: Vec<usize> = texts.iter().flatten().map(|id| *id as usize).collect();
        let places: Vec<usize> = (0..t).collect();
        let embedded: Tensor<3> = model.embeddings.token_embedding.forward(&tokens).reshape([b, t, width]);
        let mut x = embedded + model.embeddings.position_embedding.forward(&places).reshape([1, t, width]);
        let mask = causal(t, &x.device());

        let layers = &model.encoder.layers;
        let mut hidden = x.clone();
        for (i, layer) in layers.iter().enumerate() {
            x = layer.forward(x, Some(mask.clone()));
            if i + 1 + skip == layers.len() {
                hidden = x.clone();
            }
        }
        let last = model.final_layer_norm.forward(x);
        let rows: Vec<i64> =
            texts.iter().enumerate().map(|(row, ids)| (row * t + self.end_of(ids)) as i64).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [b]), &last.device());
        let pooled = last.clone().reshape([b * t, width]).select(0, rows);
        let pooled = match &self.text_projection {
            Some(linear) => linear.forward(pooled),
            None => pooled,
        };
        Ok(TextFeatures { hidden, last, pooled })
    }

    /// Applies the final normalization to `hidden`.
    pub fn normalize(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.text_model.final_layer_norm.forward(hidden)
    }

    /// The position of the end token.
    fn end_of(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            2 => ids.iter().copied().max().unwrap_or(0),
            id => id,
        };
        ids.iter().position(|id| *id == end).unwrap_or(0)
    }

    fn check(&self, texts: &[Vec<u32>], skip: usize) -> Result<(), InputError> {
        let (layers, most) = (self.config.num_hidden_layers, self.config.max_position_embeddings);
        if skip > layers {
            return Err(InputError(format!("cannot skip {skip} layers of a text encoder with {layers}")));
        }
        let length = texts.first().map_or(0, Vec::len);
        if length == 0 || length > most {
            return Err(InputError(format!("the text has {length} tokens, expected 1 to {most}")));
        }
        if let Some(other) = texts.iter().find(|ids| ids.len() != length) {
            return Err(InputError(format!(
                "the texts in a batch have different lengths, {length} and {} tokens",
                other.len()
            )));
        }
        match texts.iter().flatten().find(|id| **id as usize >= self.config.vocab_size) {
            Some(id) => {
                let known = self.config.vocab_size;
                Err(InputError(format!(
                    "token id {id} is outside the text encoder's vocabulary of {known} tokens"
                )))
            }
            None => Ok(()),
        }
    }
}

/// The causal mask: 0 for earlier tokens, −∞ for later ones, `[1, 1, T, T]`.
fn causal(t: usize, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..t * t).map(|i| if i % t <= i / t { 0.0 } else { f32::NEG_INFINITY }).collect();
    Tensor::from_data(TensorData::new(values, [1, 1, t, t]), (device, DType::F32))
}
