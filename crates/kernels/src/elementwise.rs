//! Elementwise operations, and those with one number per sample and channel.

use crate::{
    Isa,
    isa::dispatch,
    par::{self, Ptr},
    simd::{LANES, Simd},
};

/// Numbers per task.
const PIECE: usize = 1 << 14;

/// An elementwise function of up to four inputs.
#[derive(Clone, Copy)]
enum Map {
    /// `a·sigmoid(a)`.
    Silu,
    /// `b·silu'(a)`.
    SiluGradient,
    /// `a + b`.
    Add,
    /// `a·h0 + b·h1`.
    Blend(f32, f32),
    /// `a + (b - a)·h0`.
    Lerp(f32),
}

/// `x·sigmoid(x)`.
pub fn silu(isa: Isa, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths of silu");
    run(isa, Map::Silu, x.as_ptr(), x.as_ptr(), out);
}

/// `silu` in place.
pub fn silu_mut(isa: Isa, x: &mut [f32]) {
    run(isa, Map::Silu, x.as_ptr(), x.as_ptr(), x);
}

/// `dy·silu'(x)`.
pub fn silu_gradient(isa: Isa, x: &[f32], dy: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && dy.len() == out.len(), "lengths of silu's gradient");
    run(isa, Map::SiluGradient, x.as_ptr(), dy.as_ptr(), out);
}

/// `x + y`.
pub fn add(isa: Isa, x: &[f32], y: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a sum");
    run(isa, Map::Add, x.as_ptr(), y.as_ptr(), out);
}

/// `x += y`.
pub fn add_assign(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of a sum");
    run(isa, Map::Add, x.as_ptr(), y.as_ptr(), x);
}

/// `x·a + y·b`.
pub fn blend(isa: Isa, x: &[f32], a: f32, y: &[f32], b: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a blend");
    run(isa, Map::Blend(a, b), x.as_ptr(), y.as_ptr(), out);
}

/// `x += (y - x)·weight`.
pub fn lerp_assign(isa: Isa, x: &mut [f32], y: &[f32], weight: f32) {
    assert_eq!(x.len(), y.len(), "lengths of lerp");
    run(isa, Map::Lerp(weight), x.as_ptr(), y.as_ptr(), x);
}

fn run(isa: Isa, map: Map, a: *const f32, b: *const f32, out: &mut [f32]) {
    let (a, b, len) = (Ptr::from_const(a), Ptr::from_const(b), out.len());
    let out = Ptr::new(out);
    par::for_each_piece(len, PIECE, |from, to| {
        let n = to - from;
        // SAFETY: callers have checked the lengths; inputs may be `out` itself, read before written.
        unsafe {
            let (a, b, out) =
                (a.get().add(from).cast_const(), b.get().add(from).cast_const(), out.get().add(from));
            dispatch!(isa, piece(map: Map, a: *const f32, b: *const f32, out: *mut f32, n: usize))
        }
    });
}

#[inline(always)]
unsafe fn piece<S: Simd>(map: Map, a: *const f32, b: *const f32, out: *mut f32, n: usize) {
    match map {
        Map::Silu => each::<S>(a, b, out, n, |a, _| S::mul(a, S::sigmoid(a))),
        Map::SiluGradient => each::<S>(a, b, out, n, |a, b| S::mul(b, silu_slope::<S>(a))),
        Map::Add => each::<S>(a, b, out, n, |a, b| S::add(a, b)),
        Map::Blend(x, y) => {
            let (x, y) = (S::splat(x), S::splat(y));
            each::<S>(a, b, out, n, |a, b| S::fma(b, y, S::mul(a, x)))
        }
        Map::Lerp(w) => {
            let w = S::splat(w);
            each::<S>(a, b, out, n, |a, b| S::fma(S::sub(b, a), w, a))
        }
    }
}

#[inline(always)]
unsafe fn each<S: Simd>(
    a: *const f32,
    b: *const f32,
    out: *mut f32,
    n: usize,
    f: impl Fn(S::V, S::V) -> S::V,
) {
    let mut i = 0;
    while i + LANES <= n {
        S::store(out.add(i), f(S::load(a.add(i)), S::load(b.add(i))));
        i += LANES;
    }
    if i < n {
        let left = n - i;
        S::store_n(out.add(i), f(S::load_n(a.add(i), left), S::load_n(b.add(i), left)), left);
    }
}

/// `d/dz z·sigmoid(z)`.
#[inline(always)]
pub(crate) unsafe fn silu_slope<S: Simd>(z: S::V) -> S::V {
    let s = S::sigmoid(z);
    S::mul(s, S::fma(z, S::sub(S::splat(1.0), s), S::splat(1.0)))
}

