//! Vectors of `bf16`: sixteen pairs of factors, and the way between sixteen `bf16` and sixteen `f32`.

use super::{Bf16, Element};
use crate::simd::{LANES, Simd, scalar::Scalar};
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// The lanes of the arithmetic that a [`Dot`] is used with.
pub(super) type V<D> = <<D as Dot>::S as Simd>::V;

/// Products of pairs, and conversions. All methods need the instruction set of the implementor.
pub(super) trait Dot: Copy + 'static {
    /// `f32` arithmetic.
    type S: Simd;
    /// Sixteen pairs.
    type Pairs: Copy;
    /// Rows of the microkernel.
    const MR: usize;
    /// Vectors per row of the microkernel.
    const NV: usize;

    /// Thirty-two numbers.
    unsafe fn pairs(p: *const Bf16) -> Self::Pairs;
    /// One pair, sixteen times.
    unsafe fn broadcast(p: *const Bf16) -> Self::Pairs;
    /// `(acc + a₁·b₁) + a₀·b₀`.
    unsafe fn dot(acc: V<Self>, a: Self::Pairs, b: Self::Pairs) -> V<Self>;
    /// Sixteen numbers.
    unsafe fn widen(p: *const Bf16) -> V<Self>;
    /// Of thirty-two numbers, those at even places.
    unsafe fn even(p: *const Bf16) -> V<Self>;
    /// Of thirty-two numbers, those at odd places.
    unsafe fn odd(p: *const Bf16) -> V<Self>;
    /// Rounds and stores sixteen numbers.
    unsafe fn narrow(p: *mut Bf16, v: V<Self>);

    /// The first `n` of sixteen numbers, the others zero.
    #[inline(always)]
    unsafe fn widen_n(p: *const Bf16, n: usize) -> V<Self> {
        let mut part = [Bf16::ZERO; LANES];
        std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), n.min(LANES));
        Self::widen(part.as_ptr())
    }
    /// Rounds sixteen numbers, stores the first `n`.
    #[inline(always)]
    unsafe fn narrow_n(p: *mut Bf16, v: V<Self>, n: usize) {
        let mut part = [Bf16::ZERO; LANES];
        Self::narrow(part.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(part.as_ptr(), p, n.min(LANES));
    }
}

#[inline(always)]
pub(super) unsafe fn load<D: Dot, T: Element>(p: *const T) -> V<D> {
    if T::HALF { D::widen(p.cast()) } else { D::S::load(p.cast()) }
}

#[inline(always)]
pub(super) unsafe fn store<D: Dot, T: Element>(p: *mut T, v: V<D>) {
    if T::HALF { D::narrow(p.cast(), v) } else { D::S::store(p.cast(), v) }
}

/// The first `n` lanes if `TAIL`, all of them if not.
#[inline(always)]
pub(super) unsafe fn load_part<D: Dot, T: Element, const TAIL: bool>(p: *const T, n: usize) -> V<D> {
    match (TAIL, T::HALF) {
        (false, _) => load::<D, T>(p),
        (true, true) => D::widen_n(p.cast(), n),
        (true, false) => D::S::load_n(p.cast(), n),
    }
}

/// As [`load_part`].
#[inline(always)]
pub(super) unsafe fn store_part<D: Dot, T: Element, const TAIL: bool>(p: *mut T, v: V<D>, n: usize) {
    match (TAIL, T::HALF) {
        (false, _) => store::<D, T>(p, v),
        (true, true) => D::narrow_n(p.cast(), v, n),
        (true, false) => D::S::store_n(p.cast(), v, n),
    }
}

