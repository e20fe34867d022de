//! Layer normalization (Ba et al. 2016, arXiv:1607.06450) of rows.
//!
//! With `x̂ = (x - mean)·rstd` over a row of `n` values, `y = x̂·weight + bias` and
//! `dx = rstd·(weight·dy - (Σ weight·dy + x̂·Σ weight·dy·x̂) / n)`.

use crate::{
    isa::{Isa, dispatch},
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::{first, for_each, total},
};

/// Rows of a task and of a partial sum.
const ROWS: usize = 32;

/// Shape and settings of a layer normalization of `[rows, channels]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Number of rows.
    pub rows: usize,
    /// Values per row.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    fn check(&self, rows: &[usize], channels: &[usize], per_row: &[usize]) {
        let len = self.rows * self.channels;
        assert!(rows.iter().all(|&l| l == len), "lengths {rows:?} of rows of {self:?}");
        assert!(channels.iter().all(|&l| l == self.channels), "lengths {channels:?} per channel of {self:?}");
        assert!(per_row.iter().all(|&l| l == self.rows), "lengths {per_row:?} per row of {self:?}");
    }

    /// Runs `f(block, first row, rows)`.
    fn each_block(&self, f: impl Fn(usize, usize, usize) + Sync + Send) {
        for_each(self.rows.div_ceil(ROWS), self.rows * self.channels, |i| {
            f(i, i * ROWS, ROWS.min(self.rows - i * ROWS));
        });
    }
}

/// `out = layer_norm(x)`. `x, out: [rows, channels]`; `weight` and `bias`, `[channels]`, default to ones and zeros.
/// Writes `mean, rstd: [rows]` for the gradient.
pub fn layer_norm(
    isa: Isa,
    n: &LayerNorm,
    x: &[f32],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let (c, eps) = (n.channels, n.eps);
    let (ones, zeros) = (vec![1.0; c], vec![0.0; c]);
    let (weight, bias) = (weight.unwrap_or(&ones), bias.unwrap_or(&zeros));
    n.check(&[x.len(), out.len()], &[weight.len(), bias.len()], &[mean.len(), rstd.len()]);
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    let (mean, rstd) = (Ptr::new(mean), Ptr::new(rstd));
    n.each_block(|_, start, rows| {
        for row in start..start + rows {
            // SAFETY: lengths are checked above; tasks write disjoint rows.
            unsafe {
                let (x, out) = (x.get().add(row * c), out.get().add(row * c));
                let (mean, rstd) = (mean.get().add(row), rstd.get().add(row));
                dispatch!(
                    isa,
                    row_forward(x: *const f32, c: usize, eps: f64, weight: &[f32], bias: &[f32], out: *mut f32, mean: *mut f32, rstd: *mut f32)
                );
            }
        }
    });
}

/// The gradients of [`layer_norm`], given `dy`, that of its result. `dx: [rows, channels]`,
/// `dweight, dbias: [channels]`; `mean, rstd` as written by [`layer_norm`].
pub fn layer_norm_backward(
    isa: Isa,
    n: &LayerNorm,
    x: &[f32],
    weight: Option<&[f32]>,
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let c = n.channels;
    let ones = vec![1.0; c];
    let weight = weight.unwrap_or(&ones);
    let per_channel = [weight.len(), dweight.len(), dbias.len()];
    n.check(&[x.len(), dy.len(), dx.len()], &per_channel, &[mean.len(), rstd.len()]);
    let blocks = n.rows.div_ceil(ROWS);
    let sums = Scratch::take(blocks * 2 * c);
    let sums_of = sums.ptr();
    let (x, dy, dx) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()), Ptr::new(dx));
    n.each_block(|block, start, rows| {
        // SAFETY: lengths are checked above; tasks write disjoint rows and blocks.
        unsafe {
            let sums = sums_of.get().add(block * 2 * c);
            sums.write_bytes(0, 2 * c);
            for row in start..start + rows {
                let (x, dy, dx) = (x.get().add(row * c), dy.get().add(row * c), dx.get().add(row * c));
                let (mean, rstd) = (mean[row], rstd[row]);
                dispatch!(
                    isa,
                    row_backward(x: *const f32, dy: *const f32, c: usize, weight: &[f32], mean: f32, rstd: f32, dx: *mut f32, sums: *mut f32)
                );
            }
        }
    });
    let mut totals = vec![0.0f64; 2 * c];
    // SAFETY: `[blocks][2][c]` sums were written above.
    unsafe { total(sums_of.get(), blocks, &mut totals) };
    for channel in 0..c {
        dbias[channel] = totals[channel] as f32;
        dweight[channel] = totals[c + channel] as f32;
    }
}

