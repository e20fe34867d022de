//! Packs the right-hand factor of a product into panels.

use crate::{
    isa::Isa,
    par::{self, Ptr},
};

/// A strided right-hand factor `b[tap][k][n]`.
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    pub start: *const f32,
    pub taps: usize,
    pub k: usize,
    pub n: usize,
    pub tap_stride: isize,
    pub k_stride: isize,
    pub n_stride: isize,
}

/// Number of values that [`pack`] writes.
pub(crate) fn packed_len(isa: Isa, taps: usize, k: usize, n: usize) -> usize {
    let width = super::panel_width(isa, n);
    n.div_ceil(width) * width * taps * k
}

/// Writes panels `[panels][taps][k][width]`, zero beyond `n`.
///
/// # Safety
/// `out` must hold [`packed_len`] values, and the factor's strides must stay inside its buffer.
pub(crate) unsafe fn pack(isa: Isa, factor: Factor, out: Ptr<f32>) {
    let width = super::panel_width(isa, factor.n);
    let source = Ptr::from_const(factor.start);
    let Factor { taps, k, n, tap_stride, k_stride, n_stride, .. } = factor;
    let panel_len = width * taps * k;
    let one = |panel: usize| {
        let first = panel * width;
        let lanes = width.min(n - first);
        for tap in 0..taps {
            let from = source.get().offset(tap as isize * tap_stride + first as isize * n_stride);
            let to = out.get().add(panel * panel_len + tap * k * width);
            if n_stride == 1 {
                for i in 0..k {
                    let to = to.add(i * width);
                    std::ptr::copy_nonoverlapping(from.offset(i as isize * k_stride), to, lanes);
                    to.add(lanes).write_bytes(0, width - lanes);
                }
            } else {
                for i in 0..k {
                    let from = from.offset(i as isize * k_stride);
                    for lane in 0..lanes {
                        *to.add(i * width + lane) = *from.offset(lane as isize * n_stride);
                    }
                    to.add(i * width + lanes).write_bytes(0, width - lanes);
                }
            }
        }
    };
    let panels = n.div_ceil(width);
    if taps * k * n < 1 << 14 {
        (0..panels).for_each(one);
    } else {
        par::for_each(panels, one);
    }
}
