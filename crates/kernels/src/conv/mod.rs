//! 2-D convolutions and their gradients.
//!
//! Images are `[batch, height, width, channels]`; weights are PyTorch's
//! `[out channels, in channels / groups, kernel height, kernel width]`. [`volume`] handles one and three dimensions.

mod algorithm;
mod direct;
mod input;
mod sums;
pub mod volume;

use crate::{Isa, resample, winograd};

pub use algorithm::Algorithm;
pub use input::{Epilogue, Input};
use volume::Volume;

/// Shape of a 2-D convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// Batch size.
    pub batch: usize,
    /// Input height and width.
    pub size: [usize; 2],
    /// Input channels.
    pub in_channels: usize,
    /// Output channels.
    pub out_channels: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Distance between output pixels, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zero padding before (top, left).
    pub pad_before: [usize; 2],
    /// Zero padding after (bottom, right).
    pub pad_after: [usize; 2],
    /// Distance between taps.
    pub dilation: [usize; 2],
    /// Number of channel groups.
    pub groups: usize,
}

impl Conv {
    /// Output height and width; zero if the padded input is smaller than the kernel.
    pub fn out_size(&self) -> [usize; 2] {
        std::array::from_fn(|i| {
            let padded = self.size[i] + self.pad_before[i] + self.pad_after[i];
            let span = self.dilation[i] * (self.kernel[i].max(1) - 1) + 1;
            if padded < span { 0 } else { (padded - span) / self.stride[i] + 1 }
        })
    }

    /// Lengths of the input, the weights and the output.
    pub fn lens(&self) -> [usize; 3] {
        let [oh, ow] = self.out_size();
        [
            self.batch * self.size[0] * self.size[1] * self.in_channels,
            self.out_channels * (self.in_channels / self.groups) * self.kernel[0] * self.kernel[1],
            self.batch * oh * ow * self.out_channels,
        ]
    }

    pub(crate) fn check(&self, w: usize, y: usize) {
        let [x, ..] = self.lens();
        Volume::from(self).check(x, w, y);
    }

    fn is_same3x3(&self) -> bool {
        self.kernel == [3; 2]
            && self.stride == [1; 2]
            && self.dilation == [1; 2]
            && self.pad_before == [1; 2]
            && self.pad_after == [1; 2]
            && self.groups == 1
    }
}

/// `out = x ⋆ w (+ bias)`.
pub fn forward(isa: Isa, c: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    forward_with(isa, c, Input::from(x), w, Epilogue { bias, residual: None }, out);
}

/// Like [`forward`], for an input that need not exist as one map, and with `epilogue`. Gives the same bits as
/// concatenated and upsampled maps.
pub fn forward_with(isa: Isa, c: &Conv, x: Input<'_>, w: &[f32], epilogue: Epilogue<'_>, out: &mut [f32]) {
    forward_by(Algorithm::of(c), isa, c, x, w, epilogue, out);
}

/// Like [`forward_with`], with one of [`Algorithm::all`].
pub fn forward_by(
    algorithm: Algorithm,
    isa: Isa,
    c: &Conv,
    x: Input<'_>,
    w: &[f32],
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    c.check(w.len(), out.len());
    x.check(c);
    epilogue.check(c.batch, c.out_channels, out.len());
    match algorithm.edge() {
        Some(edge) => {
            assert!(c.is_same3x3(), "{algorithm:?} for {c:?}");
            winograd::forward(isa, c, edge, &x, w, epilogue, out);
        }
        None => direct::forward(isa, &c.into(), &x, w, epilogue, out),
    }
}

/// Packed weights, for a layer that runs many times.
pub struct Prepared {
    kernels: Kernels,
    isa: Isa,
    /// A layer with these weights.
    layer: Conv,
}

enum Kernels {
    Fast(winograd::Prepared),
    Direct(direct::Prepared),
}

impl Prepared {
    /// Packs the weights of `c` for the algorithm chosen for it; `None` if it uses them unpacked.
    pub fn new(isa: Isa, c: &Conv, w: &[f32]) -> Option<Self> {
        Self::by(Algorithm::of(c), isa, c, w)
    }

    /// Packs the weights of `c` for one of [`Algorithm::all`].
    pub fn by(algorithm: Algorithm, isa: Isa, c: &Conv, w: &[f32]) -> Option<Self> {
        assert_eq!(w.len(), c.lens()[1], "length of the weights of {c:?}");
        let kernels = match (algorithm.edge(), c.groups) {
            (Some(edge), _) => {
                assert!(c.is_same3x3(), "{algorithm:?} for {c:?}");
                Kernels::Fast(winograd::prepare(isa, c, edge, w))
            }
            (None, 1) => Kernels::Direct(direct::prepare(isa, &c.into(), w)),
            _ => return None,
        };
        Some(Self { kernels, isa, layer: *c })
    }

