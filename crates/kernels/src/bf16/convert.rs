//! Conversion between `f32` and `bf16`.

use super::{
    Bf16, Element,
    simd::{self, Dot, dispatch16, load_part, store_part},
};
use crate::{Isa, par::Ptr, simd::LANES, split};

/// Rounds to nearest even. Subnormal numbers become zeros of the same sign and NaN becomes a quiet NaN, as in the
/// hardware's conversion.
pub fn round(x: f32) -> Bf16 {
    simd::round(x)
}

/// Rounds every value with [`round`].
pub fn from_f32(isa: Isa, x: &[f32], out: &mut [Bf16]) {
    convert(isa, x, out);
}

/// Converts every value exactly.
pub fn to_f32(isa: Isa, x: &[Bf16], out: &mut [f32]) {
    convert(isa, x, out);
}

fn convert<I: Element, O: Element>(isa: Isa, x: &[I], out: &mut [O]) {
    assert_eq!(x.len(), out.len(), "lengths of a conversion");
    let len = x.len();
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    split::flat(len, |start, n| {
        // SAFETY: lengths are equal; pieces are disjoint.
        unsafe { piece(isa, x.get().add(start), out.get().add(start), n) };
    });
}

/// Converts `n` values on this thread.
pub(super) unsafe fn piece<I: Element, O: Element>(isa: Isa, x: *const I, out: *mut O, n: usize) {
    dispatch16!(isa, cast[I, O](x: *const I, out: *mut O, n: usize))
}

#[inline(always)]
unsafe fn cast<D: Dot, I: Element, O: Element>(x: *const I, out: *mut O, n: usize) {
    let mut i = 0;
    while i + LANES <= n {
        store_part::<D, O, false>(out.add(i), load_part::<D, I, false>(x.add(i), LANES), LANES);
        i += LANES;
    }
    if i < n {
        store_part::<D, O, true>(out.add(i), load_part::<D, I, true>(x.add(i), n - i), n - i);
    }
}
