//! Weights in the order in which products read them.

use super::{
    Bf16,
    simd::{panel_width, round},
};
use crate::{
    Isa,
    par::{self, Ptr, Scratch},
    simd::LANES,
};

/// Panels `[panels][taps][pairs][width][2]`, zeros beyond the last column and the last term. All panels have
/// the microkernel's width, but the last may be one vector wide.
pub(super) struct Packed {
    data: Scratch,
    len: usize,
    pub taps: usize,
    pub pairs: usize,
    /// Columns.
    pub n: usize,
    /// Columns of a panel.
    pub width: usize,
}

impl Packed {
    /// Packs `k` terms of `n` columns per tap: `fill(first column, columns, pair, to)` writes the pair of all
    /// `taps` to `to[tap][..]`, each `[columns][2]`, cleared before.
    pub(super) fn new(
        isa: Isa,
        [taps, k, n]: [usize; 3],
        fill: impl Fn(usize, usize, usize, &mut [[f32; 2 * LANES]]) + Sync + Send,
    ) -> Self {
        let (width, pairs) = (panel_width(isa), k.div_ceil(2));
        let columns = if n % width <= LANES { n.next_multiple_of(LANES) } else { n.next_multiple_of(width) };
        let len = 2 * columns * taps * pairs;
        let packed = Self { data: Scratch::allocate(len.div_ceil(2)), len, taps, pairs, n, width };
        let start = packed.data.ptr();
        // Sixteen columns of a panel are a task.
        par::for_each(n.div_ceil(LANES), |strip| {
            let first = strip * LANES;
            let panel = first / width * width;
            let panel_columns = width.min(columns - panel);
            let mut values = vec![[0.0f32; 2 * LANES]; taps];
            for pair in 0..pairs {
                values.iter_mut().for_each(|v| v.fill(0.0));
                fill(first, LANES.min(n - first), pair, &mut values);
                for (tap, values) in values.iter().enumerate() {
                    let at =
                        2 * panel * taps * pairs + 2 * ((tap * pairs + pair) * panel_columns + first - panel);
                    // SAFETY: within the `len` numbers allocated; each task owns its columns.
                    unsafe {
                        let to = start.get().cast::<Bf16>().add(at);
                        for (i, v) in values.iter().enumerate() {
                            *to.add(i) = round(*v);
                        }
                    }
                }
            }
        });
        packed
    }

    /// The panels from column `first` on, where a panel starts.
    pub(super) fn panels(&self, first: usize) -> Ptr<Bf16> {
        let start = self.data.ptr().get().cast::<Bf16>();
        Ptr::from_const(start.wrapping_add(2 * first * self.taps * self.pairs))
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<Bf16>()
    }
}
