//! 2-D convolutions and their gradients.
//!
//! Images are `[batch, height, width, channels]`; weights are PyTorch's
//! `[out channels, in channels / groups, kernel height, kernel width]`.

mod direct;

use crate::{Isa, winograd};

/// Shape of a 2-D convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Images.
    pub batch: usize,
    /// Input height and width.
    pub size: [usize; 2],
    /// Channels in.
    pub in_channels: usize,
    /// Channels out.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Step between output pixels.
    pub stride: [usize; 2],
    /// Zeros before (top, left).
    pub pad_before: [usize; 2],
    /// Zeros after (bottom, right).
    pub pad_after: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

impl Conv {
    /// Output height and width; zero where the padded input is smaller than the kernel.
    pub fn out_size(&self) -> [usize; 2] {
        std::array::from_fn(|i| {
            let padded = self.size[i] + self.pad_before[i] + self.pad_after[i];
            let span = self.dilation[i] * (self.kernel[i].max(1) - 1) + 1;
            if padded < span { 0 } else { (padded - span) / self.stride[i] + 1 }
        })
    }

    /// Numbers in the input, the weight and the output.
    pub fn lens(&self) -> [usize; 3] {
        let [oh, ow] = self.out_size();
        [
            self.batch * self.size[0] * self.size[1] * self.in_channels,
            self.out_channels * (self.in_channels / self.groups) * self.kernel[0] * self.kernel[1],
            self.batch * oh * ow * self.out_channels,
        ]
    }

    fn check(&self, x: usize, w: usize, y: usize) {
        let positive = [self.stride, self.dilation].iter().flatten().all(|&v| v > 0);
        assert!(positive && self.groups > 0, "stride, dilation and groups are positive: {self:?}");
        let divides =
            self.in_channels.is_multiple_of(self.groups) && self.out_channels.is_multiple_of(self.groups);
        assert!(divides, "groups divide the channels: {self:?}");
        assert_eq!([x, w, y], self.lens(), "lengths of input, weight and output of {self:?}");
    }

    fn is_same3x3(&self) -> bool {
        self.kernel == [3; 2]
            && self.stride == [1; 2]
            && self.dilation == [1; 2]
            && self.pad_before == [1; 2]
            && self.pad_after == [1; 2]
            && self.groups == 1
    }

    /// Whether the fast 3×3 algorithm computes a sum over `depth` channels. A rule of the layer and its map
    /// alone, so that a row's bits do not depend on its batch.
    fn is_fast(&self, depth: usize) -> bool {
        self.is_same3x3() && depth >= 12 && self.size.iter().all(|&s| s >= 3)
    }
}

/// `out = x ⋆ w (+ bias)`.
pub fn forward(isa: Isa, c: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    c.check(x.len(), w.len(), out.len());
    assert!(bias.is_none_or(|b| b.len() == c.out_channels), "one bias per output channel");
    if c.is_fast(c.in_channels) {
        winograd::forward(isa, c, x, w, bias, out);
    } else {
        direct::forward(isa, c, x, w, bias, out);
    }
}

/// Weights as a layer's algorithm reads them, those of the fast one four times as large: for a layer that runs
/// again and again.
pub struct Prepared {
    kernels: Kernels,
    isa: Isa,
    channels: [usize; 2],
}

enum Kernels {
    Fast(winograd::Prepared),
    Direct(direct::Prepared),
}

impl Prepared {
    /// The weights of `c`; `None` where they are used as they are.
    pub fn new(isa: Isa, c: &Conv, w: &[f32]) -> Option<Self> {
        assert_eq!(w.len(), c.lens()[1], "length of the weight of {c:?}");
        let kernels = match (c.is_fast(c.in_channels), c.groups) {
            (true, _) => Kernels::Fast(winograd::prepare(isa, c, w)),
            (false, 1) => Kernels::Direct(direct::prepare(isa, c, w)),
            _ => return None,
        };
        Some(Self { kernels, isa, channels: [c.in_channels, c.out_channels] })
    }

    /// Whether a call is faster with prepared weights: not where each kernel, transformed anew, meets many tiles.
    pub fn pays(c: &Conv) -> bool {
        !c.is_fast(c.in_channels) || !winograd::has_many_tiles(c)
    }

    /// Bytes held for a layer.
    pub fn bytes(c: &Conv) -> usize {
        let size = match (c.is_fast(c.in_channels), c.groups) {
            (true, _) => 4,
            (false, groups) => usize::from(groups == 1),
        };
        size * c.lens()[1] * size_of::<f32>()
    }

    /// As [`forward`], bit for bit, for any batch and any map that the same algorithm serves.
    pub fn forward(&self, c: &Conv, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        c.check(x.len(), c.lens()[1], out.len());
        assert!(bias.is_none_or(|b| b.len() == c.out_channels), "one bias per output channel");
        let same = self.channels == [c.in_channels, c.out_channels];
        match &self.kernels {
            Kernels::Fast(w) if same && c.is_fast(c.in_channels) => {
                winograd::forward_prepared(self.isa, c, x, w, bias, out);
            }
            Kernels::Direct(w) if same && c.groups == 1 && !c.is_fast(c.in_channels) => {
                direct::forward_prepared(self.isa, c, x, w, bias, out);
            }
            _ => panic!("weights prepared for {:?} channels, not for {c:?}", self.channels),
        }
    }
}

/// The gradient of the input, given that of the output.
pub fn data_gradient(isa: Isa, c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    c.check(dx.len(), w.len(), dy.len());
    if c.is_fast(c.out_channels) {
        winograd::data_gradient(isa, c, dy, w, dx);
    } else {
        direct::data_gradient(isa, c, dy, w, dx);
    }
}

/// The gradient of the weight, given that of the output.
pub fn weight_gradient(isa: Isa, c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    c.check(x.len(), dw.len(), dy.len());
    if c.is_fast(c.in_channels.min(c.out_channels)) {
        winograd::weight_gradient(isa, c, x, dy, dw);
    } else {
        direct::weight_gradient(isa, c, x, dy, dw);
    }
}
