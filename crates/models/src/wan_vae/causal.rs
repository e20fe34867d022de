//! Convolutions that see a frame and those before it. Clips pass in parts; each layer keeps the last frames that it has seen, so
//! that the result is that of the whole clip.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{self as ops, ConvOptions};

use crate::layers::Init;

/// Frames before a frame that a convolution sees.
const SEEN: usize = 2;

/// The last frames that each layer has seen, in the order of the layers.
#[derive(Debug, Default)]
pub(super) struct Past {
    slots: Vec<Option<Tensor<5>>>,
    at: usize,
    parts: usize,
}

impl Past {
    /// Begins with the next part of the clip.
    pub(super) fn begin(&mut self) {
        (self.at, self.parts) = (0, self.parts + 1);
    }

    /// Whether this is the first part, a single frame.
    pub(super) fn is_first(&self) -> bool {
        self.parts <= 1
    }

    /// Leaves out the next layer, which sees nothing in this part.
    pub(super) fn skip(&mut self) {
        self.slot();
    }

    /// The slot of the next layer.
    fn slot(&mut self) -> &mut Option<Tensor<5>> {
        if self.slots.len() <= self.at {
            self.slots.resize_with(self.at + 1, || None);
        }
        self.at += 1;
        &mut self.slots[self.at - 1]
    }
}

/// A convolution over frames and pixels.
#[derive(Module, Debug)]
pub struct CausalConv {
    /// `[out, in, frames, k, k]`.
    weight: Param<Tensor<5>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl CausalConv {
    /// With weights and bias uniform within `1/√(in·frames·k²)`.
    pub(super) fn new(init: &Init, inputs: usize, outputs: usize, [frames, k]: [usize; 2]) -> Self {
        let bound = 1.0 / ((inputs * frames * k * k) as f64).sqrt();
        Self {
            weight: init.uniform("weight", [outputs, inputs, frames, k, k], bound),
            bias: init.uniform("bias", [outputs], bound),
        }
    }

    fn apply(&self, x: Tensor<5>, stride: usize, before: usize) -> Tensor<5> {
        let weight = self.weight.val();
        let pad = weight.dims()[3] / 2;
        let options = ConvOptions::<3> {
            stride: [stride, 1, 1],
            pad_before: [before, pad, pad],
            pad_after: [0, pad, pad],
            ..ConvOptions::same(0)
        };
        ops::conv3d(x, weight, Some(self.bias.val()), options)
    }

    /// Each frame for itself, for kernels of one frame.
    pub(super) fn alone(&self, x: Tensor<5>) -> Tensor<5> {
        self.apply(x, 1, 0)
    }

    /// Each frame with the two before it, for kernels of three frames. What is before the clip is 0.
    pub(super) fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let new = x.dims()[2];
        let slot = past.slot();
        let seen = match slot.take() {
            Some(before) => Tensor::cat(vec![before, x], 2),
            None => x,
        };
        let all = seen.dims()[2];
        let kept = all.min(SEEN);
        *slot = Some(seen.clone().narrow(2, all - kept, kept));
        self.apply(seen, 1, SEEN.saturating_sub(all - new))
    }

    /// Every second frame with the two before it: half as many frames. The first frame of a clip is left as it is.
    pub(super) fn halve(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let new = x.dims()[2];
        let last = x.clone().narrow(2, new - 1, 1);
        match past.slot().replace(last) {
            None => x,
            Some(before) => self.apply(Tensor::cat(vec![before, x], 2), 2, 0),
        }
    }
}
