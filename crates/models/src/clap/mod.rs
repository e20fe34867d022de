//! CLAP's text encoder (Wu et al. 2023, arXiv:2211.06687): RoBERTa with a projection, as transformers'
//! `ClapTextModelWithProjection`.

mod config;

use burn::{
    module::Module,
    tensor::{Tensor, activation::softmax},
};

pub use config::ClapTextConfig;

use crate::{
    config::ConfigError,
    layers::{Activation, Embedding, Init, LayerNorm, Linear},
    network::InputError,
    params::{TensorSource, constructors},
    renamed::{self, Renamed},
};

/// Parts of names in transformers, and ours.
const RENAMED: [(&str, &str); 2] = [("attention.self.", "attention.own."), ("LayerNorm.", "norm.")];
/// Constant tables that transformers stores.
const CONSTANTS: [&str; 2] = ["position_ids", "token_type_ids"];
/// Standard deviation of initial weights.
const STD: f64 = 0.02;

/// Embeddings of tokens, positions and the only kind of text.
#[derive(Module, Debug)]
pub struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    norm: LayerNorm,
}

/// A linear layer.
#[derive(Module, Debug)]
pub struct Dense {
    dense: Linear,
}

/// A linear layer, and the normalization of its sum with the layer's input.
#[derive(Module, Debug)]
pub struct Output {
    dense: Linear,
    norm: LayerNorm,
}

impl Output {
    fn new(init: &Init, [from, to]: [usize; 2], eps: f64) -> Self {
        Self {
            dense: Linear::normal(&init.at("dense"), from, to, STD),
            norm: LayerNorm::new(&init.at("norm"), to, eps),
        }
    }

    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.norm.forward(self.dense.forward(x) + residual)
    }
}

/// What attention compares.
#[derive(Module, Debug)]
pub struct Own {
    query: Linear,
    key: Linear,
    value: Linear,
}

/// Attention to all tokens of the text.
#[derive(Module, Debug)]
pub struct Attention {
    own: Own,
    output: Output,
    heads: usize,
}

impl Attention {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let head = width / self.heads;
        let split = |layer: &Linear| -> Tensor<4> {
            layer.forward(x.clone()).reshape([b, t, self.heads, head]).swap_dims(1, 2)
        };
        let [q, k, v] = [&self.own.query, &self.own.key, &self.own.value].map(split);
        let scores = q.matmul(k.swap_dims(2, 3)).mul_scalar((head as f32).powf(-0.5));
        let mixed = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([b, t, width]);
        self.output.forward(mixed, x)
    }
}

/// Attention and feed-forward, each followed by a normalization.
#[derive(Module, Debug)]
pub struct Layer {
    attention: Attention,
    intermediate: Dense,
    output: Output,
    #[module(skip)]
    activation: Activation,
}

impl Layer {
    fn new(init: &Init, config: &ClapTextConfig) -> Self {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let at = init.at("attention");
        let own = |name: &str| Linear::normal(&at.at("own").at(name), width, width, STD);
        Self {
            attention: Attention {
                own: Own { query: own("query"), key: own("key"), value: own("value") },
                output: Output::new(&at.at("output"), [width; 2], eps),
                heads: config.num_attention_heads,
            },
            intermediate: Dense { dense: Linear::normal(&init.at("intermediate.dense"), width, inner, STD) },
            output: Output::new(&init.at("output"), [inner, width], eps),
            activation: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.attention.forward(x);
        let h = self.activation.apply(self.intermediate.dense.forward(x.clone()));
        self.output.forward(h, x)
    }
}

/// The layers.
#[derive(Module, Debug)]
pub struct Encoder {
    layer: Vec<Layer>,
}

/// Everything except the projection.
#[derive(Module, Debug)]
pub struct TextModel {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Dense,
}

/// Two linear layers.
#[derive(Module, Debug)]
pub struct Projection {
    linear1: Linear,
    linear2: Linear,
}

/// The text encoder.
#[derive(Module, Debug)]
pub struct ClapTextModel {
    text_model: TextModel,
    text_projection: Projection,
    #[module(skip)]
    config: ClapTextConfig,
}

/// Tables of positions are passed over.
fn named(source: &dyn TensorSource) -> Renamed<'_> {
    Renamed { source, parts: &RENAMED, left_out: &CONSTANTS }
}

impl ClapTextModel {
    constructors!(ClapTextConfig, named);

    /// The name of a parameter in transformers.
    pub fn peer_name(name: &str) -> String {
        renamed::theirs(name, &RENAMED)
    }

    fn build(config: &ClapTextConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (width, projected) = (config.hidden_size, config.projection_dim);
        let at = init.at("text_model");
        let tokens = at.at("embeddings");
        let embedding = |name: &str, entries| Embedding::normal(&tokens.at(name), entries, width, STD);
        let linear =
            |name: &str, from| Linear::new(&init.at("text_projection").at(name), from, projected, true);
        let layer = |i: usize| Layer::new(&at.at("encoder.layer").at(i), config);
        Ok(Self {
            text_model: TextModel {
                embeddings: Embeddings {
                    word_embeddings: embedding("word_embeddings", config.vocab_size),
                    position_embeddings: embedding("position_embeddings", config.max_position_embeddings),
                    token_type_embeddings: embedding("token_type_embeddings", 1),
                    norm: LayerNorm::new(&tokens.at("norm"), width, config.layer_norm_eps),
                },
                encoder: Encoder { layer: (0..config.num_hidden_layers).map(layer).collect() },
                pooler: Dense { dense: Linear::normal(&at.at("pooler.dense"), width, width, STD) },
            },
            text_projection: Projection {
                linear1: linear("linear1", width),
                linear2: linear("linear2", projected),
            },
            config: config.clone(),
        })
    }

    /// The features of a text without padding, `[1, projection_dim]`: those that transformers has with any padding.
    ///
    /// # Errors
    /// For a text that is empty or too long, or token ids outside the vocabulary.
    pub fn encode(&self, text: &[u32]) -> Result<Tensor<2>, InputError> {
        let (t, width, most) = (text.len(), self.config.hidden_size, self.config.most_tokens());
        if !(1..=most).contains(&t) {
            return Err(InputError(format!("the text has {t} tokens, expected 1 to {most}")));
        }
        if let Some(id) = text.iter().find(|id| **id as usize >= self.config.vocab_size) {
            let known = self.config.vocab_size;
            return Err(InputError(format!(
                "token id {id} is outside the text encoder's vocabulary of {known} tokens"
            )));
        }
        let tokens: Vec<usize> = text.iter().map(|id| *id as usize).collect();
        let first = self.config.pad_token_id as usize + 1;
        let places: Vec<usize> = (first..first + t).collect();
        let table = &self.text_model.embeddings;
        let sum = table.word_embeddings.forward(&tokens)
            + table.position_embeddings.forward(&places)
            + table.token_type_embeddings.forward(&vec![0; t]);
        let mut x = table.norm.forward(sum.reshape([1, t, width]));
        for layer in &self.text_model.encoder.layer {
            x = layer.forward(x);
        }
        let first: Tensor<2> = x.narrow(1, 0, 1).reshape([1, width]);
        let pooled = self.text_model.pooler.dense.forward(first).tanh();
        let h = self.config.projection_hidden_act.apply(self.text_projection.linear1.forward(pooled));
        Ok(self.text_projection.linear2.forward(h))
    }
}
