//! The register-tiled inner loop of all matrix products.
//!
//! Every output element is one chain of pair products in the order of taps and pairs, so its bits only depend on the
//! length of the sum, not on the tile or the position in it.

use super::{
    Bf16, Element,
    simd::{Dot, dispatch16, load_part, store_part},
};
use crate::{
    Isa,
    simd::{LANES, Simd},
};

/// `out[i][j] = Σ_tap Σ_k rows[tap][i][k]·b[tap][k][j] (+ bias[i][j]) (+ residual[i][j])`. Rows are given by
/// pointers, so a convolution needs no unfolded copy of its input.
#[derive(Clone, Copy)]
pub(super) struct Job<O> {
    /// `[taps][m]` pointers to `pairs` pairs each.
    pub rows: *const *const Bf16,
    /// Offset added to each of these pointers.
    pub offset: usize,
    pub m: usize,
    pub taps: usize,
    pub pairs: usize,
    /// Panels `[taps][pairs][width][2]` from column `first` on.
    pub b: *const Bf16,
    /// First column; starts a panel.
    pub first: usize,
    /// End of the columns: the end of a panel, or of all columns.
    pub end: usize,
    /// Row 0, column 0.
    pub out: *mut O,
    /// Distance between rows of `out` and of `residual`.
    pub ld: usize,
    /// `[m]` pointers to the biases from column 0 on, or null.
    pub bias: *const *const f32,
    /// Row 0, column 0, or null.
    pub residual: *const Bf16,
}

/// Values of a panel between what is multiplied and what is prefetched.
const AHEAD: usize = 4096;

/// # Safety
/// The pointers must be as documented in [`Job`].
pub(super) unsafe fn product<O: Element>(isa: Isa, job: &Job<O>) {
    dispatch16!(isa, rows[O](job: &Job<O>))
}

#[inline(always)]
pub(super) unsafe fn rows<D: Dot, O: Element>(job: &Job<O>) {
    let (mut column, mut b) = (job.first, job.b);
    while column < job.end {
        let left = job.end - column;
        let vectors = if D::NV == 2 && left > LANES {
            tiles::<D, O, 2>(job, b, column);
            2
        } else {
            tiles::<D, O, 1>(job, b, column);
            1
        };
        column += vectors * LANES;
        b = b.add(2 * vectors * LANES * job.taps * job.pairs);
    }
}

#[inline(always)]
unsafe fn tiles<D: Dot, O: Element, const NV: usize>(job: &Job<O>, b: *const Bf16, column: usize) {
    let mut i = 0;
    while i < job.m {
        i += match (job.m - i).min(D::MR) {
            12.. => tile::<D, O, 12, NV>(job, b, i, column),
            8..12 => tile::<D, O, 8, NV>(job, b, i, column),
            6..8 => tile::<D, O, 6, NV>(job, b, i, column),
            4..6 => tile::<D, O, 4, NV>(job, b, i, column),
            2..4 => tile::<D, O, 2, NV>(job, b, i, column),
            _ => tile::<D, O, 1, NV>(job, b, i, column),
        };
    }
}

#[inline(always)]
unsafe fn tile<D: Dot, O: Element, const MR: usize, const NV: usize>(
    job: &Job<O>,
    b: *const Bf16,
    i: usize,
    column: usize,
) -> usize {
    let mut acc = [[D::S::zero(); NV]; MR];
    let mut b = b;
    for tap in 0..job.taps {
        let mut a = [std::ptr::null(); MR];
        for r in 0..MR {
            a[r] = (*job.rows.add(tap * job.m + i + r)).add(job.offset);
        }
        for pair in 0..job.pairs {
            let mut bv = [D::pairs(b); NV];
            for v in 1..NV {
                bv[v] = D::pairs(b.add(v * 2 * LANES));
            }
            // Few rows read panels faster than prefetches can be issued.
            if MR >= 8 {
                for v in 0..NV {
                    D::S::prefetch(b.wrapping_add(AHEAD + v * 2 * LANES).cast());
                }
            }
            b = b.add(NV * 2 * LANES);
            for r in 0..MR {
                let av = D::broadcast(a[r].add(2 * pair));
                for v in 0..NV {
                    acc[r][v] = D::dot(acc[r][v], av, bv[v]);
                }
            }
        }
    }
    // `acc` may only be indexed by constants; other indices would move it from registers to the stack.
    let whole = column + NV * LANES <= job.end;
    if !O::HALF && whole && job.bias.is_null() && job.residual.is_null() {
        for r in 0..MR {
            for v in 0..NV {
                store_part::<D, O, false>(
                    job.out.add((i + r) * job.ld + column + v * LANES),
                    acc[r][v],
                    LANES,
                );
            }
        }
        return MR;
    }
    let mut sums = [[[0.0f32; LANES]; NV]; MR];
    for r in 0..MR {
        for v in 0..NV {
            D::S::store(sums[r][v].as_mut_ptr(), acc[r][v]);
        }
    }
    let sums = sums.as_flattened();
    if whole {
        finish::<D, O, NV, false>(job, sums, i, column);
    } else {
        finish::<D, O, NV, true>(job, sums, i, column);
    }
    MR
}

/// Adds bias and residual to `sums: [rows][NV]` and stores them.
#[inline(always)]
unsafe fn finish<D: Dot, O: Element, const NV: usize, const TAIL: bool>(
    job: &Job<O>,
    sums: &[[f32; LANES]],
    i: usize,
    column: usize,
) {
    for (r, sums) in sums.chunks_exact(NV).enumerate() {
        for v in 0..NV {
            let at = column + v * LANES;
            let valid = job.end.saturating_sub(at);
            let mut sum = D::S::load(sums[v].as_ptr());
            if !job.bias.is_null() {
                let bias = (*job.bias.add(i + r)).wrapping_add(at);
                sum = D::S::add(sum, load_part::<D, f32, TAIL>(bias, valid));
            }
            let place = (i + r) * job.ld + at;
            if !job.residual.is_null() {
                let residual = job.residual.wrapping_add(place);
                sum = D::S::add(sum, load_part::<D, Bf16, TAIL>(residual, valid));
            }
            store_part::<D, O, TAIL>(job.out.wrapping_add(place), sum, valid);
        }
    }
}
