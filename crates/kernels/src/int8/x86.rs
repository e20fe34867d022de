//! Products of bytes on AVX-512, with and without its instructions for neural networks, and on AVX2.

use std::arch::x86_64::*;

use super::simd::Bytes;
use crate::simd::{
    avx2::{Avx2, Pair},
    avx512::Avx512,
};

/// AVX-512 with its instructions for products of bytes.
#[derive(Clone, Copy)]
pub(in crate::int8) struct Avx512Vnni;

/// What both kinds of AVX-512 share.
macro_rules! with_512_bits {
    () => {
        type S = Avx512;
        type Sums = __m512i;
        type Groups = __m512i;
        type Group = __m512i;
        const MR: usize = 12;

        #[inline(always)]
        unsafe fn load(p: *const i32) -> __m512i {
            _mm512_loadu_si512(p.cast())
        }
        #[inline(always)]
        unsafe fn groups(p: *const i8) -> __m512i {
            _mm512_loadu_si512(p.cast())
        }
        #[inline(always)]
        unsafe fn broadcast(p: *const u8) -> __m512i {
            _mm512_set1_epi32(p.cast::<i32>().read_unaligned())
        }
        #[inline(always)]
        unsafe fn to_f32(sums: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(sums)
        }
    };
}

impl Bytes for Avx512Vnni {
    with_512_bits!();

    #[inline(always)]
    unsafe fn dot(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(acc, a, b)
    }
}

impl Bytes for Avx512 {
    with_512_bits!();

    #[inline(always)]
    unsafe fn dot(acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
        let pairs = _mm512_maddubs_epi16(a, b);
        _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
    }
}

impl Bytes for Avx2 {
    type S = Avx2;
    type Sums = [__m256i; 2];
    type Groups = [__m256i; 2];
    type Group = __m256i;
    const MR: usize = 4;

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self::Sums {
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())]
    }
    #[inline(always)]
    unsafe fn groups(p: *const i8) -> Self::Groups {
        [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const u8) -> __m256i {
        _mm256_set1_epi32(p.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::Sums, a: __m256i, b: Self::Groups) -> Self::Sums {
        let one = _mm256_set1_epi16(1);
        let four = |b| _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one);
        [_mm256_add_epi32(acc[0], four(b[0])), _mm256_add_epi32(acc[1], four(b[1]))]
    }
    #[inline(always)]
    unsafe fn to_f32(sums: Self::Sums) -> Pair {
        Pair(_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1]))
    }
}
