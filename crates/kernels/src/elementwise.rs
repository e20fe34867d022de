//! Elementwise operations, also with one value per sample and channel.

use crate::{
    Isa,
    isa::dispatch,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::{self, Blocks, load, store, strips},
};

/// `pointwise!(f(a, ...; h, ...) = |S| expression)` defines the loop over a piece: `f(a, ..., h, ..., out, n)` sets
/// `out[i]` to the expression of the vectors `a[i], ...` and the scalars `h, ...`. This is a macro because closures
/// do not inherit their caller's instruction set.
macro_rules! pointwise {
    ($name:ident($($arg:ident),+; $($h:ident),*) = |$s:ident| $value:expr) => {
        #[inline(always)]
        unsafe fn $name<$s: Simd>($($arg: *const f32,)+ $($h: f32,)* out: *mut f32, n: usize) {
            $(let $h = $s::splat($h);)*
            let mut i = 0;
            while i + LANES <= n {
                let value = { $(let $arg = $s::load($arg.add(i));)+ $value };
                $s::store(out.add(i), value);
                i += LANES;
            }
            if i < n {
                let value = { $(let $arg = $s::load_n($arg.add(i), n - i);)+ $value };
                $s::store_n(out.add(i), value, n - i);
            }
        }
    };
}

/// Runs a `pointwise!` function over `len` values; inputs may alias the output.
macro_rules! run {
    ($isa:expr, $len:expr, $f:ident($($arg:ident),+; $($h:ident),*) -> $out:ident) => {
        split::flat($len, |start, n| {
            // SAFETY: lengths are checked by the caller; pieces are disjoint, and read before they are written.
            unsafe {
                $(let $arg = $arg.get().add(start).cast_const();)+
                let $out = $out.get().add(start);
                dispatch!($isa, $f($($arg: *const f32,)+ $($h: f32,)* $out: *mut f32, n: usize))
            }
        })
    };
}

pointwise!(silu_piece(x;) = |S| S::mul(x, S::sigmoid(x)));
pointwise!(silu_gradient_piece(x, dy;) = |S| S::mul(dy, silu_slope::<S>(x)));
pointwise!(gelu_piece(x;) = |S| gelu_of::<S>(x));
pointwise!(gelu_gradient_piece(x, dy;) = |S| S::mul(dy, gelu_slope::<S>(x)));
pointwise!(add_piece(x, y;) = |S| S::add(x, y));
pointwise!(blend_piece(x, y; a, b) = |S| S::fma(y, b, S::mul(x, a)));
pointwise!(lerp_piece(x, y; weight) = |S| S::fma(S::sub(y, x), weight, x));

/// `x·sigmoid(x)`.
pub fn silu(isa: Isa, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths of silu");
    let (len, x, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::new(out));
    run!(isa, len, silu_piece(x;) -> out);
}

/// `silu` in place.
pub fn silu_mut(isa: Isa, x: &mut [f32]) {
    let (len, x) = (x.len(), Ptr::new(x));
    let out = x;
    run!(isa, len, silu_piece(x;) -> out);
}

/// `dy·silu'(x)`.
pub fn silu_gradient(isa: Isa, x: &[f32], dy: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && dy.len() == out.len(), "lengths of silu's gradient");
    let (len, x, dy, out) =
        (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()), Ptr::new(out));
    run!(isa, len, silu_gradient_piece(x, dy;) -> out);
}

/// `x·Φ(x)` with the normal distribution function `Φ`: GELU as PyTorch defines it by default
/// (Hendrycks & Gimpel 2016, arXiv:1606.08415), relative error below 1e-6 for `|x| < 13`.
pub fn gelu(isa: Isa, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths of gelu");
    let (len, x, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::new(out));
    run!(isa, len, gelu_piece(x;) -> out);
}

/// `dy·gelu'(x)`.
pub fn gelu_gradient(isa: Isa, x: &[f32], dy: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && dy.len() == out.len(), "lengths of gelu's gradient");
    let (len, x, dy, out) =
        (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()), Ptr::new(out));
    run!(isa, len, gelu_gradient_piece(x, dy;) -> out);
}

/// `x + y`.
pub fn add(isa: Isa, x: &[f32], y: &[f32], out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a sum");
    let (len, x, y, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(y.as_ptr()), Ptr::new(out));
    run!(isa, len, add_piece(x, y;) -> out);
}

/// `x += y`.
pub fn add_assign(isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of a sum");
    let (len, x, y) = (x.len(), Ptr::new(x), Ptr::from_const(y.as_ptr()));
    let out = x;
    run!(isa, len, add_piece(x, y;) -> out);
}

/// `x·a + y·b`.
pub fn blend(isa: Isa, x: &[f32], a: f32, y: &[f32], b: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a blend");
    let (len, x, y, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(y.as_ptr()), Ptr::new(out));
    run!(isa, len, blend_piece(x, y; a, b) -> out);
}

/// `x += (y - x)·weight`.
pub fn lerp_assign(isa: Isa, x: &mut [f32], y: &[f32], weight: f32) {
    assert_eq!(x.len(), y.len(), "lengths of lerp");
    let (len, x, y) = (x.len(), Ptr::new(x), Ptr::from_const(y.as_ptr()));
    let out = x;
    run!(isa, len, lerp_piece(x, y; weight) -> out);
}

/// `d/dz z·sigmoid(z)`.
#[inline(always)]
pub(crate) unsafe fn silu_slope<S: Simd>(z: S::V) -> S::V {
    let s = S::sigmoid(z);
    S::mul(s, S::fma(z, S::sub(S::splat(1.0), s), S::splat(1.0)))
}

