//! `bf16` pairs and conversions on AVX-512, with and without its `bf16` instructions, and on AVX2.

use std::{arch::x86_64::*, mem::transmute};

use super::{
    Bf16,
    simd::{Dot, V},
};
use crate::simd::{LANES, Simd, avx2::Avx2, avx512::Avx512};

/// Mask of the upper half of each lane.
const UPPER: i32 = 0xFFFF_0000_u32 as i32;

/// AVX-512 with its `bf16` instructions.
#[derive(Clone, Copy)]
pub(in crate::bf16) struct Avx512Bf16;

#[inline(always)]
unsafe fn widen512(p: *const Bf16) -> __m512 {
    let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
}
#[inline(always)]
unsafe fn even512(p: *const Bf16) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(p.cast())))
}
#[inline(always)]
unsafe fn odd512(p: *const Bf16) -> __m512 {
    _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi32(UPPER)))
}
#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    if n >= LANES { !0 } else { (1u16 << n) - 1 }
}
#[inline(always)]
unsafe fn widen512_n(p: *const Bf16, n: usize) -> __m512 {
    let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask(n), p.cast()));
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
}
#[inline(always)]
unsafe fn pair(p: *const Bf16) -> i32 {
    p.cast::<i32>().read_unaligned()
}

impl Dot for Avx512Bf16 {
    type S = Avx512;
    type Pairs = __m512i;
    const MR: usize = 12;
    const NV: usize = 2;

    #[inline(always)]
    unsafe fn pairs(p: *const Bf16) -> __m512i {
        _mm512_loadu_si512(p.cast())
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const Bf16) -> __m512i {
        _mm512_set1_epi32(pair(p))
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        let (a, b) = (transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b));
        _mm512_dpbf16_ps(acc, a, b)
    }
    #[inline(always)]
    unsafe fn widen(p: *const Bf16) -> __m512 {
        widen512(p)
    }
    #[inline(always)]
    unsafe fn even(p: *const Bf16) -> __m512 {
        even512(p)
    }
    #[inline(always)]
    unsafe fn odd(p: *const Bf16) -> __m512 {
        odd512(p)
    }
    #[inline(always)]
    unsafe fn narrow(p: *mut Bf16, v: __m512) {
        let half = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
        _mm256_storeu_si256(p.cast(), half);
    }
    #[inline(always)]
    unsafe fn reciprocal(v: __m512) -> __m512 {
        _mm512_rcp14_ps(v)
    }
    #[inline(always)]
    unsafe fn widen_n(p: *const Bf16, n: usize) -> __m512 {
        widen512_n(p, n)
    }
    #[inline(always)]
    unsafe fn narrow_n(p: *mut Bf16, v: __m512, n: usize) {
        let half = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
        _mm256_mask_storeu_epi16(p.cast(), mask(n), half);
    }
}

impl Dot for Avx512 {
    type S = Avx512;
    /// Values at odd positions, then those at even positions.
    type Pairs = [__m512; 2];
    const MR: usize = 12;
    const NV: usize = 2;

    #[inline(always)]
    unsafe fn pairs(p: *const Bf16) -> Self::Pairs {
        [odd512(p), even512(p)]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const Bf16) -> Self::Pairs {
        let both = _mm512_set1_epi32(pair(p));
        let odd = _mm512_and_si512(both, _mm512_set1_epi32(UPPER));
        [_mm512_castsi512_ps(odd), _mm512_castsi512_ps(_mm512_slli_epi32::<16>(both))]
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512, a: Self::Pairs, b: Self::Pairs) -> __m512 {
        _mm512_fmadd_ps(a[1], b[1], _mm512_fmadd_ps(a[0], b[0], acc))
    }
    #[inline(always)]
    unsafe fn widen(p: *const Bf16) -> __m512 {
        widen512(p)
    }
    #[inline(always)]
    unsafe fn even(p: *const Bf16) -> __m512 {
        even512(p)
    }
    #[inline(always)]
    unsafe fn odd(p: *const Bf16) -> __m512 {
        odd512(p)
    }
    #[inline(always)]
    unsafe fn narrow(p: *mut Bf16, v: __m512) {
        _mm256_storeu_si256(p.cast(), rounded512(v));
    }
    #[inline(always)]
    unsafe fn reciprocal(v: __m512) -> __m512 {
        _mm512_rcp14_ps(v)
    }
    #[inline(always)]
    unsafe fn widen_n(p: *const Bf16, n: usize) -> __m512 {
        widen512_n(p, n)
    }
    #[inline(always)]
    unsafe fn narrow_n(p: *mut Bf16, v: __m512, n: usize) {
        _mm256_mask_storeu_epi16(p.cast(), mask(n), rounded512(v));
    }
}

