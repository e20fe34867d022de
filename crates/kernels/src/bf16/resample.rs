//! Copies between maps: concatenation, selection of columns, nearest-neighbour resizing; average pooling.

use super::{
    Bf16,
    simd::{Dot, dispatch16, load_part, store_part, strips16},
};
use crate::{
    Isa,
    par::{self, Ptr},
    simd::{LANES, Simd},
};

/// Pixels per task.
const ROWS: usize = 256;

/// Concatenates `[rows, a]` and `[rows, b]` to `[rows, a + b]`.
pub fn concatenate(x: &[Bf16], a: usize, y: &[Bf16], b: usize, out: &mut [Bf16]) {
    let rows = out.len() / (a + b).max(1);
    let lens = [x.len(), y.len(), out.len()];
    assert_eq!(lens, [rows * a, rows * b, rows * (a + b)], "lengths of a concatenation");
    let to = Ptr::new(out);
    par::for_each_piece(rows, ROWS, |from, end| {
        for r in from..end {
            // SAFETY: tasks own their rows.
            let out = unsafe { std::slice::from_raw_parts_mut(to.get().add(r * (a + b)), a + b) };
            out[..a].copy_from_slice(&x[r * a..(r + 1) * a]);
            out[a..].copy_from_slice(&y[r * b..(r + 1) * b]);
        }
    });
}

/// Copies columns `first..first + width` of `[rows, columns]`.
pub fn columns(x: &[Bf16], columns: usize, first: usize, width: usize, out: &mut [Bf16]) {
    let rows = x.len() / columns.max(1);
    assert!(first + width <= columns && out.len() == rows * width, "lengths of a selection of columns");
    let to = Ptr::new(out);
    par::for_each_piece(rows, ROWS, |from, end| {
        for r in from..end {
            // SAFETY: tasks own their rows.
            let out = unsafe { std::slice::from_raw_parts_mut(to.get().add(r * width), width) };
            out.copy_from_slice(&x[r * columns + first..][..width]);
        }
    });
}

/// Source row or column of target `i`: PyTorch's `nearest`, whose scale is rounded to `f32`.
fn nearest(i: usize, from: usize, to: usize) -> usize {
    let scale = from as f32 / to as f32;
    ((i as f32 * scale) as usize).min(from - 1)
}

/// Nearest-neighbour resizing of `[batch, h, w, channels]`.
pub fn upsample(
    x: &[Bf16],
    batch: usize,
    from: [usize; 2],
    to: [usize; 2],
    channels: usize,
    out: &mut [Bf16],
) {
    assert_eq!(x.len(), batch * from[0] * from[1] * channels, "length of the input of a resizing");
    assert_eq!(out.len(), batch * to[0] * to[1] * channels, "length of the output of a resizing");
    let target = Ptr::new(out);
    par::for_each_piece(batch * to[0], 4, |first, last| {
        for row in first..last {
            let (b, y) = (row / to[0], nearest(row % to[0], from[0], to[0]));
            for i in 0..to[1] {
                let pixel = (b * from[0] + y) * from[1] + nearest(i, from[1], to[1]);
                // SAFETY: tasks own their rows.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(target.get().add((row * to[1] + i) * channels), channels)
                };
                out.copy_from_slice(&x[pixel * channels..][..channels]);
            }
        }
    });
}

/// Means over `k×k` windows with stride `k` of `[batch, h, w, channels]`; a remainder is dropped.
pub fn avg_pool(
    isa: Isa,
    x: &[Bf16],
    batch: usize,
    from: [usize; 2],
    k: usize,
    channels: usize,
    out: &mut [Bf16],
) {
    let to = from.map(|s| s / k);
    assert_eq!(x.len(), batch * from[0] * from[1] * channels, "length of the input of a pooling");
    assert_eq!(out.len(), batch * to[0] * to[1] * channels, "length of the output of a pooling");
    let (x, result, row) = (Ptr::from_const(x.as_ptr()), Ptr::new(out), from[1] * channels);
    par::for_each_piece(batch * to[0], 4, |first, last| {
        for i in first..last {
            let (b, y) = (i / to[0], i % to[0] * k);
            for column in 0..to[1] {
                // SAFETY: lengths are checked above; tasks own their rows.
                unsafe {
                    let pixel = (b * from[0] + y) * from[1] + column * k;
                    let x = x.get().add(pixel * channels).cast_const();
                    let out = result.get().add((i * to[1] + column) * channels);
                    dispatch16!(isa, window[](x: *const Bf16, row: usize, k: usize, channels: usize, out: *mut Bf16))
                }
            }
        }
    });
}

#[inline(always)]
unsafe fn window<D: Dot>(x: *const Bf16, row: usize, k: usize, channels: usize, out: *mut Bf16) {
    strips16!(channels, 2, window_strip::<D>(x, row, k, channels, out))
}

#[inline(always)]
unsafe fn window_strip<D: Dot, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const Bf16,
    row: usize,
    k: usize,
    channels: usize,
    out: *mut Bf16,
) {
    let scale = D::S::splat(1.0 / (k * k) as f32);
    for v in 0..NV {
        let c = c + v * LANES;
        let mut sum = D::S::zero();
        for y in 0..k {
            for i in 0..k {
                sum = D::S::add(sum, load_part::<D, Bf16, TAIL>(x.add(y * row + i * channels + c), valid));
            }
        }
        store_part::<D, Bf16, TAIL>(out.add(c), D::S::mul(sum, scale), valid);
    }
}
