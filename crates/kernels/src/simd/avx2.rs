//! AVX2 with FMA: two registers per vector.

use std::arch::x86_64::*;

use super::Simd;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

#[derive(Clone, Copy)]
pub(crate) struct Pair(pub __m256, pub __m256);

macro_rules! lanewise {
    ($($name:ident($($arg:ident),+) = $intrinsic:ident;)+) => {
        $(#[inline(always)]
        unsafe fn $name($($arg: Pair),+) -> Pair {
            Pair($intrinsic($($arg.0),+), $intrinsic($($arg.1),+))
        })+
    };
}

impl Simd for Avx2 {
    type V = Pair;
    const MR: usize = 6;
    const NV: usize = 1;

    lanewise! {
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        fnma(a, b, c) = _mm256_fnmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
        sqrt(a) = _mm256_sqrt_ps;
        round(a) = round8;
        exp2_integral(a) = exp2_integral8;
    }

    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Pair {
        Pair(_mm256_set1_ps(x), _mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Pair {
        Pair(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8)))
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Pair) {
        _mm256_storeu_ps(p, v.0);
        _mm256_storeu_ps(p.add(8), v.1);
    }
    #[inline(always)]
    unsafe fn load_n(p: *const f32, n: usize) -> Pair {
        Pair(_mm256_maskload_ps(p, mask(n)), _mm256_maskload_ps(p.wrapping_add(8), mask(n.saturating_sub(8))))
    }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: Pair, n: usize) {
        _mm256_maskstore_ps(p, mask(n), v.0);
        _mm256_maskstore_ps(p.wrapping_add(8), mask(n.saturating_sub(8)), v.1);
    }
}

#[inline(always)]
unsafe fn round8(a: __m256) -> __m256 {
    _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a)
}

#[inline(always)]
unsafe fn exp2_integral8(a: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(8) as i32), lane)
}
