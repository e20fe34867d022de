//! `bf16` pairs and conversions on NEON.

use std::arch::aarch64::*;

use super::{
    Bf16,
    simd::{Dot, V},
};
use crate::simd::{
    Simd,
    neon::{Neon, Quad},
};

/// Mask of the upper half of each lane.
const UPPER: u32 = 0xFFFF_0000;

impl Dot for Neon {
    type S = Neon;
    /// Values at odd positions, then those at even positions.
    type Pairs = [Quad; 2];
    const MR: usize = 4;
    const NV: usize = 1;

    #[inline(always)]
    unsafe fn pairs(p: *const Bf16) -> Self::Pairs {
        [Self::odd(p), Self::even(p)]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const Bf16) -> Self::Pairs {
        let both = p.cast::<u32>().read_unaligned();
        [Neon::splat(f32::from_bits(both & UPPER)), Neon::splat(f32::from_bits(both << 16))]
    }
    #[inline(always)]
    unsafe fn dot(acc: V<Self>, a: Self::Pairs, b: Self::Pairs) -> V<Self> {
        Neon::fma(a[1], b[1], Neon::fma(a[0], b[0], acc))
    }
    #[inline(always)]
    unsafe fn widen(p: *const Bf16) -> V<Self> {
        let of = |i: usize| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * i).cast())));
        [of(0), of(1), of(2), of(3)]
    }
    #[inline(always)]
    unsafe fn even(p: *const Bf16) -> V<Self> {
        let of = |i: usize| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vld1q_u32(p.add(8 * i).cast())));
        [of(0), of(1), of(2), of(3)]
    }
    #[inline(always)]
    unsafe fn odd(p: *const Bf16) -> V<Self> {
        let upper = vdupq_n_u32(UPPER);
        let of = |i: usize| vreinterpretq_f32_u32(vandq_u32(vld1q_u32(p.add(8 * i).cast()), upper));
        [of(0), of(1), of(2), of(3)]
    }
    #[inline(always)]
    unsafe fn narrow(p: *mut Bf16, v: V<Self>) {
        let p: *mut u16 = p.cast();
        vst1q_u16(p, vcombine_u16(rounded(v[0]), rounded(v[1])));
        vst1q_u16(p.add(8), vcombine_u16(rounded(v[2]), rounded(v[3])));
    }
}

/// Like `simd::round`.
#[inline(always)]
unsafe fn rounded(v: float32x4_t) -> uint16x4_t {
    let bits = vreinterpretq_u32_f32(v);
    let upper = vshrq_n_u32::<16>(bits);
    let up = vaddq_u32(vandq_u32(upper, vdupq_n_u32(1)), vdupq_n_u32(0x7FFF));
    let near = vshrq_n_u32::<16>(vaddq_u32(bits, up));
    let normal = vtstq_u32(bits, vdupq_n_u32(0x7F80_0000));
    let near = vbslq_u32(normal, near, vandq_u32(upper, vdupq_n_u32(0x8000)));
    let number = vceqq_f32(v, v);
    vmovn_u32(vbslq_u32(number, near, vorrq_u32(upper, vdupq_n_u32(0x40))))
}