/// Like `simd::round`.
#[inline(always)]
unsafe fn rounded512(v: __m512) -> __m256i {
    let bits = _mm512_castps_si512(v);
    let upper = _mm512_srli_epi32::<16>(bits);
    let up = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7FFF));
    let near = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
    let tiny = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7F80_0000));
    let near = _mm512_mask_and_epi32(near, tiny, upper, _mm512_set1_epi32(0x8000));
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    let near = _mm512_mask_or_epi32(near, nan, upper, _mm512_set1_epi32(0x40));
    _mm512_cvtepi32_epi16(near)
}

impl Dot for Avx2 {
    type S = Avx2;
    /// Values at odd positions, then those at even positions.
    type Pairs = [V<Avx2>; 2];
    const MR: usize = 4;
    const NV: usize = 1;

    #[inline(always)]
    unsafe fn pairs(p: *const Bf16) -> Self::Pairs {
        [Self::odd(p), Self::even(p)]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const Bf16) -> Self::Pairs {
        let both = pair(p);
        let [odd, even] = [both & UPPER, both << 16].map(|bits| f32::from_bits(bits as u32));
        [Avx2::splat(odd), Avx2::splat(even)]
    }
    #[inline(always)]
    unsafe fn dot(acc: V<Self>, a: Self::Pairs, b: Self::Pairs) -> V<Self> {
        Avx2::fma(a[1], b[1], Avx2::fma(a[0], b[0], acc))
    }
    #[inline(always)]
    unsafe fn widen(p: *const Bf16) -> V<Self> {
        let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()));
        joined(_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high))
    }
    #[inline(always)]
    unsafe fn even(p: *const Bf16) -> V<Self> {
        let (low, high) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(16).cast()));
        joined(_mm256_slli_epi32::<16>(low), _mm256_slli_epi32::<16>(high))
    }
    #[inline(always)]
    unsafe fn odd(p: *const Bf16) -> V<Self> {
        let (low, high) = (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(16).cast()));
        let upper = _mm256_set1_epi32(UPPER);
        joined(_mm256_and_si256(low, upper), _mm256_and_si256(high, upper))
    }
    #[inline(always)]
    unsafe fn narrow(p: *mut Bf16, v: V<Self>) {
        let mut lanes = [0.0f32; LANES];
        Avx2::store(lanes.as_mut_ptr(), v);
        let low = rounded256(_mm256_loadu_ps(lanes.as_ptr()));
        let high = rounded256(_mm256_loadu_ps(lanes.as_ptr().add(8)));
        let all = _mm256_permute4x64_epi64::<0xD8>(_mm256_packus_epi32(low, high));
        _mm256_storeu_si256(p.cast(), all);
    }
}

/// Goes through memory in the source; the compiler keeps it in registers.
#[inline(always)]
unsafe fn joined(low: __m256i, high: __m256i) -> V<Avx2> {
    let mut lanes = [0.0f32; LANES];
    _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_castsi256_ps(low));
    _mm256_storeu_ps(lanes.as_mut_ptr().add(8), _mm256_castsi256_ps(high));
    Avx2::load(lanes.as_ptr())
}

/// Like `simd::round`, in the lower halves of the lanes.
#[inline(always)]
unsafe fn rounded256(v: __m256) -> __m256i {
    let bits = _mm256_castps_si256(v);
    let upper = _mm256_srli_epi32::<16>(bits);
    let up = _mm256_add_epi32(_mm256_and_si256(upper, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7FFF));
    let near = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
    let exponent = _mm256_and_si256(bits, _mm256_set1_epi32(0x7F80_0000));
    let tiny = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
    let sign = _mm256_and_si256(upper, _mm256_set1_epi32(0x8000));
    let near = _mm256_blendv_epi8(near, sign, tiny);
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    _mm256_blendv_epi8(near, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan)
}
