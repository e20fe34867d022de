//! The blocks of the network: residual layers with attention, between a halving and a doubling of the length.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{self as ops, Added, Maps};

use super::conv::{Conv1d, Filter};
use crate::layers::{Activation, GroupNorm, Init, Linear};

/// Positions that a convolution reads.
const KERNEL: usize = 5;
/// Added to variances in normalizations.
const EPS: f64 = 1e-5;
/// Channels per head; more if they are not a multiple of it.
const HEAD: usize = 32;

/// The number of heads of attention between `channels` channels, if these can be divided into heads.
pub(super) fn heads(channels: usize) -> Option<usize> {
    Some(channels / HEAD).filter(|heads| *heads > 0 && channels.is_multiple_of(*heads))
}

fn norm(init: &Init, channels: usize) -> GroupNorm {
    GroupNorm::new(init, 1, channels, EPS)
}

/// A residual layer: two convolutions, each followed by normalization and GELU.
#[derive(Module, Debug)]
pub struct ResConvBlock {
    conv_skip: Option<Conv1d>,
    conv_1: Conv1d,
    group_norm_1: GroupNorm,
    conv_2: Conv1d,
    /// Not at the end of the network.
    group_norm_2: Option<GroupNorm>,
}

impl ResConvBlock {
    fn new(init: &Init, inputs: usize, middle: usize, outputs: usize) -> Self {
        let skip = || Conv1d::new(&init.at("conv_skip"), inputs, outputs, 1, false);
        Self {
            conv_skip: (inputs != outputs).then(skip),
            conv_1: Conv1d::new(&init.at("conv_1"), inputs, middle, KERNEL, true),
            group_norm_1: norm(&init.at("group_norm_1"), middle),
            conv_2: Conv1d::new(&init.at("conv_2"), middle, outputs, KERNEL, true),
            group_norm_2: Some(norm(&init.at("group_norm_2"), outputs)),
        }
    }

    /// `[B, in, 1, T]` to `[B, out, 1, T]`.
    fn forward(&self, x: Maps) -> Tensor<4> {
        let y = self.conv_1.forward(x.clone(), Added::default());
        let y = self.group_norm_1.then(Activation::Gelu, y);
        let mut y = self.conv_2.forward(y, Added::default());
        if let Some(norm) = &self.group_norm_2 {
            y = norm.then(Activation::Gelu, y);
        }
        match &self.conv_skip {
            Some(conv) => conv.forward(x, Added::residual(y)),
            None => ops::add(y, x.joined()),
        }
    }
}

/// Normalization, attention between positions, projection, residual connection.
#[derive(Module, Debug)]
pub struct SelfAttention1d {
    group_norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    proj_attn: Linear,
    heads: usize,
}

impl SelfAttention1d {
    fn new(init: &Init, channels: usize) -> Self {
        let linear = |name: &str| Linear::new(&init.at(name), channels, channels, true);
        Self {
            group_norm: norm(&init.at("group_norm"), channels),
            query: linear("query"),
            key: linear("key"),
            value: linear("value"),
            proj_attn: linear("proj_attn"),
            heads: heads(channels).expect("the configuration was validated"),
        }
    }

    /// Maps `[B, C, 1, T]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, c, _, t] = x.dims();
        let width = c / self.heads;
        let tokens = |x: Tensor<4>| -> Tensor<3> { x.permute([0, 2, 3, 1]).reshape([b, t, c]) };
        let y = tokens(self.group_norm.forward(x.clone()));
        let split = |x: Tensor<3>| -> Tensor<4> { x.reshape([b, t, self.heads, width]).swap_dims(1, 2) };
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|linear| split(linear.forward(y.clone())));
        let y = ops::attention(q, k, v, (width as f64).powf(-0.5));
        let y: Tensor<3> = y.swap_dims(1, 2).reshape([b, t, c]);
        let y = self.proj_attn.forward_onto(y, tokens(x));
        y.reshape([b, 1, t, c]).permute([0, 3, 1, 2])
    }
}

/// Residual layers at one length.
#[derive(Module, Debug)]
pub struct Block {
    down: Option<Filter>,
    resnets: Vec<ResConvBlock>,
    /// One after every residual layer, or none.
    attentions: Vec<SelfAttention1d>,
    up: Option<Filter>,
}

impl Block {
    /// Creates `layers` residual layers from `inputs` to `outputs` channels, with `middle` channels in between.
    pub(super) fn new(init: &Init, [inputs, middle, outputs]: [usize; 3], layers: usize) -> Self {
        let layer = |i: usize| {
            let from = if i == 0 { inputs } else { middle };
            let to = if i + 1 == layers { outputs } else { middle };
            ResConvBlock::new(&init.at("resnets").at(i), from, middle, to)
        };
        Self { down: None, resnets: (0..layers).map(layer).collect(), attentions: Vec::new(), up: None }
    }

    /// The same, reading maps of twice the length.
    pub(super) fn halving(self, init: &Init) -> Self {
        Self { down: Some(Filter::halving(&init.at("down"))), ..self }
    }

    /// The same with the result at twice the length.
    pub(super) fn doubling(self, init: &Init) -> Self {
        Self { up: Some(Filter::doubling(&init.at("up"))), ..self }
    }

    /// The same with attention between `middle` channels, and `outputs` after the last layer.
    pub(super) fn attending(self, init: &Init, middle: usize, outputs: usize) -> Self {
        let layers = self.resnets.len();
        let attention = |i: usize| {
            let channels = if i + 1 == layers { outputs } else { middle };
            SelfAttention1d::new(&init.at("attentions").at(i), channels)
        };
        Self { attentions: (0..layers).map(attention).collect(), ..self }
    }

    /// The same without the last normalization and activation: the end of the network.
    pub(super) fn ending(mut self) -> Self {
        if let Some(last) = self.resnets.last_mut() {
            last.group_norm_2 = None;
        }
        self
    }

    /// `[B, inputs, 1, T]` to `[B, outputs, 1, T']`.
    pub(super) fn forward(&self, x: impl Into<Maps>) -> Tensor<4> {
        let mut x: Maps = x.into();
        if let Some(filter) = &self.down {
            x = filter.halve(x.joined()).into();
        }
        for (i, layer) in self.resnets.iter().enumerate() {
            let y = layer.forward(x);
            x = match self.attentions.get(i) {
                Some(attention) => attention.forward(y),
                None => y,
            }
            .into();
        }
        match &self.up {
            Some(filter) => filter.double(x.joined()),
            None => x.joined(),
        }
    }
}
