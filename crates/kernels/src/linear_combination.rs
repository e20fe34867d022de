//! Linear combinations of many arrays in one pass: what a solver's step is.

use crate::{
    Isa,
    isa::dispatch,
    par::{self, Ptr},
    simd::{LANES, Simd},
};

/// `out = Σ coefficient·term`. No terms give zeros.
pub fn linear_combination(isa: Isa, terms: &[(f32, &[f32])], out: &mut [f32]) {
    assert!(terms.iter().all(|t| t.1.len() == out.len()), "terms as long as the result");
    let terms: Vec<(f32, Ptr<f32>)> = terms.iter().map(|(c, t)| (*c, Ptr::from_const(t.as_ptr()))).collect();
    let (terms, len, out) = (&terms[..], out.len(), Ptr::new(out));
    par::for_each_piece(len, 1 << 14, |from, to| {
        let out = out.get();
        // SAFETY: all arrays are `len` long; pieces are disjoint.
        unsafe { dispatch!(isa, piece(terms: &[(f32, Ptr<f32>)], from: usize, to: usize, out: *mut f32)) }
    });
}

#[inline(always)]
unsafe fn piece<S: Simd>(terms: &[(f32, Ptr<f32>)], from: usize, to: usize, out: *mut f32) {
    let mut i = from;
    while i < to {
        let n = (to - i).min(LANES);
        let mut sum = S::zero();
        for (c, term) in terms {
            sum = S::fma(S::splat(*c), S::load_n(term.get().add(i), n), sum);
        }
        S::store_n(out.add(i), sum, n);
        i += LANES;
    }
}
