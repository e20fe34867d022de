//! `bf16` vectors: products of sixteen pairs, and conversion between sixteen `bf16` and sixteen `f32`.

use super::{Bf16, Element};
use crate::simd::{LANES, Simd, scalar::Scalar};

/// The `f32` vector type used with a [`Dot`].
pub(super) type V<D> = <<D as Dot>::S as Simd>::V;

/// Pair products and conversions. All methods require the instruction set of the implementor.
pub(super) trait Dot: Copy + 'static {
    /// `f32` arithmetic.
    type S: Simd;
    /// Sixteen pairs.
    type Pairs: Copy;
    /// Rows of the microkernel.
    const MR: usize;
    /// Vectors per row of the microkernel.
    const NV: usize;

    /// Loads thirty-two values.
    unsafe fn pairs(p: *const Bf16) -> Self::Pairs;
    /// Broadcasts one pair sixteen times.
    unsafe fn broadcast(p: *const Bf16) -> Self::Pairs;
    /// `(acc + a₁·b₁) + a₀·b₀`.
    unsafe fn dot(acc: V<Self>, a: Self::Pairs, b: Self::Pairs) -> V<Self>;
    /// Loads sixteen values.
    unsafe fn widen(p: *const Bf16) -> V<Self>;
    /// Loads the even positions of thirty-two values.
    unsafe fn even(p: *const Bf16) -> V<Self>;
    /// Loads the odd positions of thirty-two values.
    unsafe fn odd(p: *const Bf16) -> V<Self>;
    /// Rounds and stores sixteen values.
    unsafe fn narrow(p: *mut Bf16, v: V<Self>);

    /// Rounds and stores sixteen pairs `(a, b)`.
    #[inline(always)]
    unsafe fn narrow_pairs(p: *mut Bf16, a: V<Self>, b: V<Self>) {
        let mut terms = [[Bf16::ZERO; LANES]; 2];
        Self::narrow(terms[0].as_mut_ptr(), a);
        Self::narrow(terms[1].as_mut_ptr(), b);
        for i in 0..LANES {
            *p.add(2 * i) = terms[0][i];
            *p.add(2 * i + 1) = terms[1][i];
        }
    }
    /// `1/v` with relative error below 2⁻¹⁴.
    #[inline(always)]
    unsafe fn reciprocal(v: V<Self>) -> V<Self> {
        Self::S::div(Self::S::splat(1.0), v)
    }

    /// Loads the first `n` of sixteen values; the others are zero.
    #[inline(always)]
    unsafe fn widen_n(p: *const Bf16, n: usize) -> V<Self> {
        let mut part = [Bf16::ZERO; LANES];
        std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), n.min(LANES));
        Self::widen(part.as_ptr())
    }
    /// Rounds sixteen values and stores the first `n`.
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

/// Loads the first `n` lanes if `TAIL`, otherwise all.
#[inline(always)]
pub(super) unsafe fn load_part<D: Dot, T: Element, const TAIL: bool>(p: *const T, n: usize) -> V<D> {
    match (TAIL, T::HALF) {
        (false, _) => load::<D, T>(p),
        (true, true) => D::widen_n(p.cast(), n),
        (true, false) => D::S::load_n(p.cast(), n),
    }
}

/// Like [`load_part`], for storing.
#[inline(always)]
pub(super) unsafe fn store_part<D: Dot, T: Element, const TAIL: bool>(p: *mut T, v: V<D>, n: usize) {
    match (TAIL, T::HALF) {
        (false, _) => store::<D, T>(p, v),
        (true, true) => D::narrow_n(p.cast(), v, n),
        (true, false) => D::S::store_n(p.cast(), v, n),
    }
}

/// `x·sigmoid(x)` to the precision of `T`: relative error below 2⁻¹² before rounding to `bf16`.
#[inline(always)]
pub(super) unsafe fn silu<D: Dot, T: Element>(x: V<D>) -> V<D> {
    if !T::HALF {
        return D::S::mul(x, D::S::sigmoid(x));
    }
    let power = D::S::mul(x, D::S::splat(-std::f32::consts::LOG2_E));
    D::S::mul(x, D::reciprocal(D::S::add(D::S::splat(1.0), exp2::<D>(power))))
}

/// `2^power` with relative error below 2⁻¹³; powers are clamped to -126..=126.
#[inline(always)]
pub(super) unsafe fn exp2<D: Dot>(power: V<D>) -> V<D> {
    let power = D::S::min(D::S::splat(126.0), D::S::max(D::S::splat(-126.0), power));
    let n = D::S::round(power);
    let f = D::S::sub(power, n);
    // 2^f on -1/2..1/2: the cubic polynomial with the smallest relative error, 7.5e-5.
    let mut p = D::S::splat(0.055_171_65);
    for c in [0.242_611_12, 0.693_261, 0.999_928_06] {
        p = D::S::fma(p, f, D::S::splat(c));
    }
    D::S::scale(p, n)
}

/// Rounding to `bf16`: to nearest even, subnormal numbers to zero, NaN to a quiet NaN, like `vcvtneps2bf16`.
#[inline(always)]
pub(super) fn round(x: f32) -> Bf16 {
    let bits = x.to_bits();
    Bf16::from_bits(if x.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else if bits & 0x7F80_0000 == 0 {
        (bits >> 16) as u16 & 0x8000
    } else {
        (bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
    })
}

#[inline(always)]
fn widened(x: Bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

impl Dot for Scalar {
    type S = Scalar;
    /// Values at odd positions, then those at even positions.
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
pub(super) use super::x86::Avx512Bf16;

/// Like `isa::dispatch`, with `f` generic over `D: Dot`; further type parameters follow in brackets.
macro_rules! dispatch16 {
    ($isa:expr, $f:ident[$($t:ident),*]($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?) => {{
        #[inline(always)]
        #[allow(clippy::needless_lifetimes)]
        unsafe fn $f<$($t: $crate::bf16::Element),*>(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
            unsafe fn on_avx512bf16<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::bf16::simd::Avx512Bf16, $($t),*>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            unsafe fn on_avx512<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::avx512::Avx512, $($t),*>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn on_avx2<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::avx2::Avx2, $($t),*>($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            #[inline(never)]
            unsafe fn on_neon<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::neon::Neon, $($t),*>($($arg),*)
            }
            #[inline(never)]
            unsafe fn on_scalar<$($t: $crate::bf16::Element),*>($($arg: $ty),*) $(-> $ret)? {
                self::$f::<$crate::simd::scalar::Scalar, $($t),*>($($arg),*)
            }
            match isa.0 {
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 if isa.has_bf16() => on_avx512bf16::<$($t),*>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 => on_avx512::<$($t),*>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 => on_avx2::<$($t),*>($($arg),*),
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Kind::Neon => on_neon::<$($t),*>($($arg),*),
                $crate::isa::Kind::Scalar => on_scalar::<$($t),*>($($arg),*),
            }
        }
        $f::<$($t),*>($isa, $($arg),*)
    }};
}
pub(super) use dispatch16;

/// Columns per packed panel. The last panel may have half this width.
pub(super) fn panel_width(isa: crate::Isa) -> usize {
    // SAFETY: an `Isa` exists only where the machine has it.
    LANES * unsafe { dispatch16!(isa, vectors[]() -> usize) }
}

#[inline(always)]
unsafe fn vectors<D: Dot>() -> usize {
    D::NV
}

/// `strips16!(channels, W, f::<D, T>(args))` covers the channels with calls `f::<D, T, NV, TAIL>(channel, valid,
/// args)`: strips of `W` vectors, then single vectors, then a partial vector with `valid` lanes.
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
