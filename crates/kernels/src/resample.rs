//! Copies between maps: layouts, concatenation, nearest-neighbour resizing; average pooling.

use crate::{
    Isa, layout,
    par::{self, Ptr},
};

/// Pixels per task.
const ROWS: usize = 256;

/// Transposes `[batch, channels, pixels]` to `[batch, pixels, channels]`.
pub fn to_channels_last(x: &[f32], [batch, channels, pixels]: [usize; 3], out: &mut [f32]) {
    transpose(x, [batch, channels, pixels], out);
}

/// Transposes `[batch, rows, columns]` to `[batch, columns, rows]`.
pub fn transpose(x: &[f32], dims: [usize; 3], out: &mut [f32]) {
    layout::transpose(Isa::active(), x, dims, out);
}

/// Concatenates `[rows, a]` and `[rows, b]` to `[rows, a + b]`.
pub fn concatenate(x: &[f32], a: usize, y: &[f32], b: usize, out: &mut [f32]) {
    let rows = out.len() / (a + b).max(1);
    assert!(
        x.len() == rows * a && y.len() == rows * b && out.len() == rows * (a + b),
        "lengths of a concatenation"
    );
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
pub fn columns(x: &[f32], columns: usize, first: usize, width: usize, out: &mut [f32]) {
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
pub fn upsample(x: &[f32], batch: usize, from: [usize; 2], to: [usize; 2], channels: usize, out: &mut [f32]) {
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

/// The gradient of [`upsample`]: for each source pixel, the sum over its targets.
pub fn upsample_gradient(
    dy: &[f32],
    batch: usize,
    from: [usize; 2],
    to: [usize; 2],
    channels: usize,
    dx: &mut [f32],
) {
    assert_eq!(dx.len(), batch * from[0] * from[1] * channels, "length of the input of a resizing");
    assert_eq!(dy.len(), batch * to[0] * to[1] * channels, "length of the output of a resizing");
    let targets = |i: usize, axis: usize| -> Vec<usize> {
        (0..to[axis]).filter(|&t| nearest(t, from[axis], to[axis]) == i).collect()
    };
    let (ys, xs): (Vec<_>, Vec<_>) =
        ((0..from[0]).map(|i| targets(i, 0)).collect(), (0..from[1]).map(|i| targets(i, 1)).collect());
    let result = Ptr::new(dx);
    par::for_each_piece(batch * from[0], 4, |first, last| {
        for row in first..last {
            let (b, y) = (row / from[0], row % from[0]);
            for (i, columns) in xs.iter().enumerate() {
                // SAFETY: tasks own their rows.
                let dx = unsafe {
                    std::slice::from_raw_parts_mut(result.get().add((row * from[1] + i) * channels), channels)
                };
                dx.fill(0.0);
                for &ty in &ys[y] {
                    for &tx in columns {
                        let dy = &dy[((b * to[0] + ty) * to[1] + tx) * channels..][..channels];
                        dx.iter_mut().zip(dy).for_each(|(d, s)| *d += s);
                    }
                }
            }
        }
    });
}

/// Means over `k×k` windows with stride `k` of `[batch, h, w, channels]`; a remainder is dropped.
pub fn avg_pool(x: &[f32], batch: usize, from: [usize; 2], k: usize, channels: usize, out: &mut [f32]) {
    let to = from.map(|s| s / k);
    assert_eq!(x.len(), batch * from[0] * from[1] * channels, "length of the input of a pooling");
    assert_eq!(out.len(), batch * to[0] * to[1] * channels, "length of the output of a pooling");
    let scale = 1.0 / (k * k) as f32;
    let result = Ptr::new(out);
    par::for_each_piece(batch * to[0], 4, |first, last| {
        for row in first..last {
            let (b, y) = (row / to[0], row % to[0] * k);
            for i in 0..to[1] {
                // SAFETY: tasks own their rows.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(result.get().add((row * to[1] + i) * channels), channels)
                };
                out.fill(0.0);
                for (dy, dx) in (0..k * k).map(|t| (t / k, t % k)) {
                    let pixel = (b * from[0] + y + dy) * from[1] + i * k + dx;
                    out.iter_mut().zip(&x[pixel * channels..][..channels]).for_each(|(o, v)| *o += v);
                }
                out.iter_mut().for_each(|o| *o *= scale);
            }
        }
    });
}

/// The gradient of [`avg_pool`].
pub fn avg_pool_gradient(
    dy: &[f32],
    batch: usize,
    from: [usize; 2],
    k: usize,
    channels: usize,
    dx: &mut [f32],
) {
    let to = from.map(|s| s / k);
    assert_eq!(dx.len(), batch * from[0] * from[1] * channels, "length of the input of a pooling");
    assert_eq!(dy.len(), batch * to[0] * to[1] * channels, "length of the output of a pooling");
    let scale = 1.0 / (k * k) as f32;
    let result = Ptr::new(dx);
    par::for_each_piece(batch * from[0], 4, |first, last| {
        for row in first..last {
            let (b, y) = (row / from[0], row % from[0]);
            for i in 0..from[1] {
                // SAFETY: tasks own their rows.
                let dx = unsafe {
                    std::slice::from_raw_parts_mut(result.get().add((row * from[1] + i) * channels), channels)
                };
                if y / k < to[0] && i / k < to[1] {
                    let dy = &dy[((b * to[0] + y / k) * to[1] + i / k) * channels..][..channels];
                    dx.iter_mut().zip(dy).for_each(|(d, s)| *d = s * scale);
                } else {
                    dx.fill(0.0);
                }
            }
        }
    });
}
