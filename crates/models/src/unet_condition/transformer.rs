//! Transformers on pixels with attention to the image and to the text (Rombach et al. 2022, arXiv:2112.10752).

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{self as ops, Added, ConvOptions};

use crate::layers::{
    Conv2d, Either, FeedForward, FeedForwardActivation, GroupNorm, Init, LayerNorm, Linear, TokenAttention,
};

/// Added to variances, fixed in the published networks: over tokens and over groups of channels.
const TOKEN_EPS: f64 = 1e-5;
const GROUP_EPS: f64 = 1e-6;

/// The parameters of a block's transformers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransformerSpec {
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    /// Width of the text features.
    pub(crate) text: usize,
    pub(crate) groups: usize,
    pub(crate) linear: bool,
    /// Whether the first attention attends to the text, too.
    pub(crate) only_cross: bool,
    /// Most tokens, if attention sees their positions.
    pub(crate) positions: Option<usize>,
}

/// Sines and cosines of the position of each token (Vaswani et al. 2017, arXiv:1706.03762). They are not trained, but are
/// part of the file.
#[derive(Module, Debug)]
pub struct Positions {
    /// `[1, tokens, width]`.
    pe: Param<Tensor<3>>,
}

impl Positions {
    fn new(init: &Init, tokens: usize, width: usize) -> Self {
        let table = move |values: &mut [f32]| {
            for (i, value) in values.iter_mut().enumerate() {
                let (token, channel) = (i / width, i % width);
                let frequency = 10000f64.powf(-((channel / 2 * 2) as f64) / width as f64);
                let phase = token as f64 * frequency;
                *value = if channel % 2 == 0 { phase.sin() } else { phase.cos() } as f32;
            }
        };
        Self { pe: init.filled("pe", [1, tokens, width], table).set_require_grad(false) }
    }

    /// Adds them to `x: [B, T, width]`, where `T` is at most the number of tokens.
    fn add(&self, x: Tensor<3>) -> Tensor<3> {
        let places = self.pe.val().narrow(1, 0, x.dims()[1]).cast(x.dtype());
        x + places
    }
}

/// Attention to the image, attention to the text, feed-forward, each with a preceding normalization and a residual
/// connection.
#[derive(Module, Debug)]
pub struct TransformerLayer {
    norm1: LayerNorm,
    attn1: TokenAttention,
    norm2: LayerNorm,
    attn2: TokenAttention,
    norm3: LayerNorm,
    ff: FeedForward,
    pos_embed: Option<Positions>,
    only_cross: bool,
}

impl TransformerLayer {
    pub(crate) fn new(init: &Init, spec: TransformerSpec) -> Self {
        let TransformerSpec { channels, heads, text, only_cross, positions, .. } = spec;
        let norm = |name: &str| LayerNorm::new(&init.at(name), channels, TOKEN_EPS);
        let attention =
            |name: &str, context| TokenAttention::new(&init.at(name), channels, context, heads, false);
        Self {
            norm1: norm("norm1"),
            attn1: attention("attn1", if only_cross { text } else { channels }),
            norm2: norm("norm2"),
            attn2: attention("attn2", text),
            norm3: norm("norm3"),
            ff: FeedForward::new(&init.at("ff"), channels, FeedForwardActivation::Geglu),
            pos_embed: positions.map(|tokens| Positions::new(&init.at("pos_embed"), tokens, channels)),
            only_cross,
        }
    }

    /// Without a text, both attentions are to `x` itself.
    pub(crate) fn forward(&self, x: Tensor<3>, text: Option<&Tensor<3>>) -> Tensor<3> {
        let placed = |h| self.pos_embed.iter().fold(h, |h, positions| positions.add(h));
        let h = placed(self.norm1.forward(x.clone()));
        let context = text.filter(|_| self.only_cross).unwrap_or(&h).clone();
        let x = self.attn1.forward_onto(h, context, x);
        let h = placed(self.norm2.forward(x.clone()));
        let context = text.unwrap_or(&h).clone();
        let x = self.attn2.forward_onto(h, context, x);
        self.ff.forward_onto(self.norm3.forward(x.clone()), x)
    }
}

/// Normalization, projection, transformer layers, projection, residual connection.
#[derive(Module, Debug)]
pub struct Transformer {
    norm: GroupNorm,
    proj_in: Either<Conv2d, Linear>,
    transformer_blocks: Vec<TransformerLayer>,
    proj_out: Either<Conv2d, Linear>,
}

impl Transformer {
    /// `groups` and `heads` must divide `channels`.
    pub(crate) fn new(init: &Init, spec: TransformerSpec) -> Self {
        let n = spec.channels;
        let project = |name: &str| match spec.linear {
            true => Either::B(Linear::new(&init.at(name), n, n, true)),
            false => Either::A(Conv2d::new(&init.at(name), n, n, 1, true)),
        };
        let layer = |i: usize| TransformerLayer::new(&init.at("transformer_blocks").at(i), spec);
        Self {
            norm: GroupNorm::new(&init.at("norm"), spec.groups, n, GROUP_EPS),
            proj_in: project("proj_in"),
            transformer_blocks: (0..spec.layers).map(layer).collect(),
            proj_out: project("proj_out"),
        }
    }

    /// `x: [B, C, H, W]`, `text: [B, S, width]`. Without a text, tokens attend to each other twice.
    pub(crate) fn forward(&self, x: Tensor<4>, text: Option<&Tensor<3>>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let to_tokens = |x: Tensor<4>| -> Tensor<3> { x.permute([0, 2, 3, 1]).reshape([b, h * w, c]) };
        let to_image = |x: Tensor<3>| -> Tensor<4> { x.reshape([b, h, w, c]).permute([0, 3, 1, 2]) };
        let y = self.norm.forward(x.clone());
        let mut tokens = match &self.proj_in {
            Either::A(conv) => to_tokens(conv.forward(y, ConvOptions::same(0))),
            Either::B(linear) => linear.forward(to_tokens(y)),
        };
        for layer in &self.transformer_blocks {
            tokens = layer.forward(tokens, text);
        }
        let y = match &self.proj_out {
            Either::A(conv) => {
                return conv.forward_with(to_image(tokens), ConvOptions::same(0), Added::residual(x));
            }
            Either::B(linear) => to_image(linear.forward(tokens)),
        };
        ops::add(y, x)
    }
}
