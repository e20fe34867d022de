//! GEGLU (Shazeer 2020, arXiv:2002.05202): rows `[h, g]` of `2·width` values become `h·gelu(g)`.

use crate::{
    elementwise::{gelu_of, gelu_slope},
    isa::{Isa, dispatch},
    par::Ptr,
    simd::{LANES, Simd},
    split::for_each,
};

/// Rows of a task.
const ROWS: usize = 32;

fn each_block(rows: usize, width: usize, f: impl Fn(usize, usize) + Sync + Send) {
    for_each(rows.div_ceil(ROWS), 2 * rows * width, |i| f(i * ROWS, ROWS.min(rows - i * ROWS)));
}

/// `out = h·gelu(g)`. `x: [rows, 2·width]`, `out: [rows, width]`.
pub fn geglu(isa: Isa, width: usize, x: &[f32], out: &mut [f32]) {
    let rows = out.len() / width.max(1);
    assert!(out.len() == rows * width && x.len() == 2 * out.len(), "lengths of GEGLU");
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    each_block(rows, width, |start, count| {
        // SAFETY: lengths are checked above; tasks write disjoint rows.
        unsafe {
            let (x, out) = (x.get().add(2 * start * width), out.get().add(start * width));
            dispatch!(isa, forward(x: *const f32, out: *mut f32, count: usize, width: usize));
        }
    });
}

/// The gradient of [`geglu`] with respect to `x`, given `dy`, that of its result.
pub fn geglu_gradient(isa: Isa, width: usize, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let rows = dy.len() / width.max(1);
    assert!(
        dy.len() == rows * width && x.len() == 2 * dy.len() && dx.len() == x.len(),
        "lengths of GEGLU's gradient"
    );
    let (x, dy, dx) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()), Ptr::new(dx));
    each_block(rows, width, |start, count| {
        // SAFETY: lengths are checked above; tasks write disjoint rows.
        unsafe {
            let (x, dx) = (x.get().add(2 * start * width), dx.get().add(2 * start * width));
            let dy = dy.get().add(start * width);
            dispatch!(isa, backward(x: *const f32, dy: *const f32, dx: *mut f32, count: usize, width: usize));
        }
    });
}

#[inline(always)]
unsafe fn forward<S: Simd>(x: *const f32, out: *mut f32, rows: usize, width: usize) {
    for row in 0..rows {
        let (h, out) = (x.add(2 * row * width), out.add(row * width));
        let g = h.add(width);
        for at in (0..width).step_by(LANES) {
            let n = LANES.min(width - at);
            let y = S::mul(S::load_n(h.add(at), n), gelu_of::<S>(S::load_n(g.add(at), n)));
            S::store_n(out.add(at), y, n);
        }
    }
}

#[inline(always)]
unsafe fn backward<S: Simd>(x: *const f32, dy: *const f32, dx: *mut f32, rows: usize, width: usize) {
    for row in 0..rows {
        let (h, dh, dy) = (x.add(2 * row * width), dx.add(2 * row * width), dy.add(row * width));
        let (g, dg) = (h.add(width), dh.add(width));
        for at in (0..width).step_by(LANES) {
            let n = LANES.min(width - at);
            let (gate, dy) = (S::load_n(g.add(at), n), S::load_n(dy.add(at), n));
            S::store_n(dh.add(at), S::mul(dy, gelu_of::<S>(gate)), n);
            let scaled = S::mul(dy, S::load_n(h.add(at), n));
            S::store_n(dg.add(at), S::mul(scaled, gelu_slope::<S>(gate)), n);
        }
    }
}
