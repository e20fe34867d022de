//! Convolutions of any shape in one to three dimensions, and their gradients. The data gradient with a bias is the
//! transposed convolution.
//!
//! Maps are `[batch, depth, height, width, channels]`, weights are PyTorch's `[out channels, in channels / groups,
//! kernel depth, height, width]`. Sequences have a depth and height of 1.

use super::{Conv, Epilogue, Input, direct, sums};
use crate::Isa;

/// Shape of a convolution in depth, height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Batch size.
    pub batch: usize,
    /// Input depth, height and width.
    pub size: [usize; 3],
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel depth, height and width.
    pub kernel: [usize; 3],
    /// Distances between output positions.
    pub stride: [usize; 3],
    /// Zero padding before (front, top, left).
    pub pad_before: [usize; 3],
    /// Zero padding after (back, bottom, right).
    pub pad_after: [usize; 3],
    /// Distances between taps.
    pub dilation: [usize; 3],
    /// Number of channel groups.
    pub groups: usize,
}

impl From<&Conv> for Volume {
    fn from(c: &Conv) -> Self {
        let along = |first: usize, v: [usize; 2]| [first, v[0], v[1]];
        Self {
            batch: c.batch,
            size: along(1, c.size),
            in_channels: c.in_channels,
            out_channels: c.out_channels,
            kernel: along(1, c.kernel),
            stride: along(1, c.stride),
            pad_before: along(0, c.pad_before),
            pad_after: along(0, c.pad_after),
            dilation: along(1, c.dilation),
            groups: c.groups,
        }
    }
}

impl Volume {
    /// Output depth, height and width; zero if the padded input is smaller than the kernel.
    pub fn out_size(&self) -> [usize; 3] {
        std::array::from_fn(|i| {
            let padded = self.size[i] + self.pad_before[i] + self.pad_after[i];
            let span = self.dilation[i] * (self.kernel[i].max(1) - 1) + 1;
            if padded < span { 0 } else { (padded - span) / self.stride[i] + 1 }
        })
    }

    /// Lengths of the input, the weights and the output.
    pub fn lens(&self) -> [usize; 3] {
        let points = |size: [usize; 3]| self.batch * size.iter().product::<usize>();
        [
            points(self.size) * self.in_channels,
            self.out_channels * (self.in_channels / self.groups.max(1)) * self.taps(),
            points(self.out_size()) * self.out_channels,
        ]
    }

    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    pub(super) fn check(&self, x: usize, w: usize, y: usize) {
        let positive = [self.stride, self.dilation].iter().flatten().all(|&v| v > 0);
        assert!(positive && self.groups > 0, "stride, dilation and groups must be positive: {self:?}");
        let divides =
            self.in_channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups);
        assert!(divides, "groups must divide the channels: {self:?}");
        assert_eq!([x, w, y], self.lens(), "lengths of input, weights and output of {self:?}");
    }
}

/// `out = x ⋆ w (+ bias)`, with a bias per output channel.
pub fn forward(isa: Isa, v: &Volume, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    v.check(x.len(), w.len(), out.len());
    let epilogue = Epilogue { bias, residual: None };
    epilogue.check(v.batch, v.out_channels, out.len());
    direct::forward(isa, v, &Input::from(x), w, epilogue, out);
}

/// The gradient of the input, given that of the output, plus a bias per input channel for transposed convolutions.
pub fn data_gradient(isa: Isa, v: &Volume, dy: &[f32], w: &[f32], bias: Option<&[f32]>, dx: &mut [f32]) {
    v.check(dx.len(), w.len(), dy.len());
    assert!(bias.is_none_or(|b| b.len() == v.in_channels), "expected one bias per input channel of {v:?}");
    direct::data_gradient(isa, v, dy, w, bias, dx);
}

/// The gradient of the weights, given that of the output.
pub fn weight_gradient(isa: Isa, v: &Volume, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    v.check(x.len(), dw.len(), dy.len());
    sums::weight_gradient(isa, v, &Input::from(x), dy, dw);
}
