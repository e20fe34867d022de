//! Convolution, linear layer, group normalization, embedding.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData},
};
use tweedie_ops::{self as ops, Added, ConvOptions, Kernel, Maps, Norm, Precision};

use super::{Activation, Init};

/// 2-D convolution with a square kernel.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, k, k]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Conv2d {
    /// Creates it with weights and bias uniform within `1/√(in·k²)`.
    pub fn new(init: &Init, inputs: usize, outputs: usize, k: usize, bias: bool) -> Self {
        let bound = 1.0 / ((inputs * k * k) as f64).sqrt();
        Self {
            weight: init.uniform("weight", [outputs, inputs, k, k], bound),
            bias: bias.then(|| init.uniform("bias", [outputs], bound)),
        }
    }

    /// `[B, in, H, W]` to `[B, out, H', W']`.
    pub fn forward(&self, x: impl Into<Maps>, options: ConvOptions) -> Tensor<4> {
        self.forward_with(x, options, Added::default())
    }

    /// The same plus `added`.
    pub fn forward_with(&self, x: impl Into<Maps>, options: ConvOptions, added: Added) -> Tensor<4> {
        ops::conv2d_with(x, self.kernel(options), added)
    }

    /// Resizes `[B, in, H, W]` to `size` by repeating pixels, then convolves with stride 1 to `[B, out, size]`, plus `added`.
    /// The kernel must be 3×3.
    pub fn forward_resized(&self, x: Tensor<4>, size: [usize; 2], added: Added) -> Tensor<4> {
        ops::upsample_conv2d(x, size, self.kernel(ConvOptions::same(1)), added)
    }

    fn kernel(&self, options: ConvOptions) -> Kernel {
        Kernel { weight: self.weight.val(), bias: self.bias.as_ref().map(Param::val), options }
    }
}

/// `x·weightᵀ + bias` over the last dimension.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Creates it with weights and bias uniform within `1/√in`.
    pub fn new(init: &Init, inputs: usize, outputs: usize, bias: bool) -> Self {
        let bound = 1.0 / (inputs as f64).sqrt();
        Self {
            weight: init.uniform("weight", [outputs, inputs], bound),
            bias: bias.then(|| init.uniform("bias", [outputs], bound)),
        }
    }

    /// Creates it with normal weights of standard deviation `std` and a zero bias.
    pub fn normal(init: &Init, inputs: usize, outputs: usize, std: f64) -> Self {
        Self {
            weight: init.normal("weight", [outputs, inputs], std as f32),
            bias: Some(init.constant("bias", [outputs], 0.0)),
        }
    }

    /// `[..., in]` to `[..., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }

    /// The same plus `residual: [..., out]`.
    pub fn forward_onto<const D: usize>(&self, x: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        ops::linear_add(x, self.weight.val(), self.bias.as_ref().map(Param::val), residual)
    }
}

/// Normalization to mean 0 and variance 1 over the pixels of each group of channels, then a scale and a shift per
/// channel.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// Scale, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub bias: Param<Tensor<1>>,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Creates it with scale 1 and shift 0. `groups` must divide `channels`.
    pub fn new(init: &Init, groups: usize, channels: usize, eps: f64) -> Self {
        Self {
            weight: init.constant("weight", [channels], 1.0),
            bias: init.constant("bias", [channels], 0.0),
            groups,
            eps,
        }
    }

    /// Normalizes `[B, C, H, W]`; the result has the same shape.
    pub fn forward(&self, x: impl Into<Maps>) -> Tensor<4> {
        ops::normalize(x, self.norm(None, false))
    }

    /// Normalizes `[B, C, H, W]`, then applies the activation.
    pub fn then(&self, activation: Activation, x: impl Into<Maps>) -> Tensor<4> {
        self.scaled(activation, x, None)
    }

    /// Applies the activation to `z·(1 + scale) + shift`, with the normalized `z: [B, C, H, W]` and `scale`, `shift: [B, C]`.
    pub fn scaled(
        &self,
        activation: Activation,
        x: impl Into<Maps>,
        scale_shift: Option<[Tensor<2>; 2]>,
    ) -> Tensor<4> {
        match activation {
            Activation::Silu => ops::normalize(x, self.norm(scale_shift, true)),
            _ => activation.apply(ops::normalize(x, self.norm(scale_shift, false))),
        }
    }

    /// [`Self::scaled`], then a 3×3 convolution with stride 1, plus `added`.
    pub fn then_conv(
        &self,
        activation: Activation,
        x: impl Into<Maps>,
        scale_shift: Option<[Tensor<2>; 2]>,
        conv: &Conv2d,
        added: Added,
    ) -> Tensor<4> {
        let options = ConvOptions::same(1);
        match activation {
            Activation::Silu => {
                ops::norm_conv2d(x, self.norm(scale_shift, true), conv.kernel(options), added)
            }
            _ => conv.forward_with(self.scaled(activation, x, scale_shift), options, added),
        }
    }

    /// The end of a network: normalization and activation in `precision`, then a convolution in `f32` with `f32` output.
    pub fn then_last_conv(
        &self,
        activation: Activation,
        x: Tensor<4>,
        conv: &Conv2d,
        precision: Precision,
    ) -> Tensor<4> {
        match precision {
            Precision::F32 | Precision::Int8 => self.then_conv(activation, x, None, conv, Added::default()),
            Precision::Bf16 => conv.forward(precision.raise(self.then(activation, x)), ConvOptions::same(1)),
        }
    }

    pub(crate) fn norm(&self, scale_shift: Option<[Tensor<2>; 2]>, silu: bool) -> Norm {
        Norm {
            groups: self.groups,
            weight: self.weight.val(),
            bias: self.bias.val(),
            eps: self.eps,
            scale_shift,
            silu,
        }
    }
}

/// One learned vector per index.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[entries, width]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Creates it with standard normal entries.
    pub fn new(init: &Init, entries: usize, width: usize) -> Self {
        Self::normal(init, entries, width, 1.0)
    }

    /// Creates it with normal entries of standard deviation `std`.
    pub fn normal(init: &Init, entries: usize, width: usize, std: f64) -> Self {
        Self { weight: init.normal("weight", [entries, width], std as f32) }
    }

    /// The vectors of `indices`, each below `entries`: `[B, width]`.
    pub fn forward(&self, indices: &[usize]) -> Tensor<2> {
        let weight = self.weight.val();
        let indices: Vec<i64> = indices.iter().map(|&i| i as i64).collect();
        let shape = [indices.len()];
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, shape), &weight.device());
        weight.select(0, indices)
    }

    /// The number of entries.
    pub fn entries(&self) -> usize {
        self.weight.dims()[0]
    }
}