    /// Whether packed weights make a call faster. They do not if many tiles share the cost of transforming a kernel.
    pub fn pays(algorithm: Algorithm, c: &Conv) -> bool {
        algorithm.edge().is_none_or(|edge| !winograd::has_many_tiles(c, edge))
    }

    /// Size of the packed weights in bytes: those of the weights, times 4 for F(4×4) and 1.8 for F(2×2).
    pub fn bytes(algorithm: Algorithm, c: &Conv) -> usize {
        let numbers = c.lens()[1];
        let numbers = match (algorithm.edge(), c.groups) {
            (Some(edge), _) => numbers / 9 * edge.points(),
            (None, 1) => numbers,
            (None, _) => 0,
        };
        numbers * size_of::<f32>()
    }

    /// Like [`forward_by`] with these weights and their algorithm, bit for bit, for any batch and map size of the layer.
    pub fn forward(&self, c: &Conv, x: Input<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
        let of = |c: &Conv| (c.in_channels, c.out_channels, c.kernel, c.groups);
        assert_eq!(of(c), of(&self.layer), "the weights were prepared for another layer");
        c.check(c.lens()[1], out.len());
        x.check(c);
        epilogue.check(c.batch, c.out_channels, out.len());
        match &self.kernels {
            Kernels::Fast(w) => {
                assert!(
                    c.is_same3x3(),
                    "the weights were prepared for Winograd's algorithm, which does not support {c:?}"
                );
                winograd::forward_prepared(self.isa, c, &x, w, epilogue, out);
            }
            Kernels::Direct(w) => direct::forward_prepared(self.isa, &c.into(), &x, w, epilogue, out),
        }
    }
}

/// The gradient of the input, given that of the output.
pub fn data_gradient(isa: Isa, c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    c.check(w.len(), dy.len());
    assert_eq!(dx.len(), c.lens()[0], "length of the input gradient of {c:?}");
    match Algorithm::summing(c, c.out_channels).edge() {
        Some(edge) => winograd::data_gradient(isa, c, edge, dy, w, dx, false),
        None => direct::data_gradient(isa, &c.into(), dy, w, None, dx),
    }
}

/// The gradient of the half-size maps that [`Input::doubled`] reads.
pub fn data_gradient_doubled(isa: Isa, c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    c.check(w.len(), dy.len());
    let ([x, ..], half) = (c.lens(), c.size.map(|s| s / 2));
    assert!(c.size.iter().all(|s| s.is_multiple_of(2)), "doubled maps must have even sizes: {c:?}");
    assert_eq!(dx.len(), x / 4, "length of the half-size input gradient of {c:?}");
    if let Some(edge) = Algorithm::summing(c, c.out_channels).edge() {
        winograd::data_gradient(isa, c, edge, dy, w, dx, true);
    } else {
        let mut whole = vec![0.0; x];
        direct::data_gradient(isa, &c.into(), dy, w, None, &mut whole);
        resample::upsample_gradient(&whole, c.batch, half, c.size, c.in_channels, dx);
    }
}

/// The gradient of the weights, given that of the output.
pub fn weight_gradient(isa: Isa, c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    weight_gradient_with(isa, c, Input::from(x), dy, dw);
}

/// Like [`weight_gradient`], for an input that need not exist as one map.
pub fn weight_gradient_with(isa: Isa, c: &Conv, x: Input<'_>, dy: &[f32], dw: &mut [f32]) {
    c.check(dw.len(), dy.len());
    x.check(c);
    if Algorithm::summing(c, c.in_channels.min(c.out_channels)) != Algorithm::Direct {
        winograd::weight_gradient(isa, c, &x, dy, dw);
        return;
    }
    let taps = c.kernel[0] * c.kernel[1];
    let mut first = 0;
    for (part, channels) in x.each(c.in_channels) {
        let volume = Volume { in_channels: channels, ..c.into() };
        if channels == c.in_channels {
            sums::weight_gradient(isa, &volume, &part, dy, dw);
        } else if channels > 0 {
            let row = channels * taps;
            let mut own = vec![0.0; c.out_channels * row];
            sums::weight_gradient(isa, &volume, &part, dy, &mut own);
            for (to, own) in dw.chunks_exact_mut(c.in_channels * taps).zip(own.chunks_exact(row)) {
                to[first * taps..][..row].copy_from_slice(own);
            }
        }
        first += channels;
    }
}