/// `x·scale + shift` with one number per sample and channel: `x: [batch, pixels, channels]`,
/// `scale, shift: [batch, channels]`; no scale means one.
pub fn affine_channels(
    isa: Isa,
    x: &[f32],
    [batch, pixels, channels]: [usize; 3],
    scale: Option<&[f32]>,
    shift: Option<&[f32]>,
    out: &mut [f32],
) {
    assert!(x.len() == batch * pixels * channels && out.len() == x.len(), "lengths of x and out");
    assert!(
        [scale, shift].iter().flatten().all(|v| v.len() == batch * channels),
        "one number per sample and channel"
    );
    let pointer = |v: Option<&[f32]>| Ptr::from_const(v.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let (x, scale, shift, out) = (Ptr::from_const(x.as_ptr()), pointer(scale), pointer(shift), Ptr::new(out));
    let rows = (PIECE / channels.max(1)).max(1);
    let pieces = pixels.div_ceil(rows);
    par::for_each(batch * pieces, |i| {
        let (b, from) = (i / pieces.max(1), i % pieces.max(1) * rows);
        let count = rows.min(pixels - from);
        let at = (b * pixels + from) * channels;
        let part = |p: Ptr<f32>| crate::gemm::offset_unless_null(p.get(), b * channels);
        let (scale, shift) = (part(scale), part(shift));
        // SAFETY: lengths are checked above; pieces are disjoint.
        unsafe {
            let (x, out) = (x.get().add(at).cast_const(), out.get().add(at));
            dispatch!(isa, affine_rows(
                x: *const f32, scale: *const f32, shift: *const f32, out: *mut f32, count: usize, channels: usize
            ))
        }
    });
}

#[inline(always)]
unsafe fn affine_rows<S: Simd>(
    x: *const f32,
    scale: *const f32,
    shift: *const f32,
    out: *mut f32,
    rows: usize,
    channels: usize,
) {
    for r in 0..rows {
        let (x, out) = (x.add(r * channels), out.add(r * channels));
        let mut c = 0;
        while c < channels {
            let n = (channels - c).min(LANES);
            let a = if scale.is_null() { S::splat(1.0) } else { S::load_n(scale.add(c), n) };
            let b = if shift.is_null() { S::zero() } else { S::load_n(shift.add(c), n) };
            S::store_n(out.add(c), S::fma(S::load_n(x.add(c), n), a, b), n);
            c += LANES;
        }
    }
}

/// Sums over pixels: `Σ_p x[b, p, c]`, or `Σ_p x[b, p, c]·y[b, p, c]` where `y` is given, into `[batch, channels]`.
pub fn sum_pixels(
    isa: Isa,
    x: &[f32],
    y: Option<&[f32]>,
    [batch, pixels, channels]: [usize; 3],
    out: &mut [f32],
) {
    let len = batch * pixels * channels;
    assert!(x.len() == len && y.is_none_or(|y| y.len() == len), "lengths of a sum over pixels");
    assert_eq!(out.len(), batch * channels, "one sum per sample and channel");
    /// Pixels added in `f32` before they join the `f64` sum; fixed, so that threads do not matter.
    const ROWS: usize = 64;
    let pieces = pixels.div_ceil(ROWS).max(1);
    let mut parts = vec![0.0f32; batch * pieces * channels];
    let (x, y) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(y.map_or(std::ptr::null(), <[f32]>::as_ptr)));
    let to = Ptr::new(&mut parts);
    par::for_each_piece(batch * pieces, 8, |first, last| {
        for i in first..last {
            let (b, from) = (i / pieces, i % pieces * ROWS);
            let rows = ROWS.min(pixels.saturating_sub(from));
            let at = (b * pixels + from) * channels;
            let y = crate::gemm::offset_unless_null(y.get(), at);
            // SAFETY: lengths are checked above; every task has its own part.
            unsafe {
                let (x, to) = (x.get().wrapping_add(at).cast_const(), to.get().add(i * channels));
                dispatch!(isa, sum_rows(x: *const f32, y: *const f32, rows: usize, channels: usize, to: *mut f32))
            }
        }
    });
    for (b, out) in out.chunks_mut(channels.max(1)).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            let sum: f64 = (0..pieces).map(|p| f64::from(parts[(b * pieces + p) * channels + c])).sum();
            *out = sum as f32;
        }
    }
}

#[inline(always)]
unsafe fn sum_rows<S: Simd>(x: *const f32, y: *const f32, rows: usize, channels: usize, out: *mut f32) {
    let mut c = 0;
    while c < channels {
        let n = (channels - c).min(LANES);
        let mut sum = S::zero();
        for r in 0..rows {
            let x = S::load_n(x.add(r * channels + c), n);
            sum = if y.is_null() {
                S::add(sum, x)
            } else {
                S::fma(x, S::load_n(y.add(r * channels + c), n), sum)
            };
        }
        S::store_n(out.add(c), sum, n);
        c += LANES;
    }
}