/// `x·Φ(x) = max(x, 0) - |x|·Φ(-|x|)`, exact to rounding in both tails.
#[inline(always)]
pub(crate) unsafe fn gelu_of<S: Simd>(x: S::V) -> S::V {
    let size = magnitude::<S>(x);
    S::fnma(size, lower_tail::<S>(size).0, S::max(x, S::zero()))
}

/// `(x·Φ(x))' = Φ(x) + x·exp(-x²/2)/√2π`.
#[inline(always)]
pub(crate) unsafe fn gelu_slope<S: Simd>(x: S::V) -> S::V {
    let (tail, bell) = lower_tail::<S>(magnitude::<S>(x));
    let (half, one) = (S::splat(0.5), S::splat(1.0));
    let sign = S::max(S::splat(-1.0), S::min(one, S::mul(x, S::splat(f32::MAX))));
    let below = S::fma(sign, S::sub(half, tail), half);
    S::fma(S::mul(x, bell), S::splat(0.398_942_3), below)
}

#[inline(always)]
unsafe fn magnitude<S: Simd>(x: S::V) -> S::V {
    S::max(x, S::sub(S::zero(), x))
}

/// `Φ(-y)` and `exp(-y²/2)` for `y >= 0`. `Φ(-y)·exp(y²/2)` is a polynomial in `1/(1 + 0.31·y)`, fitted for
/// the smallest relative error, 2e-7, up to `y = 14`.
#[inline(always)]
unsafe fn lower_tail<S: Simd>(y: S::V) -> (S::V, S::V) {
    let bell = S::exp(S::mul(S::mul(y, y), S::splat(-0.5)));
    let t = S::div(S::splat(1.0), S::fma(y, S::splat(0.31), S::splat(1.0)));
    let mut p = S::splat(0.035_839_997);
    for c in [
        -0.141_597_45,
        0.155_055_58,
        -0.014_892_007,
        0.110_104_024,
        0.107_772_98,
        0.124_060_035,
        0.123_656_93,
    ] {
        p = S::fma(p, t, S::splat(c));
    }
    (S::mul(S::mul(p, t), bell), bell)
}

/// `x·scale + shift` with one value per sample and channel: `x: [batch, pixels, channels]`,
/// `scale, shift: [batch, channels]`. The default scale is 1.
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
        "expected one value per sample and channel"
    );
    let pointer = |v: Option<&[f32]>| Ptr::from_const(v.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let (x, scale, shift, out) = (Ptr::from_const(x.as_ptr()), pointer(scale), pointer(shift), Ptr::new(out));
    let blocks = Blocks::new(batch, pixels, channels);
    blocks.each(|b, i| {
        let (at, count) = blocks.get(b, i);
        let part = |p: Ptr<f32>| crate::gemm::offset_unless_null(p.get(), b * channels);
        let (scale, shift) = (part(scale), part(shift));
        // SAFETY: lengths are checked above; blocks are disjoint.
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
    strips!(channels, 4, affine_strip::<S>(x, scale, shift, out, rows, channels))
}

#[inline(always)]
unsafe fn affine_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    scale: *const f32,
    shift: *const f32,
    out: *mut f32,
    rows: usize,
    channels: usize,
) {
    let (mut a, mut b) = ([S::splat(1.0); NV], [S::zero(); NV]);
    for v in 0..NV {
        if !scale.is_null() {
            a[v] = load::<S, TAIL>(scale.add(c + v * LANES), valid);
        }
        if !shift.is_null() {
            b[v] = load::<S, TAIL>(shift.add(c + v * LANES), valid);
        }
    }
    for r in 0..rows {
        let at = r * channels + c;
        for v in 0..NV {
            let x = load::<S, TAIL>(x.add(at + v * LANES), valid);
            store::<S, TAIL>(out.add(at + v * LANES), S::fma(x, a[v], b[v]), valid);
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
    assert_eq!(out.len(), batch * channels, "expected one sum per sample and channel");
    let blocks = Blocks::new(batch, pixels, channels);
    let parts = Scratch::take(blocks.partials(1));
    let (x, y) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(y.map_or(std::ptr::null(), <[f32]>::as_ptr)));
    let to = parts.ptr();
    blocks.each(|b, i| {
        let (at, rows) = blocks.get(b, i);
        let y = crate::gemm::offset_unless_null(y.get(), at);
        // SAFETY: lengths are checked above; every task has its own part.
        unsafe {
            let (x, to) = (x.get().add(at), to.get().add(blocks.partial(b, i, 1)));
            dispatch!(isa, sum_rows(x: *const f32, y: *const f32, rows: usize, channels: usize, to: *mut f32))
        }
    });
    let mut sums = vec![0.0f64; channels];
    for (b, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
        // SAFETY: every block's part was written above.
        unsafe { split::total(to.get().add(blocks.partial(b, 0, 1)), blocks.per_image, &mut sums) };
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = *s as f32);
    }
}

#[inline(always)]
unsafe fn sum_rows<S: Simd>(x: *const f32, y: *const f32, rows: usize, channels: usize, out: *mut f32) {
    strips!(channels, 4, sum_strip::<S>(x, y, rows, channels, out))
}

#[inline(always)]
unsafe fn sum_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    y: *const f32,
    rows: usize,
    channels: usize,
    out: *mut f32,
) {
    let mut sum = [S::zero(); NV];
    for r in 0..rows {
        let at = r * channels + c;
        for v in 0..NV {
            let at = at + v * LANES;
            let x = load::<S, TAIL>(x.add(at), valid);
            sum[v] = if y.is_null() {
                S::add(sum[v], x)
            } else {
                S::fma(x, load::<S, TAIL>(y.add(at), valid), sum[v])
            };
        }
    }
    for v in 0..NV {
        store::<S, TAIL>(out.add(c + v * LANES), sum[v], valid);
    }
}
