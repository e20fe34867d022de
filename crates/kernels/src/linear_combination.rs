//! Linear combinations of many arrays in one pass, as in a solver's step.

use crate::{
    Isa,
    isa::dispatch,
    par::Ptr,
    simd::{LANES, Simd},
    split::{self, load, store},
};

/// `out = Σ coefficient·term`. Without terms the result is zero.
pub fn linear_combination(isa: Isa, terms: &[(f32, &[f32])], out: &mut [f32]) {
    assert!(terms.iter().all(|t| t.1.len() == out.len()), "terms must have the length of the result");
    let terms: Vec<(f32, Ptr<f32>)> = terms.iter().map(|(c, t)| (*c, Ptr::from_const(t.as_ptr()))).collect();
    let (terms, len, out) = (&terms[..], out.len(), Ptr::new(out));
    split::flat(len, |start, n| {
        let out = out.get();
        // SAFETY: all arrays are `len` long; pieces are disjoint.
        unsafe { dispatch!(isa, piece(terms: &[(f32, Ptr<f32>)], start: usize, n: usize, out: *mut f32)) }
    });
}

#[inline(always)]
unsafe fn piece<S: Simd>(terms: &[(f32, Ptr<f32>)], start: usize, n: usize, out: *mut f32) {
    let (mut i, end) = (start, start + n);
    while i + 4 * LANES <= end {
        vectors::<S, 4, false>(terms, i, LANES, out);
        i += 4 * LANES;
    }
    while i + LANES <= end {
        vectors::<S, 1, false>(terms, i, LANES, out);
        i += LANES;
    }
    if i < end {
        vectors::<S, 1, true>(terms, i, end - i, out);
    }
}

#[inline(always)]
unsafe fn vectors<S: Simd, const NV: usize, const TAIL: bool>(
    terms: &[(f32, Ptr<f32>)],
    i: usize,
    n: usize,
    out: *mut f32,
) {
    let mut sum = [S::zero(); NV];
    for (c, term) in terms {
        let c = S::splat(*c);
        for v in 0..NV {
            sum[v] = S::fma(c, load::<S, TAIL>(term.get().add(i + v * LANES), n), sum[v]);
        }
    }
    for v in 0..NV {
        store::<S, TAIL>(out.add(i + v * LANES), sum[v], n);
    }
}
