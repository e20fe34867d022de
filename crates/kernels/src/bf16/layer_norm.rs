//! Layer normalization (Ba et al. 2016, arXiv:1607.06450), in `f32` with two passes over each row.

use super::{
    Element,
    simd::{Dot, dispatch16, load_part, store_part},
};
pub use crate::layer_norm::LayerNorm;
use crate::{
    Isa,
    par::Ptr,
    simd::{LANES, Simd},
    split,
};

/// Rows of a task.
const ROWS: usize = 32;

/// `(x - mean)·rstd·weight + bias` of each row. `weight` and `bias`, `[channels]`, default to ones and zeros.
pub fn forward<I: Element, O: Element>(
    isa: Isa,
    n: &LayerNorm,
    x: &[I],
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [O],
) {
    let (c, eps) = (n.channels, n.eps);
    assert!(
        [x.len(), out.len()] == [n.rows * c; 2],
        "lengths {} and {} of rows of {n:?}",
        x.len(),
        out.len()
    );
    let (ones, zeros) = (vec![1.0; c], vec![0.0; c]);
    let (weight, bias) = (weight.unwrap_or(&ones), bias.unwrap_or(&zeros));
    assert!(weight.len() == c && bias.len() == c, "expected one weight and bias per channel of {n:?}");
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    split::for_each(n.rows.div_ceil(ROWS), x_len(n), |block| {
        for r in block * ROWS..n.rows.min((block + 1) * ROWS) {
            // SAFETY: lengths are checked above; tasks write disjoint rows.
            unsafe {
                let (x, out) = (x.get().add(r * c).cast_const(), out.get().add(r * c));
                dispatch16!(isa, row[I, O](x: *const I, eps: f64, weight: &[f32], bias: &[f32], out: *mut O))
            }
        }
    });
}

fn x_len(n: &LayerNorm) -> usize {
    n.rows * n.channels
}

#[inline(always)]
unsafe fn row<D: Dot, I: Element, O: Element>(
    x: *const I,
    eps: f64,
    weight: &[f32],
    bias: &[f32],
    out: *mut O,
) {
    let n = weight.len();
    let whole = n / LANES * LANES;
    let mut sum = D::S::zero();
    for i in (0..whole).step_by(LANES) {
        sum = D::S::add(sum, load_part::<D, I, false>(x.add(i), LANES));
    }
    if whole < n {
        sum = D::S::add(sum, load_part::<D, I, true>(x.add(whole), n - whole));
    }
    let mean = D::S::sum(sum) / n as f32;
    let centre = D::S::splat(mean);
    let mut square = D::S::zero();
    for i in (0..whole).step_by(LANES) {
        let d = D::S::sub(load_part::<D, I, false>(x.add(i), LANES), centre);
        square = D::S::fma(d, d, square);
    }
    if whole < n {
        let d = D::S::sub(load_part::<D, I, true>(x.add(whole), n - whole), centre);
        let d = split::first::<D::S>(d, n - whole);
        square = D::S::fma(d, d, square);
    }
    finish::<D, I, O>(x, mean, D::S::sum(square), eps, weight, bias, out);
}

#[inline(always)]
unsafe fn finish<D: Dot, I: Element, O: Element>(
    x: *const I,
    mean: f32,
    squares: f32,
    eps: f64,
    weight: &[f32],
    bias: &[f32],
    out: *mut O,
) {
    let n = weight.len();
    let rstd = (1.0 / (f64::from(squares) / n as f64 + eps).sqrt()) as f32;
    let (centre, factor) = (D::S::splat(mean), D::S::splat(rstd));
    let (weight, bias) = (weight.as_ptr(), bias.as_ptr());
    let mut i = 0;
    while i + LANES <= n {
        let d = D::S::mul(D::S::sub(load_part::<D, I, false>(x.add(i), LANES), centre), factor);
        let y = D::S::fma(d, D::S::load(weight.add(i)), D::S::load(bias.add(i)));
        store_part::<D, O, false>(out.add(i), y, LANES);
        i += LANES;
    }
    if i < n {
        let left = n - i;
        let d = D::S::mul(D::S::sub(load_part::<D, I, true>(x.add(i), left), centre), factor);
        let y = D::S::fma(d, D::S::load_n(weight.add(i), left), D::S::load_n(bias.add(i), left));
        store_part::<D, O, true>(out.add(i), y, left);
    }
}
