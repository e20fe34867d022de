//! The AdamW update in one pass over memory.

use crate::{
    Isa,
    isa::dispatch,
    par::{self, Ptr},
    simd::{LANES, Simd},
};

/// Coefficients of one step, derived from the learning rate, the decays and the step's number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// `1 - lr·weight_decay`.
    pub keep: f32,
    /// `lr / (1 - beta1^step)`.
    pub rate: f32,
    /// `beta1`.
    pub beta1: f32,
    /// `1 - beta1`.
    pub one_minus_beta1: f32,
    /// `beta2`.
    pub beta2: f32,
    /// `1 - beta2`.
    pub one_minus_beta2: f32,
    /// `1 / sqrt(1 - beta2^step)`.
    pub root_correction: f32,
    /// Added to the denominator.
    pub eps: f32,
}

/// `m = beta1·m + (1-beta1)·g; v = beta2·v + (1-beta2)·g²; p = keep·p - rate·m / (sqrt(v)·root_correction + eps)`,
/// all in place.
pub fn adamw(isa: Isa, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], h: &Coefficients) {
    let len = param.len();
    assert!(grad.len() == len && m.len() == len && v.len() == len, "lengths of an AdamW step");
    let (param, grad, m, v) = (Ptr::new(param), Ptr::from_const(grad.as_ptr()), Ptr::new(m), Ptr::new(v));
    par::for_each_piece(len, 1 << 14, |from, to| {
        let (p, g, m, v) = (param.get(), grad.get().cast_const(), m.get(), v.get());
        // SAFETY: lengths are checked above; pieces are disjoint.
        unsafe {
            dispatch!(isa, piece(
                p: *mut f32, g: *const f32, m: *mut f32, v: *mut f32, from: usize, to: usize, h: &Coefficients
            ))
        }
    });
}

#[inline(always)]
unsafe fn piece<S: Simd>(
    p: *mut f32,
    g: *const f32,
    m: *mut f32,
    v: *mut f32,
    from: usize,
    to: usize,
    h: &Coefficients,
) {
    let mut i = from;
    while i < to {
        let n = (to - i).min(LANES);
        let grad = S::load_n(g.add(i), n);
        let mean = S::mul(S::splat(h.beta1), S::load_n(m.add(i), n));
        let mean = S::fma(S::splat(h.one_minus_beta1), grad, mean);
        let square = S::mul(S::splat(h.beta2), S::load_n(v.add(i), n));
        let square = S::fma(S::mul(S::splat(h.one_minus_beta2), grad), grad, square);
        let denominator = S::fma(S::sqrt(square), S::splat(h.root_correction), S::splat(h.eps));
        let step = S::div(S::mul(S::splat(h.rate), mean), denominator);
        let param = S::sub(S::mul(S::splat(h.keep), S::load_n(p.add(i), n)), step);
        S::store_n(m.add(i), mean, n);
        S::store_n(v.add(i), square, n);
        S::store_n(p.add(i), param, n);
        i += LANES;
    }
}
