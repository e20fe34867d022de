//! T5's encoder of texts (Raffel et al. 2020, arXiv:1910.10683), as transformers' `T5EncoderModel`, and that of many languages
//! (Chung et al. 2023, arXiv:2304.09151), `UMT5EncoderModel`.

mod config;

use burn::{
    module::Module,
    tensor::{Tensor, activation::softmax},
};

pub use config::{T5Config, T5FeedForward};

use crate::{
    config::ConfigError,
    layers::{Activation, Embedding, Init, Linear, RmsNorm},
    network::InputError,
    params::{TensorSource, constructors},
    renamed::{self, Renamed},
};

/// Parts of names in transformers, and ours.
const RENAMED: [(&str, &str); 2] = [("SelfAttention.", "attention."), ("DenseReluDense.", "dense.")];
/// The same table as `shared`, which some versions of transformers store twice.
const TWICE: &str = "encoder.embed_tokens.weight";

fn norm(init: &Init, config: &T5Config) -> RmsNorm {
    RmsNorm::new(init, config.d_model, config.layer_norm_epsilon)
}

/// Attention to all tokens of the text, whose scores are not scaled.
#[derive(Module, Debug)]
pub struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// What distances between tokens add to the scores, `[buckets, heads]`. In the first layer for all, or in each.
    relative_attention_bias: Option<Embedding>,
    heads: usize,
}

/// Attention with a preceding normalization and a residual connection.
#[derive(Module, Debug)]
pub struct AttentionLayer {
    attention: SelfAttention,
    layer_norm: RmsNorm,
}

impl AttentionLayer {
    fn new(init: &Init, config: &T5Config, biased: bool) -> Self {
        let (width, inner) = (config.d_model, config.num_heads * config.d_kv);
        let at = init.at("attention");
        let linear = |name: &str, from, to| Linear::new(&at.at(name), from, to, false);
        let (buckets, heads) = (config.relative_attention_num_buckets, config.num_heads);
        let bias = || Embedding::new(&at.at("relative_attention_bias"), buckets, heads);
        Self {
            attention: SelfAttention {
                q: linear("q", width, inner),
                k: linear("k", width, inner),
                v: linear("v", width, inner),
                o: linear("o", inner, width),
                relative_attention_bias: biased.then(bias),
                heads,
            },
            layer_norm: norm(&init.at("layer_norm"), config),
        }
    }

    /// `x: [1, T, width]`, `bias: [1, heads, T, T]`.
    fn forward(&self, x: Tensor<3>, bias: Tensor<4>) -> Tensor<3> {
        let [b, t, _] = x.dims();
        let (own, normal) = (&self.attention, self.layer_norm.forward(x.clone()));
        let split = |layer: &Linear| -> Tensor<4> {
            let y = layer.forward(normal.clone());
            let head = y.dims()[2] / own.heads;
            y.reshape([b, t, own.heads, head]).swap_dims(1, 2)
        };
        let [q, k, v] = [&own.q, &own.k, &own.v].map(split);
        let inner = own.heads * v.dims()[3];
        let weights = softmax(q.matmul(k.swap_dims(2, 3)) + bias, 3);
        own.o.forward(weights.matmul(v).swap_dims(1, 2).reshape([b, t, inner])) + x
    }
}

/// Two linear layers with an activation in between, gated or not.
#[derive(Module, Debug)]
pub struct Dense {
    wi: Option<Linear>,
    wi_0: Option<Linear>,
    wi_1: Option<Linear>,
    wo: Linear,
}

/// The feed-forward layers with a preceding normalization and a residual connection.
#[derive(Module, Debug)]
pub struct FeedForwardLayer {
    dense: Dense,
    layer_norm: RmsNorm,
}

