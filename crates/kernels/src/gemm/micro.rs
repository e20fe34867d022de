//! The two register-tiled inner loops that all matrix products and convolutions run.
//!
//! Every output element is a chain of multiply-adds in the order of `k`, so its bits depend on the
//! length of the sum alone, not on the tile or the place in it.

use crate::{
    isa::{Isa, dispatch},
    simd::{LANES, Simd},
};

/// `out[i] = Σ_tap Σ_k rows[tap][i][k]·b[tap][k] (+ bias) (+ residual[i])`: rows are given by pointers, so a
/// convolution needs no unfolded copy of its input.
#[derive(Clone, Copy)]
pub(crate) struct RowsJob {
    /// `[taps][m]` pointers to `k` numbers each.
    pub rows: *const *const f32,
    /// Added to each of them.
    pub a_offset: usize,
    pub m: usize,
    pub taps: usize,
    /// Numbers of even and of odd taps: other ones where the rows of a tap lie in two parts.
    pub k: [usize; 2],
    /// Panels `[panels][taps][k][width]`.
    pub b: *const f32,
    /// Columns of a panel: 16, or 16 times the instruction set's vectors per row.
    pub width: usize,
    /// Columns in all.
    pub n: usize,
    /// `[m]` pointers to `n` numbers each.
    pub out: *const *mut f32,
    /// Added to each of them.
    pub out_offset: usize,
    /// `[n]`, or null.
    pub bias: *const f32,
    /// `[m]` pointers to `n` numbers each, which `out_offset` is added to as well; or null.
    pub residual: *const *const f32,
    /// Add to what `out` holds.
    pub accumulate: bool,
}

/// Values of a panel between what is multiplied and what is prefetched.
const AHEAD: usize = 2048;

impl RowsJob {
    /// Terms of a sum.
    fn depth(&self) -> usize {
        self.taps.div_ceil(2) * self.k[0] + self.taps / 2 * self.k[1]
    }
}

/// `out[i][j] (+)= Σ_k a[k][i]·b[k][j]`: the transposed product of weight gradients.
#[derive(Clone, Copy)]
pub(crate) struct ColsJob {
    /// `[k]` pointers to `m` numbers each.
    pub a: *const *const f32,
    pub a_offset: usize,
    /// `[k]` pointers to `n` numbers each.
    pub b: *const *const f32,
    pub b_offset: usize,
    pub k: usize,
    pub m: usize,
    pub n: usize,
    /// `[m][ld]`.
    pub out: *mut f32,
    pub ld: usize,
    pub accumulate: bool,
}

/// Columns per packed panel for a product with `n` columns.
pub(crate) fn panel_width(isa: Isa, n: usize) -> usize {
    // SAFETY: an `Isa` exists only where the machine has it.
    let most = unsafe { dispatch!(isa, vectors() -> usize) };
    LANES * if n <= LANES { 1 } else { most }
}

#[inline(always)]
unsafe fn vectors<S: Simd>() -> usize {
    S::NV
}

/// # Safety
/// The pointers hold what [`RowsJob`] says.
pub(crate) unsafe fn rows(isa: Isa, job: &RowsJob) {
    dispatch!(isa, rows_with(job: &RowsJob))
}

/// # Safety
/// The pointers hold what [`ColsJob`] says.
pub(crate) unsafe fn cols(isa: Isa, job: &ColsJob) {
    dispatch!(isa, cols_with(job: &ColsJob))
}

#[inline(always)]
unsafe fn rows_with<S: Simd>(job: &RowsJob) {
    if job.width == LANES || S::NV == 1 { rows_panels::<S, 1>(job) } else { rows_panels::<S, 2>(job) }
}

#[inline(always)]
unsafe fn rows_panels<S: Simd, const NV: usize>(job: &RowsJob) {
    let width = NV * LANES;
    for panel in 0..job.n.div_ceil(width) {
        let b = job.b.add(panel * width * job.depth());
        let first = panel * width;
        let mut i = 0;
        while i < job.m {
            let left = (job.m - i).min(S::MR);
            i += match left {
                12.. => rows_tile::<S, 12, NV>(job, b, i, first),
                8..12 => rows_tile::<S, 8, NV>(job, b, i, first),
                6..8 => rows_tile::<S, 6, NV>(job, b, i, first),
                4..6 => rows_tile::<S, 4, NV>(job, b, i, first),
                2..4 => rows_tile::<S, 2, NV>(job, b, i, first),
                _ => rows_tile::<S, 1, NV>(job, b, i, first),
            };
        }
    }
}

