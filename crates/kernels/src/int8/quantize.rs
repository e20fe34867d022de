//! Numbers as bytes: `x ≈ s·q`.

use crate::{
    Isa,
    isa::dispatch,
    simd::{LANES, Simd},
};

/// `s` and `1/s` for numbers up to `largest` in magnitude, and `q` up to `most`.
pub(super) fn scale(largest: f32, most: f32) -> (f32, f32) {
    // What is smaller than this would have an infinite reciprocal.
    if largest < 1e-30 { (0.0, 0.0) } else { (largest / most, most / largest) }
}

/// The largest magnitude, and 0, or NaN where a number is not finite.
#[inline(always)]
pub(super) unsafe fn largest<S: Simd>(x: *const f32, len: usize) -> (f32, f32) {
    let (mut most, mut odd) = (S::zero(), S::zero());
    for c in (0..len).step_by(LANES) {
        let v = load::<S>(x.add(c), len - c);
        most = S::max(S::max(v, S::sub(S::zero(), v)), most);
        odd = S::fma(v, S::zero(), odd);
    }
    (S::largest(most), S::sum(odd))
}

/// The smallest and the largest number, of these and zero; and 0, or NaN where a number is not finite.
#[inline(always)]
pub(super) unsafe fn range<S: Simd>(x: *const f32, len: usize) -> ([f32; 2], f32) {
    let (mut below, mut above, mut odd) = (S::zero(), S::zero(), S::zero());
    for c in (0..len).step_by(LANES) {
        let v = load::<S>(x.add(c), len - c);
        below = S::max(S::sub(S::zero(), v), below);
        above = S::max(v, above);
        odd = S::fma(v, S::zero(), odd);
    }
    ([-S::largest(below), S::largest(above)], S::sum(odd))
}

/// How numbers become bytes.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    /// Steps of a byte in a number of 1.
    pub inverse: f32,
    /// The least and the most steps.
    pub low: f32,
    pub high: f32,
    /// The byte of zero.
    pub shift: u8,
}

/// The bytes of numbers. What is no number becomes one.
#[inline(always)]
pub(super) unsafe fn round<S: Simd>(x: *const f32, len: usize, steps: Steps, to: *mut u8) {
    let (inverse, low, high) = (S::splat(steps.inverse), S::splat(steps.low), S::splat(steps.high));
    for c in (0..len).step_by(LANES) {
        let q = S::round(S::mul(load::<S>(x.add(c), len - c), inverse));
        let mut lanes = [0.0f32; LANES];
        S::store(lanes.as_mut_ptr(), S::max(S::min(q, high), low));
        let byte = |i: usize| (lanes[i].to_int_unchecked::<i32>() as u8).wrapping_add(steps.shift);
        let some: [u8; LANES] = std::array::from_fn(byte);
        if len - c >= LANES {
            to.add(c).cast::<[u8; LANES]>().write_unaligned(some);
        } else {
            std::ptr::copy_nonoverlapping(some.as_ptr(), to.add(c), len - c);
        }
    }
}

#[inline(always)]
pub(super) unsafe fn load<S: Simd>(p: *const f32, left: usize) -> S::V {
    if left >= LANES { S::load(p) } else { S::load_n(p, left) }
}

/// Writes the `q` of `weights`, up to `most` in magnitude, to as many bytes, and returns their `s`. Weights that are
/// not finite make it NaN.
pub(super) fn weights(isa: Isa, weights: &[f32], most: f32, to: &mut [i8]) -> f32 {
    assert_eq!(weights.len(), to.len(), "a byte per weight");
    let (x, len, to) = (weights.as_ptr(), weights.len(), to.as_mut_ptr().cast::<u8>());
    // SAFETY: lengths are the same.
    unsafe { dispatch!(isa, all(x: *const f32, len: usize, most: f32, to: *mut u8) -> f32) }
}

#[inline(always)]
unsafe fn all<S: Simd>(x: *const f32, len: usize, most: f32, to: *mut u8) -> f32 {
    let (most_of_all, odd) = largest::<S>(x, len);
    let (s, inverse) = scale(most_of_all, most);
    round::<S>(x, len, Steps { inverse, low: -most, high: most, shift: 0 }, to);
    s + odd
}
