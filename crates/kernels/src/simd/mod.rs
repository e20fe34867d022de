//! Sixteen-lane `f32` vectors, one implementation per instruction set.
//!
//! Every kernel is written once against [`Simd`]; `dispatch!` compiles it for each instruction set.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

/// Lanes of a vector, for any register width.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32` lanes. All methods require the implementor's instruction set.
pub(crate) trait Simd: Copy + 'static {
    /// The vector.
    type V: Copy;
    /// Rows of the matrix microkernel, as many as fit the registers.
    const MR: usize;
    /// Vectors per row of the matrix microkernel.
    const NV: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Loads the first `n` lanes; the others are zero.
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n` lanes.
    unsafe fn store_n(p: *mut f32, v: Self::V, n: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger value; `b` if either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller value; `b` if either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^a` for integral `a` in `-126..=127`.
    unsafe fn exp2_integral(a: Self::V) -> Self::V;

    /// `a·2^n` for integral `n` in `-126..=126`.
    #[inline(always)]
    unsafe fn scale(a: Self::V, n: Self::V) -> Self::V {
        Self::mul(a, Self::exp2_integral(n))
    }

    /// Prefetches memory at `p`, which may be any address, if the machine supports it.
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        Self::splat(0.0)
    }

    /// `c - a·b`.
    #[inline(always)]
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        Self::fma(Self::sub(Self::zero(), a), b, c)
    }

    /// The sum of the lanes, in a fixed tree order.
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0.0f32; LANES];
        Self::store(lanes.as_mut_ptr(), v);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// Transposes sixteen rows.
    #[inline(always)]
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut lanes = [[0.0f32; LANES]; LANES];
        for r in 0..LANES {
            let mut row = [0.0f32; LANES];
            Self::store(row.as_mut_ptr(), rows[r]);
            for c in 0..LANES {
                lanes[c][r] = row[c];
            }
        }
        let mut columns = rows;
        for c in 0..LANES {
            columns[c] = Self::load(lanes[c].as_ptr());
        }
        columns
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(v: Self::V) -> f32 {
        let mut lanes = [0.0f32; LANES];
        Self::store(lanes.as_mut_ptr(), v);
        lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `e^x` with relative error below 2e-7; results below the normal range become the smallest normal number. The
    /// polynomial is that of the Cephes library.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        let x = Self::min(Self::splat(88.0), Self::max(Self::splat(-87.33), x));
        let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
        let r = Self::fma(n, Self::splat(-0.693_359_4), x);
        let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = Self::fma(p, r, Self::splat(c));
        }
        let y = Self::add(Self::fma(Self::mul(r, r), p, r), Self::splat(1.0));
        Self::scale(y, n)
    }

    /// `2^x` for `x` up to 126 with relative error below 2e-7; `2^-126` below -126. The polynomial is that of the Cephes
    /// library.
    #[inline(always)]
    unsafe fn exp2(x: Self::V) -> Self::V {
        let x = Self::max(Self::splat(-126.0), x);
        let n = Self::round(x);
        let f = Self::sub(x, n);
        let mut p = Self::splat(1.535_336_2e-4);
        for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0] {
            p = Self::fma(p, f, Self::splat(c));
        }
        Self::scale(p, n)
    }

    /// `1 / (1 + e^-x)`.
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        let one = Self::splat(1.0);
        Self::div(one, Self::add(one, Self::exp(Self::sub(Self::zero(), x))))
    }
}
