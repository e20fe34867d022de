//! Elementwise operations, computed in `f32` and rounded once.

use super::{
    Bf16, convert,
    simd::{self, Dot, V, dispatch16, load_part, store_part, strips16},
};
use crate::{
    Isa, elementwise,
    par::Ptr,
    simd::{LANES, Simd},
    split::{self, Blocks},
};

/// `pointwise!(f(a, ...; h, ...) = expression)` defines the loop over a piece: `f::<D>(a, ..., h, ..., out, n)` sets
/// `out[i]` to the expression of the vectors `a[i], ...` and the scalars `h, ...`. This is a macro because closures
/// do not inherit their caller's instruction set.
macro_rules! pointwise {
    ($name:ident($($arg:ident),+; $($h:ident),*) = $value:expr) => {
        #[inline(always)]
        unsafe fn $name<D: Dot>($($arg: *const Bf16,)+ $($h: f32,)* out: *mut Bf16, n: usize) {
            $(let $h = D::S::splat($h);)*
            let mut i = 0;
            while i + LANES <= n {
                let value = { $(let $arg = load_part::<D, Bf16, false>($arg.add(i), LANES);)+ $value };
                store_part::<D, Bf16, false>(out.add(i), value, LANES);
                i += LANES;
            }
            if i < n {
                let value = { $(let $arg = load_part::<D, Bf16, true>($arg.add(i), n - i);)+ $value };
                store_part::<D, Bf16, true>(out.add(i), value, n - i);
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
                dispatch16!($isa, $f[]($($arg: *const Bf16,)+ $($h: f32,)* $out: *mut Bf16, n: usize))
            }
        })
    };
}

pointwise!(silu_piece(x;) = simd::silu::<D, Bf16>(x));
pointwise!(add_piece(x, y;) = D::S::add(x, y));
pointwise!(mul_piece(x, y;) = D::S::mul(x, y));
pointwise!(blend_piece(x, y; a, b) = D::S::fma(y, b, D::S::mul(x, a)));

/// `x·sigmoid(x)`.
pub fn silu(isa: Isa, x: &[Bf16], out: &mut [Bf16]) {
    assert_eq!(x.len(), out.len(), "lengths of silu");
    let (len, x, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::new(out));
    run!(isa, len, silu_piece(x;) -> out);
}

/// [`silu`] in place.
pub fn silu_mut(isa: Isa, x: &mut [Bf16]) {
    let (len, x) = (x.len(), Ptr::new(x));
    let out = x;
    run!(isa, len, silu_piece(x;) -> out);
}

/// `x + y`.
pub fn add(isa: Isa, x: &[Bf16], y: &[Bf16], out: &mut [Bf16]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a sum");
    let (len, x, y, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(y.as_ptr()), Ptr::new(out));
    run!(isa, len, add_piece(x, y;) -> out);
}

/// `x += y`.
pub fn add_assign(isa: Isa, x: &mut [Bf16], y: &[Bf16]) {
    assert_eq!(x.len(), y.len(), "lengths of a sum");
    let (len, x, y) = (x.len(), Ptr::new(x), Ptr::from_const(y.as_ptr()));
    let out = x;
    run!(isa, len, add_piece(x, y;) -> out);
}

/// `x·y`.
pub fn multiply(isa: Isa, x: &[Bf16], y: &[Bf16], out: &mut [Bf16]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a product");
    let (len, x, y, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(y.as_ptr()), Ptr::new(out));
    run!(isa, len, mul_piece(x, y;) -> out);
}

/// `x·a + y·b`.
pub fn blend(isa: Isa, x: &[Bf16], a: f32, y: &[Bf16], b: f32, out: &mut [Bf16]) {
    assert!(x.len() == out.len() && y.len() == out.len(), "lengths of a blend");
    let (len, x, y, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::from_const(y.as_ptr()), Ptr::new(out));
    run!(isa, len, blend_piece(x, y; a, b) -> out);
}

/// Values converted to `f32` at a time.
const CHUNK: usize = 2048;

/// `x·Φ(x)`, like [`elementwise::gelu`].
pub fn gelu(isa: Isa, x: &[Bf16], out: &mut [Bf16]) {
    assert_eq!(x.len(), out.len(), "lengths of gelu");
    let (len, x, out) = (x.len(), Ptr::from_const(x.as_ptr()), Ptr::new(out));
    split::flat(len, |start, n| {
        let (mut wide, mut result) = ([0.0f32; CHUNK], [0.0f32; CHUNK]);
        for i in (start..start + n).step_by(CHUNK) {
            let n = CHUNK.min(start + n - i);
            // SAFETY: lengths are equal; pieces are disjoint.
            unsafe {
                convert::piece(isa, x.get().add(i).cast_const(), wide.as_mut_ptr(), n);
                elementwise::gelu(isa, &wide[..n], &mut result[..n]);
                convert::piece(isa, result.as_ptr(), out.get().add(i), n);
            }
        }
    });
}

