//! Convolutions over time. Maps are `[B, C, 1, T]`, so that they use the kernels for images.

use burn::{
    module::{Module, Param},
    tensor::{DType, Tensor, TensorData, ops::PadMode},
};
use tweedie_ops::{self as ops, Added, ConvOptions, Kernel, Maps};

use crate::layers::{Init, channels_last};

/// 1-D convolution that preserves the length.
#[derive(Module, Debug)]
pub struct Conv1d {
    /// `[out, in, k]`, `k` odd.
    weight: Param<Tensor<3>>,
    /// `[out]`.
    bias: Option<Param<Tensor<1>>>,
}

impl Conv1d {
    /// Creates it with weights and bias uniform within `1/√(in·k)`.
    pub(super) fn new(init: &Init, inputs: usize, outputs: usize, k: usize, bias: bool) -> Self {
        let bound = 1.0 / ((inputs * k) as f64).sqrt();
        Self {
            weight: init.uniform("weight", [outputs, inputs, k], bound),
            bias: bias.then(|| init.uniform("bias", [outputs], bound)),
        }
    }

    /// `[B, in, 1, T]` to `[B, out, 1, T]`, plus `added`.
    pub(super) fn forward(&self, x: impl Into<Maps>, added: Added) -> Tensor<4> {
        let weight = self.weight.val();
        let [outputs, inputs, k] = weight.dims();
        let padding = [0, k / 2];
        let kernel = Kernel {
            weight: weight.reshape([outputs, inputs, 1, k]),
            bias: self.bias.as_ref().map(Param::val),
            options: ConvOptions { pad_before: padding, pad_after: padding, ..ConvOptions::same(0) },
        };
        ops::conv2d_with(x, kernel, added)
    }
}

/// Cubic interpolation (Keys 1981) stretched by 2; the sum is 1.
const CUBIC: [f32; 8] =
    [-0.01171875, -0.03515625, 0.11328125, 0.43359375, 0.43359375, 0.11328125, -0.03515625, -0.01171875];

/// A filter of every channel that halves or doubles the length, with mirror padding. Not trained.
#[derive(Module, Debug)]
pub struct Filter {
    /// `[8]`.
    kernel: Param<Tensor<1>>,
}

impl Filter {
    /// Creates the cubic filter for halving.
    pub(super) fn halving(init: &Init) -> Self {
        Self::new(init, 1.0)
    }

    /// Creates the cubic filter for doubling.
    pub(super) fn doubling(init: &Init) -> Self {
        Self::new(init, 2.0)
    }

    fn new(init: &Init, gain: f32) -> Self {
        let taps = CUBIC.map(|tap| gain * tap).to_vec();
        let kernel = init.constant("kernel", [taps.len()], 0.0).set_require_grad(false);
        let kernel = kernel.map(|zeros| {
            let shape = zeros.dims();
            Tensor::from_data(TensorData::new(taps, shape), (&zeros.device(), DType::F32))
        });
        Self { kernel }
    }

    /// `[B, C, 1, T]` to `[B, C, 1, T/2]`: a convolution with stride 2.
    pub(super) fn halve(&self, x: Tensor<4>) -> Tensor<4> {
        in_f32(x, |x| {
            let [b, _, t, c] = x.dims();
            let pairs: Tensor<4> = mirror(x, 3).reshape([b, t / 2 + 3, 2, c]);
            let part = |tap: usize| pairs.clone().narrow(1, tap / 2, t / 2).narrow(2, tap % 2, 1);
            self.sum((0..8).map(|tap| (tap, part(tap)))).reshape([b, 1, t / 2, c])
        })
    }

    /// `[B, C, 1, T]` to `[B, C, 1, 2·T]`: a transposed convolution with stride 2. Half of the taps make the even
    /// positions, the others the odd ones.
    pub(super) fn double(&self, x: Tensor<4>) -> Tensor<4> {
        in_f32(x, |x| {
            let [b, _, t, c] = x.dims();
            let x: Tensor<4> = mirror(x, 2).reshape([b, t + 4, 1, c]);
            let phase =
                |odd: usize| self.sum((0..4).map(|i| (2 * i + 1 - odd, x.clone().narrow(1, 3 + odd - i, t))));
            Tensor::cat(vec![phase(0), phase(1)], 2).reshape([b, 1, 2 * t, c])
        })
    }

    /// The sum of the parts, each times its tap. As sums over whole maps, this is much faster than convolutions with one
    /// channel per group.
    fn sum(&self, parts: impl Iterator<Item = (usize, Tensor<4>)>) -> Tensor<4> {
        let kernel = self.kernel.val();
        let terms = parts.map(|(tap, x)| x * kernel.clone().narrow(0, tap, 1).reshape([1; 4]));
        terms.reduce(|a, b| a + b).expect("at least one part")
    }
}

/// Applies `f` to `[B, C, 1, T]` as `[B, 1, T, C]` in `f32`.
fn in_f32(x: Tensor<4>, f: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    ops::cast_like(channels_last(ops::to_f32(x.clone()), f), &x)
}

/// Adds `n` mirrored positions before and after `[B, 1, T, C]`. Needs more than `n` positions.
fn mirror(x: Tensor<4>, n: usize) -> Tensor<4> {
    x.pad([(n, n), (0, 0)], PadMode::Reflect)
}
