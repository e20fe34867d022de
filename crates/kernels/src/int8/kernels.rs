//! Weights of convolutions in eight bits.

use super::{MOST, quantize};
use crate::{
    Isa,
    conv::{self, Algorithm, Conv, Epilogue, Input},
    par::{self, Ptr},
    simd::LANES,
    winograd,
};

/// The weights of a convolution, in eight bits: `s·q`, with `q` in -127..=127 and one `s` per output channel.
pub struct Kernels {
    /// In PyTorch's order, and a vector's length more.
    bytes: Vec<i8>,
    scales: Vec<f32>,
    len: usize,
}

impl Kernels {
    /// From `w: [out channels, ...]`, as [`conv::forward`] takes it.
    pub fn new(isa: Isa, w: &[f32], out_channels: usize) -> Self {
        let row = w.len() / out_channels.max(1);
        assert_eq!(w.len(), row * out_channels, "weights of {out_channels} output channels");
        let mut bytes = vec![0i8; w.len() + LANES];
        let mut scales = vec![0.0f32; out_channels];
        let to = (Ptr::new(&mut bytes), Ptr::new(&mut scales));
        par::for_each(out_channels, |channel| {
            let (bytes, scales) = to;
            // SAFETY: each task owns its output channel.
            unsafe {
                let own = std::slice::from_raw_parts_mut(bytes.get().add(channel * row), row);
                *scales.get().add(channel) = quantize::weights(isa, &w[channel * row..][..row], MOST, own);
            }
        });
        Self { bytes, scales, len: w.len() }
    }

    /// As [`conv::forward_with`] of the weights that these stand for.
    pub fn forward(&self, isa: Isa, c: &Conv, x: Input<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
        assert_eq!(self.scales.len(), c.out_channels, "output channels of {c:?}");
        c.check(self.len, out.len());
        x.check(c);
        epilogue.check(c.batch, c.out_channels, out.len());
        match Algorithm::of(c).edge() {
            Some(edge) => {
                let weights = (&self.bytes[..], &self.scales[..]);
                winograd::forward_bytes(isa, c, edge, &x, weights, epilogue, out);
            }
            None => conv::forward_with(isa, c, x, &self.widened(), epilogue, out),
        }
    }

    /// The weights that these stand for.
    pub fn widened(&self) -> Vec<f32> {
        let row = (self.len / self.scales.len().max(1)).max(1);
        let rows = self.bytes[..self.len].chunks_exact(row).zip(&self.scales);
        rows.flat_map(|(row, s)| row.iter().map(move |q| f32::from(*q) * s)).collect()
    }
}
