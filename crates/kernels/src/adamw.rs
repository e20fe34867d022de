//! The AdamW update in one pass over memory.

use crate::{
    Isa,
    isa::dispatch,
    par::Ptr,
    simd::{LANES, Simd},
    split::{self, load, store},
};

/// Coefficients of one step, derived from the learning rate, the decay rates and the step number.
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
    run(isa, param, grad, m, v, None, h);
}

/// [`adamw`], and in the same pass the moving average of the parameters, `average += (param - average)·weight`.
pub fn adamw_averaged(
    isa: Isa,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    h: &Coefficients,
    average: &mut [f32],
    weight: f32,
) {
    run(isa, param, grad, m, v, Some((average, weight)), h);
}

fn run(
    isa: Isa,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    average: Option<(&mut [f32], f32)>,
    h: &Coefficients,
) {
    let len = param.len();
    assert!(grad.len() == len && m.len() == len && v.len() == len, "AdamW: lengths differ");
    assert!(
        average.as_ref().is_none_or(|(a, _)| a.len() == len),
        "AdamW: the average has another length than the parameters"
    );
    let averaged = average.is_some();
    // Without an average this pointer is never read.
    let (average, weight) = average.map_or((Ptr::new(&mut []), 0.0), |(a, w)| (Ptr::new(a), w));
    let (param, grad, m, v) = (Ptr::new(param), Ptr::from_const(grad.as_ptr()), Ptr::new(m), Ptr::new(v));
    split::flat(len, |start, n| {
        let arrays = [param, grad, m, v].map(|p| p.get().wrapping_add(start));
        let average = averaged.then(|| average.get().wrapping_add(start));
        // SAFETY: lengths are checked above; pieces are disjoint.
        unsafe {
            dispatch!(
                isa,
                piece(arrays: [*mut f32; 4], average: Option<*mut f32>, weight: f32, n: usize, h: &Coefficients)
            )
        }
    });
}

#[inline(always)]
unsafe fn piece<S: Simd>(
    arrays: [*mut f32; 4],
    average: Option<*mut f32>,
    weight: f32,
    n: usize,
    h: &Coefficients,
) {
    let mut i = 0;
    while i + LANES <= n {
        step::<S, false>(arrays, average, weight, i, LANES, h);
        i += LANES;
    }
    if i < n {
        step::<S, true>(arrays, average, weight, i, n - i, h);
    }
}

#[inline(always)]
unsafe fn step<S: Simd, const TAIL: bool>(
    [p, g, m, v]: [*mut f32; 4],
    average: Option<*mut f32>,
    weight: f32,
    i: usize,
    n: usize,
    h: &Coefficients,
) {
    let grad = load::<S, TAIL>(g.add(i), n);
    let mean = S::mul(S::splat(h.beta1), load::<S, TAIL>(m.add(i), n));
    let mean = S::fma(S::splat(h.one_minus_beta1), grad, mean);
    let square = S::mul(S::splat(h.beta2), load::<S, TAIL>(v.add(i), n));
    let square = S::fma(S::mul(S::splat(h.one_minus_beta2), grad), grad, square);
    let denominator = S::fma(S::sqrt(square), S::splat(h.root_correction), S::splat(h.eps));
    let step = S::div(S::mul(S::splat(h.rate), mean), denominator);
    let param = S::sub(S::mul(S::splat(h.keep), load::<S, TAIL>(p.add(i), n)), step);
    store::<S, TAIL>(m.add(i), mean, n);
    store::<S, TAIL>(v.add(i), square, n);
    store::<S, TAIL>(p.add(i), param, n);
    if let Some(average) = average {
        let old = load::<S, TAIL>(average.add(i), n);
        store::<S, TAIL>(average.add(i), S::fma(S::sub(param, old), S::splat(weight), old), n);
    }
}
