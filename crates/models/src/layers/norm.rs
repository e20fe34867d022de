//! Normalizations of tokens.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops as ops;

use super::Init;

/// Normalization to mean 0 and variance 1 over the last dimension, then a scale and a shift per channel.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[C]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[C]`.
    pub bias: Param<Tensor<1>>,
    eps: f64,
}

impl LayerNorm {
    /// Creates it with scale 1 and shift 0.
    pub fn new(init: &Init, channels: usize, eps: f64) -> Self {
        Self {
            weight: init.constant("weight", [channels], 1.0),
            bias: init.constant("bias", [channels], 0.0),
            eps,
        }
    }

    /// Normalizes `[..., C]`; the result has the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}

/// Division by the root of the mean square over the last dimension, then a scale per channel.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale, `[C]`.
    pub weight: Param<Tensor<1>>,
    eps: f64,
}

impl RmsNorm {
    /// Creates it with scale 1.
    pub fn new(init: &Init, channels: usize, eps: f64) -> Self {
        Self { weight: init.constant("weight", [channels], 1.0), eps }
    }

    /// Normalizes `[B, T, C]`; the result has the same shape. Computed in `f32`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let wide = ops::to_f32(x.clone());
        let mean = (wide.clone() * wide.clone()).mean_dim(2).add_scalar(self.eps);
        ops::cast_like(wide / mean.sqrt() * self.weight.val().unsqueeze(), &x)
    }
}