impl FeedForwardLayer {
    fn new(init: &Init, config: &T5Config) -> Self {
        let at = init.at("dense");
        let gated = config.feed_forward_proj == T5FeedForward::GatedGelu;
        let first =
            |name: &str, is: bool| is.then(|| Linear::new(&at.at(name), config.d_model, config.d_ff, false));
        Self {
            dense: Dense {
                wi: first("wi", !gated),
                wi_0: first("wi_0", gated),
                wi_1: first("wi_1", gated),
                wo: Linear::new(&at.at("wo"), config.d_ff, config.d_model, false),
            },
            layer_norm: norm(&init.at("layer_norm"), config),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (dense, mut h) = (&self.dense, self.layer_norm.forward(x.clone()));
        if let Some(first) = &dense.wi {
            h = Activation::Relu.apply(first.forward(h));
        } else if let (Some(gate), Some(first)) = (&dense.wi_0, &dense.wi_1) {
            h = Activation::GeluTanh.apply(gate.forward(h.clone())) * first.forward(h);
        }
        dense.wo.forward(h) + x
    }
}

/// A layer of the encoder.
#[derive(Module, Debug)]
pub struct Block {
    layer: (AttentionLayer, FeedForwardLayer),
}

/// Everything except the table of tokens.
#[derive(Module, Debug)]
pub struct Stack {
    block: Vec<Block>,
    final_layer_norm: RmsNorm,
}

/// The encoder of texts.
#[derive(Module, Debug)]
pub struct T5Encoder {
    shared: Embedding,
    encoder: Stack,
    #[module(skip)]
    config: T5Config,
}

fn named(source: &dyn TensorSource) -> Renamed<'_> {
    Renamed { source, parts: &RENAMED, left_out: &[TWICE] }
}

impl T5Encoder {
    constructors!(T5Config, named);

    /// The name of a parameter in transformers.
    pub fn peer_name(name: &str) -> String {
        renamed::theirs(name, &RENAMED)
    }

    fn build(config: &T5Config, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let at = init.at("encoder");
        let block = |i: usize| {
            let at = at.at("block").at(i).at("layer");
            let attention = AttentionLayer::new(&at.at(0), config, i == 0 || config.biased_layers);
            Block { layer: (attention, FeedForwardLayer::new(&at.at(1), config)) }
        };
        Ok(Self {
            shared: Embedding::new(&init.at("shared"), config.vocab_size, config.d_model),
            encoder: Stack {
                block: (0..config.num_layers).map(block).collect(),
                final_layer_norm: norm(&at.at("final_layer_norm"), config),
            },
            config: config.clone(),
        })
    }

    /// The features of the tokens of a text without padding, `[1, T, d_model]`: those that transformers has with any padding.
    ///
    /// # Errors
    /// For an empty text, or token ids outside the vocabulary.
    pub fn encode(&self, text: &[u32]) -> Result<Tensor<3>, InputError> {
        let (t, known) = (text.len(), self.config.vocab_size);
        if t == 0 {
            return Err(InputError("the text has no tokens, expected at least 1".into()));
        }
        if let Some(id) = text.iter().find(|id| **id as usize >= known) {
            return Err(InputError(format!(
                "token id {id} is outside the text encoder's vocabulary of {known} tokens"
            )));
        }
        let tokens: Vec<usize> = text.iter().map(|id| *id as usize).collect();
        let mut x: Tensor<3> = self.shared.forward(&tokens).reshape([1, t, self.config.d_model]);
        let mut bias = None;
        for Block { layer: (attention, feed_forward) } in &self.encoder.block {
            // Layers without a table of their own use that of the first.
            bias = attention
                .attention
                .relative_attention_bias
                .as_ref()
                .map(|table| self.bias(table, t))
                .or(bias);
            x = attention.forward(x, bias.clone().expect("the first layer has a table"));
            x = feed_forward.forward(x);
        }
        Ok(self.encoder.final_layer_norm.forward(x))
    }

    /// What the distances between `t` tokens add to scores, `[1, heads, t, t]`.
    fn bias(&self, table: &Embedding, t: usize) -> Tensor<4> {
        let heads = self.config.num_heads;
        let buckets: Vec<usize> = (0..t)
            .flat_map(|from| (0..t).map(move |to| (from, to)))
            .map(|(from, to)| self.bucket(from, to))
            .collect();
        table.forward(&buckets).reshape([t, t, heads]).permute([2, 0, 1]).unsqueeze()
    }

    /// The class of the distance between two tokens: one for each short distance, and logarithmically wider ones.
    fn bucket(&self, from: usize, to: usize) -> usize {
        let each = self.config.relative_attention_num_buckets / 2;
        let (distance, exact) = (from.abs_diff(to), each / 2);
        let farthest = self.config.relative_attention_max_distance as f64;
        let class = if distance < exact {
            distance
        } else {
            let share = (distance as f32 / exact as f32).ln() / (farthest / exact as f64).ln() as f32;
            (exact + (share * (each - exact) as f32) as usize).min(each - 1)
        };
        class + if to > from { each } else { 0 }
    }
}