/// The definition of rounding to `bf16`: to nearest even, subnormal numbers to zero, NaN to a quiet NaN.
/// That of `vcvtneps2bf16`.
#[inline(always)]
pub(super) fn round(x: f32) -> Bf16 {
    let bits = x.to_bits();
    Bf16::from_bits(if x.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else if bits & 0x7F80_0000 == 0 {
        (bits >> 16) as u16 & 0x8000
    } else {
        (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
    })
}

#[inline(always)]
fn widened(x: Bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

impl Dot for Scalar {
    type S = Scalar;
    /// Numbers at odd places, then those at even ones.
    type Pairs = [[f32; LANES]; 2];
    const MR: usize = 2;
    const NV: usize = 1;

    #[inline(always)]
    unsafe fn pairs(p: *const Bf16) -> Self::Pairs {
        [Self::odd(p), Self::even(p)]
    }
    #[inline(always)]
    unsafe fn broadcast(p: *const Bf16) -> Self::Pairs {
        [[widened(*p.add(1)); LANES], [widened(*p); LANES]]
    }
    #[inline(always)]
    unsafe fn dot(acc: V<Self>, a: Self::Pairs, b: Self::Pairs) -> V<Self> {
        Scalar::fma(a[1], b[1], Scalar::fma(a[0], b[0], acc))
    }
    #[inline(always)]
    unsafe fn widen(p: *const Bf16) -> V<Self> {
        std::array::from_fn(|i| widened(*p.add(i)))
    }
    #[inline(always)]
    unsafe fn even(p: *const Bf16) -> V<Self> {
        std::array::from_fn(|i| widened(*p.add(2 * i)))
    }
    #[inline(always)]
    unsafe fn odd(p: *const Bf16) -> V<Self> {
        std::array::from_fn(|i| widened(*p.add(2 * i + 1)))
    }
    #[inline(always)]
    unsafe fn narrow(p: *mut Bf16, v: V<Self>) {
        p.cast::<[Bf16; LANES]>().write_unaligned(v.map(round));
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx512Bf16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::*;

    /// The upper halves of the lanes.
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
            let [a, b]: [__m512bh; 2] = [std::mem::transmute(a), std::mem::transmute(b)];
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
            let half: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(p.cast(), half);
        }
        #[inline(always)]
        unsafe fn widen_n(p: *const Bf16, n: usize) -> __m512 {
            widen512_n(p, n)
        }
        #[inline(always)]
        unsafe fn narrow_n(p: *mut Bf16, v: __m512, n: usize) {
            let half: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
            _mm256_mask_storeu_epi16(p.cast(), mask(n), half);
        }
    }

    impl Dot for Avx512 {
        type S = Avx512;
        /// Numbers at odd places, then those at even ones.
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
        unsafe fn widen_n(p: *const Bf16, n: usize) -> __m512 {
            widen512_n(p, n)
        }
        #[inline(always)]
        unsafe fn narrow_n(p: *mut Bf16, v: __m512, n: usize) {
            _mm256_mask_storeu_epi16(p.cast(), mask(n), rounded512(v));
        }
    }

    /// As [`round`].
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
        /// Numbers at odd places, then those at even ones.
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

    /// The compiler keeps the way through memory in registers.
    #[inline(always)]
    unsafe fn joined(low: __m256i, high: __m256i) -> V<Avx2> {
        let mut lanes = [0.0f32; LANES];
        _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_castsi256_ps(low));
        _mm256_storeu_ps(lanes.as_mut_ptr().add(8), _mm256_castsi256_ps(high));
        Avx2::load(lanes.as_ptr())
    }

    /// As [`round`], in the lower halves of the lanes.
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
}

/// As `isa::dispatch`, with `f` over `D: Dot`; its own type parameters follow in brackets.
macro_rules! dispatch16 {
    ($isa:expr, $f:ident[$($t:ident),*]($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
        unsafe fn on_avx512bf16<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
            $f::<$crate::bf16::simd::Avx512Bf16, $($t),*>($($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        unsafe fn on_avx512<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
            $f::<$crate::simd::avx512::Avx512, $($t),*>($($arg),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn on_avx2<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
            $f::<$crate::simd::avx2::Avx2, $($t),*>($($arg),*)
        }
        match $isa.0 {
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Kind::Avx512 if $isa.has_bf16() => on_avx512bf16::<$($t),*>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Kind::Avx512 => on_avx512::<$($t),*>($($arg),*),
            #[cfg(target_arch = "x86_64")]
            $crate::isa::Kind::Avx2 => on_avx2::<$($t),*>($($arg),*),
            $crate::isa::Kind::Scalar => $f::<$crate::simd::scalar::Scalar, $($t),*>($($arg),*),
        }
    }};
}
pub(super) use dispatch16;

/// Columns per packed panel: all but the last panel have this width, the last may be half of it.
pub(super) fn panel_width(isa: crate::Isa) -> usize {
    #[inline(always)]
    unsafe fn vectors<D: Dot>() -> usize {
        D::NV
    }
    // SAFETY: an `Isa` exists only where the machine has it.
    LANES * unsafe { dispatch16!(isa, vectors[]() -> usize) }
}

/// `strips16!(channels, W, f::<D, T>(args))` covers the channels with calls `f::<D, T, NV, TAIL>(channel, valid,
/// args)`: strips of `W` vectors, then of one, then a part of one with `valid` lanes.
macro_rules! strips16 {
    ($channels:expr, $wide:literal, $f:ident::<$($t:ident),+>($($arg:expr),* $(,)?)) => {{
        let mut c = 0;
        while c < $channels {
            let left = $channels - c;
            if left >= $wide * $crate::simd::LANES {
                $f::<$($t,)+ $wide, false>(c, $crate::simd::LANES, $($arg),*);
                c += $wide * $crate::simd::LANES;
            } else if left >= $crate::simd::LANES {
                $f::<$($t,)+ 1, false>(c, $crate::simd::LANES, $($arg),*);
                c += $crate::simd::LANES;
            } else {
                $f::<$($t,)+ 1, true>(c, left, $($arg),*);
                c += left;
            }
        }
    }};
}
pub(super) use strips16;
