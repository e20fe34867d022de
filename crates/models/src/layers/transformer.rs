//! Attention between tokens, and the feed-forward layer.

use burn::{
    module::Module,
    tensor::{Tensor, activation::softmax},
};
use tweedie_ops as ops;

use super::{Activation, Either, Init, LayerNorm, Linear};

/// Multi-head attention of tokens to themselves or to other tokens.
#[derive(Module, Debug)]
pub struct TokenAttention {
    /// Of the tokens that keys and values are made from.
    norm_cross: Option<LayerNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    heads: usize,
}

impl TokenAttention {
    /// Creates it with queries from tokens of `width`, and keys and values from tokens of `context`. `heads` must divide
    /// `width`; `bias` is that of queries, keys and values.
    pub fn new(init: &Init, width: usize, context: usize, heads: usize, bias: bool) -> Self {
        Self {
            norm_cross: None,
            to_q: Linear::new(&init.at("to_q"), width, width, bias),
            to_k: Linear::new(&init.at("to_k"), context, width, bias),
            to_v: Linear::new(&init.at("to_v"), context, width, bias),
            to_out: vec![Linear::new(&init.at("to_out.0"), width, width, true)],
            heads,
        }
    }

    /// The same with a normalization of the tokens of `context` features that it attends to.
    #[must_use]
    pub fn with_context_norm(self, init: &Init, context: usize, eps: f64) -> Self {
        Self { norm_cross: Some(LayerNorm::new(&init.at("norm_cross"), context, eps)), ..self }
    }

    /// `x: [B, T, width]`, `context: [B, S, context]`; `[B, T, width]`.
    pub fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let y = self.heads(x, context);
        self.to_out.iter().fold(y, |y, linear| linear.forward(y))
    }

    /// The same plus `residual: [B, T, width]`.
    pub fn forward_onto(&self, x: Tensor<3>, context: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let y = self.heads(x, context);
        match self.to_out.split_last() {
            Some((last, before)) => {
                last.forward_onto(before.iter().fold(y, |y, linear| linear.forward(y)), residual)
            }
            None => ops::add(residual, y),
        }
    }

    /// Attention of tokens to themselves plus `residual`, where `mask: [B or 1, 1, T, T]` is added to the scores.
    pub fn forward_masked(&self, x: Tensor<3>, mask: Tensor<4>, residual: Tensor<3>) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let scale = ((width / self.heads) as f32).powf(-0.5);
        let [q, k, v] = self.projected(x.clone(), x);
        let weights = softmax(q.mul_scalar(scale).matmul(k.swap_dims(2, 3)) + mask, 3);
        let y = weights.matmul(v).swap_dims(1, 2).reshape([b, t, width]);
        let y = self.to_out.iter().fold(y, |y, linear| linear.forward(y));
        ops::add(residual, y)
    }

    /// Queries, keys and values by heads, `[B, heads, tokens, width / heads]`.
    fn projected(&self, x: Tensor<3>, context: Tensor<3>) -> [Tensor<4>; 3] {
        let [b, _, width] = x.dims();
        let split = |x: Tensor<3>| -> Tensor<4> {
            let tokens = x.dims()[1];
            x.reshape([b, tokens, self.heads, width / self.heads]).swap_dims(1, 2)
        };
        let context = self.norm_cross.iter().fold(context, |tokens, norm| norm.forward(tokens));
        let (k, v) = (self.to_k.forward(context.clone()), self.to_v.forward(context));
        [self.to_q.forward(x), k, v].map(split)
    }

    /// The outputs of all heads, concatenated.
    fn heads(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let [b, t, width] = x.dims();
        let [q, k, v] = self.projected(x, context);
        let y = ops::attention(q, k, v, ((width / self.heads) as f64).powf(-0.5));
        y.swap_dims(1, 2).reshape([b, t, width])
    }
}

/// A linear layer and an activation, gated or not.
#[derive(Module, Debug)]
pub struct Widen {
    proj: Linear,
}

/// Two linear layers, by default with four times the width in between.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// The second entry is the position of dropout.
    net: Vec<Option<Either<Widen, Linear>>>,
    #[module(skip)]
    activation: FeedForwardActivation,
}

/// The activation between the two linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForwardActivation {
    /// `h·gelu(g)`, where the first layer gives `h` and `g` (Shazeer 2020, arXiv:2002.05202).
    Geglu,
    /// `h·silu(g)`, where the first layer gives `h` and `g`.
    Swiglu,
    /// An elementwise function.
    Plain(Activation),
}

impl FeedForward {
    /// Creates it for tokens of `width`.
    pub fn new(init: &Init, width: usize, activation: FeedForwardActivation) -> Self {
        Self::of_widths(init, [width, 4 * width, width], activation)
    }

    /// Creates it from tokens of one width to tokens of another, with a width in between.
    pub fn of_widths(init: &Init, [from, inner, to]: [usize; 3], activation: FeedForwardActivation) -> Self {
        let outputs = match activation {
            FeedForwardActivation::Geglu | FeedForwardActivation::Swiglu => 2 * inner,
            FeedForwardActivation::Plain(_) => inner,
        };
        let first = Widen { proj: Linear::new(&init.at("net.0.proj"), from, outputs, true) };
        let second = Linear::new(&init.at("net.2"), inner, to, true);
        Self { net: vec![Some(Either::A(first)), None, Some(Either::B(second))], activation }
    }

    /// Maps `[B, T, width]` to the same shape.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.run(x, None)
    }

    /// The same plus `residual`.
    pub fn forward_onto(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.run(x, Some(residual))
    }

    fn run(&self, mut x: Tensor<3>, mut residual: Option<Tensor<3>>) -> Tensor<3> {
        for layer in self.net.iter().flatten() {
            x = match (layer, self.activation) {
                (Either::A(widen), FeedForwardActivation::Plain(f)) => f.apply(widen.proj.forward(x)),
                (Either::A(widen), FeedForwardActivation::Geglu) => ops::geglu(widen.proj.forward(x)),
                (Either::A(widen), FeedForwardActivation::Swiglu) => {
                    let both = widen.proj.forward(x);
                    let half = both.dims()[2] / 2;
                    let part = |i: usize| both.clone().narrow(2, i * half, half);
                    part(0) * ops::silu(part(1))
                }
                (Either::B(linear), _) => match residual.take() {
                    Some(residual) => linear.forward_onto(x, residual),
                    None => linear.forward(x),
                },
            };
        }
        x
    }
}