#[inline(always)]
unsafe fn rows_tile<S: Simd, const MR: usize, const NV: usize>(
    job: &RowsJob,
    b: *const f32,
    i: usize,
    first: usize,
) -> usize {
    let mut acc = [[S::zero(); NV]; MR];
    let mut b = b;
    for tap in 0..job.taps {
        let a: [*const f32; MR] =
            std::array::from_fn(|r| (*job.rows.add(tap * job.m + i + r)).add(job.a_offset));
        for k in 0..job.k[tap % 2] {
            let bv: [S::V; NV] = std::array::from_fn(|v| S::load(b.add(v * LANES)));
            for v in 0..NV {
                S::prefetch(b.wrapping_add(AHEAD + v * LANES));
            }
            b = b.add(NV * LANES);
            for r in 0..MR {
                let av = S::splat(*a[r].add(k));
                for v in 0..NV {
                    acc[r][v] = S::fma(av, bv[v], acc[r][v]);
                }
            }
        }
    }
    let whole = first + NV * LANES <= job.n;
    if whole && job.bias.is_null() && job.residual.is_null() {
        // One branch for all of the tile: these loops are unrolled.
        if job.accumulate {
            for r in 0..MR {
                let out = (*job.out.add(i + r)).add(job.out_offset + first);
                for v in 0..NV {
                    acc[r][v] = S::add(S::load(out.add(v * LANES)), acc[r][v]);
                }
            }
        }
        for r in 0..MR {
            let out = (*job.out.add(i + r)).add(job.out_offset + first);
            for v in 0..NV {
                S::store(out.add(v * LANES), acc[r][v]);
            }
        }
        return MR;
    }
    // The finish reads a copy: `acc` stays in registers only while every index into it is a constant, and these
    // loops, with their branches, are not unrolled.
    let mut sums = [[[0.0f32; LANES]; NV]; MR];
    for r in 0..MR {
        for v in 0..NV {
            S::store(sums[r][v].as_mut_ptr(), acc[r][v]);
        }
    }
    if whole {
        rows_finish::<S, NV, false>(job, sums.as_flattened(), i, first);
    } else {
        rows_finish::<S, NV, true>(job, sums.as_flattened(), i, first);
    }
    MR
}

/// Joins `sums: [rows][NV]` with bias, residual and what `out` holds, and stores them.
#[inline(always)]
unsafe fn rows_finish<S: Simd, const NV: usize, const TAIL: bool>(
    job: &RowsJob,
    sums: &[[f32; LANES]],
    i: usize,
    first: usize,
) {
    for v in 0..NV {
        let column = first + v * LANES;
        let valid = if TAIL { job.n.saturating_sub(column).min(LANES) } else { LANES };
        let load = |p| if TAIL { S::load_n(p, valid) } else { S::load(p) };
        let bias = if job.bias.is_null() { S::zero() } else { load(job.bias.wrapping_add(column)) };
        for (r, sums) in sums.chunks_exact(NV).enumerate() {
            let out = (*job.out.add(i + r)).wrapping_add(job.out_offset + column);
            let mut sum = S::add(S::load(sums[v].as_ptr()), bias);
            if job.accumulate {
                sum = S::add(load(out), sum);
            }
            if !job.residual.is_null() {
                let more = (*job.residual.add(i + r)).wrapping_add(job.out_offset + column);
                sum = S::add(load(more), sum);
            }
            if TAIL { S::store_n(out, sum, valid) } else { S::store(out, sum) }
        }
    }
}

#[inline(always)]
unsafe fn cols_with<S: Simd>(job: &ColsJob) {
    let width = S::NV * LANES;
    let mut first = 0;
    while first < job.n {
        let left = job.n - first;
        if left >= width && S::NV == 2 {
            cols_column::<S, 2, false>(job, first);
            first += 2 * LANES;
        } else if left >= LANES {
            cols_column::<S, 1, false>(job, first);
            first += LANES;
        } else {
            cols_column::<S, 1, true>(job, first);
            first += left;
        }
    }
}

#[inline(always)]
unsafe fn cols_column<S: Simd, const NV: usize, const TAIL: bool>(job: &ColsJob, first: usize) {
    let mut i = 0;
    while i < job.m {
        let left = (job.m - i).min(S::MR);
        i += match left {
            12.. => cols_tile::<S, 12, NV, TAIL>(job, i, first),
            8..12 => cols_tile::<S, 8, NV, TAIL>(job, i, first),
            4..8 => cols_tile::<S, 4, NV, TAIL>(job, i, first),
            2..4 => cols_tile::<S, 2, NV, TAIL>(job, i, first),
            _ => cols_tile::<S, 1, NV, TAIL>(job, i, first),
        };
    }
}

#[inline(always)]
unsafe fn cols_tile<S: Simd, const MR: usize, const NV: usize, const TAIL: bool>(
    job: &ColsJob,
    i: usize,
    first: usize,
) -> usize {
    let valid = job.n - first;
    let mut acc = [[S::zero(); NV]; MR];
    for k in 0..job.k {
        let a = (*job.a.add(k)).add(job.a_offset + i);
        let b = (*job.b.add(k)).add(job.b_offset + first);
        let bv: [S::V; NV] =
            std::array::from_fn(|v| if TAIL { S::load_n(b, valid) } else { S::load(b.add(v * LANES)) });
        for r in 0..MR {
            let av = S::splat(*a.add(r));
            for v in 0..NV {
                acc[r][v] = S::fma(av, bv[v], acc[r][v]);
            }
        }
    }
    for r in 0..MR {
        for v in 0..NV {
            let out = job.out.add((i + r) * job.ld + first + v * LANES);
            let mut sum = acc[r][v];
            if TAIL {
                if job.accumulate {
                    sum = S::add(S::load_n(out, valid), sum);
                }
                S::store_n(out, sum, valid);
            } else {
                if job.accumulate {
                    sum = S::add(S::load(out), sum);
                }
                S::store(out, sum);
            }
        }
    }
    MR
}
