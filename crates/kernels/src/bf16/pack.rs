//! Packs weights in the order in which products read them.

use super::{
    Bf16,
    simd::{Dot, dispatch16, panel_width},
    transform::kernel_taps,
};
use crate::{
    Isa,
    par::{self, Ptr, Scratch},
    simd::{LANES, Simd},
};

/// Panels `[panels][taps][pairs][width][2]`, zero beyond the last column and term. All panels have the microkernel's
/// width, except that the last may be one vector wide.
pub(super) struct Packed {
    data: Scratch,
    len: usize,
    pub taps: usize,
    pub pairs: usize,
    /// Number of columns.
    pub n: usize,
    /// Columns per panel.
    pub width: usize,
}

/// Two terms of sixteen columns.
pub(super) type Pair = [[f32; LANES]; 2];

/// Pairs gathered before they are written: a vector read right after its values were written would stall.
const GATHERED: usize = 8;

impl Packed {
    /// Packs `k` terms of `n` columns per tap: `fill(first column, columns, pair, to)` writes the pair for all `taps` to
    /// `to[tap]`, which is zeroed before.
    pub(super) fn new(
        isa: Isa,
        [taps, k, n]: [usize; 3],
        fill: impl Fn(usize, usize, usize, &mut [Pair]) + Sync + Send,
    ) -> Self {
        Self::transformed(isa, [taps, taps, k, n], fill)
    }

    /// Like [`Packed::new`], where `fill` writes only `given` taps, those of 3×3 kernels before the transform.
    pub(super) fn transformed(
        isa: Isa,
        [given, taps, k, n]: [usize; 4],
        fill: impl Fn(usize, usize, usize, &mut [Pair]) + Sync + Send,
    ) -> Self {
        let (width, pairs) = (panel_width(isa), k.div_ceil(2));
        let columns = if n % width <= LANES { n.next_multiple_of(LANES) } else { n.next_multiple_of(width) };
        let len = 2 * columns * taps * pairs;
        let packed = Self { data: Scratch::allocate(len.div_ceil(2)), len, taps, pairs, n, width };
        let start = packed.data.ptr();
        // A task packs sixteen columns of a panel.
        par::for_each(n.div_ceil(LANES), |strip| {
            let first = strip * LANES;
            let panel = first / width * width;
            let pair_step = 2 * width.min(columns - panel);
            let steps = [pair_step, pairs * pair_step];
            let mut values = vec![[[0.0f32; LANES]; 2]; given * GATHERED];
            for pair in (0..pairs).step_by(GATHERED) {
                let count = GATHERED.min(pairs - pair);
                values.fill([[0.0; LANES]; 2]);
                for (i, values) in values.chunks_exact_mut(given.max(1)).enumerate().take(count) {
                    fill(first, LANES.min(n - first), pair + i, values);
                }
                let at = 2 * panel * taps * pairs + pair * pair_step + 2 * (first - panel);
                // SAFETY: within the `len` values allocated; each task owns its columns.
                unsafe {
                    let to = start.get().cast::<Bf16>().add(at);
                    let (values, tiles) = (&values[..count * given], given != taps);
                    dispatch16!(isa, write[](values: &[Pair], given: usize, tiles: bool, to: *mut Bf16, steps: [usize; 2]))
                }
            }
        });
        packed
    }

    /// The panels from column `first` on, which must start a panel.
    pub(super) fn panels(&self, first: usize) -> Ptr<Bf16> {
        let start = self.data.ptr().get().cast::<Bf16>();
        Ptr::from_const(start.wrapping_add(2 * first * self.taps * self.pairs))
    }

    pub(super) fn bytes(&self) -> usize {
        self.len * size_of::<Bf16>()
    }
}

/// Rounds and writes pairs of `given` taps each, or of their transforms if `tiles`; `steps` are the distances
/// between pairs and between taps.
#[inline(always)]
unsafe fn write<D: Dot>(values: &[Pair], given: usize, tiles: bool, to: *mut Bf16, steps: [usize; 2]) {
    for (i, values) in values.chunks_exact(given.max(1)).enumerate() {
        let to = to.add(i * steps[0]);
        if tiles {
            let (a, b) = (kernel_taps::<D>(values, 0), kernel_taps::<D>(values, 1));
            for point in 0..a.len() {
                D::narrow_pairs(to.add(point * steps[1]), a[point], b[point]);
            }
        } else {
            for (tap, [a, b]) in values.iter().enumerate() {
                D::narrow_pairs(to.add(tap * steps[1]), D::S::load(a.as_ptr()), D::S::load(b.as_ptr()));
            }
        }
    }
}
