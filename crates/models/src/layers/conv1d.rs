//! Convolutions over time.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{ConvOptions, conv_transpose1d, conv1d};

use super::Init;

/// A convolution over time, or a transposed one.
#[derive(Module, Debug)]
pub struct Conv1d {
    /// `[out, in, k]`, or `[in, out, k]` if it is transposed.
    pub weight: Param<Tensor<3>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Conv1d {
    /// Creates it for these channels and this kernel length, with weights and bias uniform within `1/√(in·k)`.
    pub fn new(init: &Init, [from, to, k]: [usize; 3], bias: bool) -> Self {
        let bound = 1.0 / ((from * k) as f64).sqrt();
        Self {
            weight: init.uniform("weight", [to, from, k], bound),
            bias: bias.then(|| init.uniform("bias", [to], bound)),
        }
    }

    /// Creates a transposed one, with weights and bias uniform within `1/√(out·k)`.
    pub fn transposed(init: &Init, [from, to, k]: [usize; 3]) -> Self {
        let bound = 1.0 / ((to * k) as f64).sqrt();
        Self {
            weight: init.uniform("weight", [from, to, k], bound),
            bias: Some(init.uniform("bias", [to], bound)),
        }
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }

    /// `[B, in, T]` to `[B, out, T]`, for an odd kernel length.
    pub fn forward(&self, x: Tensor<3>, dilation: usize) -> Tensor<3> {
        let [_, _, k] = self.weight.dims();
        let options = ConvOptions { dilation: [dilation], ..ConvOptions::same(dilation * (k - 1) / 2) };
        conv1d(x, self.weight.val(), self.bias(), options)
    }

    /// `[B, in, T·rate]` to `[B, out, T]`, for a kernel length of `rate` plus an even number.
    pub fn downsample(&self, x: Tensor<3>, rate: usize) -> Tensor<3> {
        let [_, _, k] = self.weight.dims();
        conv1d(x, self.weight.val(), self.bias(), ConvOptions::strided(rate, (k - rate) / 2))
    }

    /// `[B, in, T]` to `[B, out, T·rate]` if it is transposed, for a kernel length of `rate` plus an even number.
    pub fn upsample(&self, x: Tensor<3>, rate: usize) -> Tensor<3> {
        let [_, _, k] = self.weight.dims();
        let options = ConvOptions::strided(rate, (k - rate) / 2);
        conv_transpose1d(x, self.weight.val(), self.bias(), options, [0])
    }
}