/// Offsets of a row's vectors, and their valid lanes.
macro_rules! vectors {
    ($c:ident, |$at:ident, $valid:ident| $body:block) => {
        let mut $at = 0;
        while $at + LANES <= $c {
            let $valid = LANES;
            $body
            $at += LANES;
        }
        if $at < $c {
            let $valid = $c - $at;
            $body
        }
    };
}

#[inline(always)]
unsafe fn row_forward<S: Simd>(
    x: *const f32,
    c: usize,
    eps: f64,
    weight: &[f32],
    bias: &[f32],
    out: *mut f32,
    mean: *mut f32,
    rstd: *mut f32,
) {
    if c == 0 {
        return;
    }
    // Uses differences from the first value, so that a large mean costs no precision.
    let shift = S::splat(*x);
    let mut sum = S::zero();
    vectors!(c, |at, valid| {
        sum = S::add(sum, first::<S>(S::sub(S::load_n(x.add(at), valid), shift), valid));
    });
    let offset = S::sum(sum) / c as f32;
    let centre = S::splat(offset);
    let mut square = S::zero();
    vectors!(c, |at, valid| {
        let d = first::<S>(S::sub(S::sub(S::load_n(x.add(at), valid), shift), centre), valid);
        square = S::fma(d, d, square);
    });
    let variance = f64::from(S::sum(square)) / c as f64;
    *mean = *x + offset;
    *rstd = (1.0 / (variance + eps).sqrt()) as f32;
    let (mean, rstd) = (S::splat(*mean), S::splat(*rstd));
    vectors!(c, |at, valid| {
        let normal = S::mul(S::sub(S::load_n(x.add(at), valid), mean), rstd);
        let w = S::load_n(weight.as_ptr().add(at), valid);
        S::store_n(out.add(at), S::fma(normal, w, S::load_n(bias.as_ptr().add(at), valid)), valid);
    });
}

/// Adds `dy` and `dy·x̂` to `sums: [2][c]`.
#[inline(always)]
unsafe fn row_backward<S: Simd>(
    x: *const f32,
    dy: *const f32,
    c: usize,
    weight: &[f32],
    mean: f32,
    rstd: f32,
    dx: *mut f32,
    sums: *mut f32,
) {
    let (mean, scale) = (S::splat(mean), S::splat(rstd));
    let (mut sum, mut product) = (S::zero(), S::zero());
    vectors!(c, |at, valid| {
        let normal = S::mul(S::sub(S::load_n(x.add(at), valid), mean), scale);
        let dy = S::load_n(dy.add(at), valid);
        let g = S::mul(dy, S::load_n(weight.as_ptr().add(at), valid));
        sum = S::add(sum, g);
        product = S::fma(g, normal, product);
        let (dbias, dweight) = (sums.add(at), sums.add(c + at));
        S::store_n(dbias, S::add(S::load_n(dbias, valid), dy), valid);
        S::store_n(dweight, S::fma(dy, normal, S::load_n(dweight, valid)), valid);
    });
    let a = S::splat(S::sum(sum) / c as f32);
    let b = S::splat(S::sum(product) / c as f32);
    vectors!(c, |at, valid| {
        let normal = S::mul(S::sub(S::load_n(x.add(at), valid), mean), scale);
        let g = S::mul(S::load_n(dy.add(at), valid), S::load_n(weight.as_ptr().add(at), valid));
        S::store_n(dx.add(at), S::mul(scale, S::sub(g, S::fma(normal, b, a))), valid);
    });
}