/// `h·gelu(g)` of rows `[h, g]`, like [`crate::geglu::geglu`]: `x: [rows, 2·width]`, `out: [rows, width]`.
pub fn geglu(isa: Isa, width: usize, x: &[Bf16], out: &mut [Bf16]) {
    let rows = out.len() / width.max(1);
    assert!(out.len() == rows * width && x.len() == 2 * out.len(), "lengths of GEGLU");
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    split::for_each(rows, 2 * rows * width, |row| {
        let (mut wide, mut result) = ([0.0f32; 2 * CHUNK], [0.0f32; CHUNK]);
        for i in (0..width).step_by(CHUNK) {
            let n = CHUNK.min(width - i);
            // SAFETY: lengths are checked above; tasks write disjoint rows.
            unsafe {
                let h = x.get().add(2 * row * width + i).cast_const();
                convert::piece(isa, h, wide.as_mut_ptr(), n);
                convert::piece(isa, h.add(width), wide.as_mut_ptr().add(n), n);
                crate::geglu::geglu(isa, n, &wide[..2 * n], &mut result[..n]);
                convert::piece(isa, result.as_ptr(), out.get().add(row * width + i), n);
            }
        }
    });
}

/// `x·scale + shift` with one value per sample and channel: `x: [batch, pixels, channels]`,
/// `scale, shift: [batch, channels]`. The default scale is 1.
pub fn affine_channels(
    isa: Isa,
    x: &[Bf16],
    [batch, pixels, channels]: [usize; 3],
    scale: Option<&[f32]>,
    shift: Option<&[f32]>,
    out: &mut [Bf16],
) {
    assert!(x.len() == batch * pixels * channels && out.len() == x.len(), "lengths of x and out");
    let per_channel = [scale, shift].iter().flatten().all(|v| v.len() == batch * channels);
    assert!(per_channel, "expected one value per sample and channel");
    let pointer = |v: Option<&[f32]>| Ptr::from_const(v.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let (x, scale, shift, out) = (Ptr::from_const(x.as_ptr()), pointer(scale), pointer(shift), Ptr::new(out));
    let blocks = Blocks::new(batch, pixels, channels);
    blocks.each(|b, i| {
        let (at, rows) = blocks.get(b, i);
        let part = |p: *const f32| if p.is_null() { p } else { p.wrapping_add(b * channels) };
        let (scale, shift) = (part(scale.get()), part(shift.get()));
        // SAFETY: lengths are checked above; blocks are disjoint.
        unsafe {
            let (x, out) = (x.get().add(at).cast_const(), out.get().add(at));
            dispatch16!(isa, affine_rows[](x: *const Bf16, scale: *const f32, shift: *const f32, out: *mut Bf16, rows: usize, channels: usize))
        }
    });
}

#[inline(always)]
unsafe fn affine_rows<D: Dot>(
    x: *const Bf16,
    scale: *const f32,
    shift: *const f32,
    out: *mut Bf16,
    rows: usize,
    channels: usize,
) {
    strips16!(channels, 4, affine_strip::<D>(x, scale, shift, out, rows, channels))
}

#[inline(always)]
unsafe fn affine_strip<D: Dot, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const Bf16,
    scale: *const f32,
    shift: *const f32,
    out: *mut Bf16,
    rows: usize,
    channels: usize,
) {
    let (mut a, mut b): ([V<D>; NV], [V<D>; NV]) = ([D::S::splat(1.0); NV], [D::S::zero(); NV]);
    for v in 0..NV {
        if !scale.is_null() {
            a[v] = load_part::<D, f32, TAIL>(scale.add(c + v * LANES), valid);
        }
        if !shift.is_null() {
            b[v] = load_part::<D, f32, TAIL>(shift.add(c + v * LANES), valid);
        }
    }
    for r in 0..rows {
        for v in 0..NV {
            let at = r * channels + c + v * LANES;
            let y = D::S::fma(load_part::<D, Bf16, TAIL>(x.add(at), valid), a[v], b[v]);
            store_part::<D, Bf16, TAIL>(out.add(at), y, valid);
        }
    }
}
