//! The convolution itself; the data gradient is one with turned, transposed weights.

use super::{
    POINTS, Tiles,
    transform::{Kernels, Patch, Planes, input_tiles, kernel_lanes, output_tiles},
};
use crate::{
    Isa,
    conv::Conv,
    gemm::{RowsJob, panel_width, rows},
    isa::dispatch,
    par::{self, Ptr, Scratch},
    simd::{LANES, Simd},
};

/// Bytes that the transformed input and output of a block of tiles may take.
const BLOCK_BYTES: usize = 2 << 20;
/// Rows of the widest microkernel: blocks are multiples of it.
const UNIT: usize = 12;

/// The transformed weights of a layer.
pub(crate) struct Prepared(Scratch);

pub(crate) fn prepare(isa: Isa, c: &Conv, w: &[f32]) -> Prepared {
    let u = Scratch::allocate(transformed_len(isa, [c.in_channels, c.out_channels]));
    // SAFETY: `Conv` has matched the weight's length and shape.
    unsafe { transform_kernels(isa, as_they_are(c, w), [c.in_channels, c.out_channels], u.ptr()) };
    Prepared(u)
}

pub(crate) fn forward(isa: Isa, c: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let channels = [c.in_channels, c.out_channels];
    let u = Scratch::take(transformed_len(isa, channels));
    // SAFETY: `Conv::check` has matched lengths and shape.
    unsafe {
        transform_kernels(isa, as_they_are(c, w), channels, u.ptr());
        run(isa, &Tiles::new(c), channels, u.ptr(), x, bias, out);
    }
}

pub(crate) fn forward_prepared(
    isa: Isa,
    c: &Conv,
    x: &[f32],
    w: &Prepared,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    // SAFETY: as above.
    unsafe { run(isa, &Tiles::new(c), [c.in_channels, c.out_channels], w.0.ptr(), x, bias, out) }
}

pub(crate) fn data_gradient(isa: Isa, c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let kernels = Kernels { start: w.as_ptr(), k_stride: 9 * c.in_channels, n_stride: 9, flipped: true };
    let channels = [c.out_channels, c.in_channels];
    let u = Scratch::take(transformed_len(isa, channels));
    // SAFETY: as above.
    unsafe {
        transform_kernels(isa, kernels, channels, u.ptr());
        run(isa, &Tiles::new(c), channels, u.ptr(), dy, None, dx);
    }
}

fn as_they_are(c: &Conv, w: &[f32]) -> Kernels {
    Kernels { start: w.as_ptr(), k_stride: 9, n_stride: 9 * c.in_channels, flipped: false }
}

/// Numbers from one point's transformed weights to the next: one line more than a power of two, so that
/// the 36 planes do not share cache sets.
fn plane_len(isa: Isa, [k, n]: [usize; 2]) -> usize {
    k * n.next_multiple_of(panel_width(isa, n)) + LANES
}

fn transformed_len(isa: Isa, channels: [usize; 2]) -> usize {
    POINTS * plane_len(isa, channels)
}

unsafe fn run(
    isa: Isa,
    tiles: &Tiles,
    [k, n]: [usize; 2],
    u: Ptr<f32>,
    x: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if tiles.count == 0 || n == 0 {
        return;
    }
    let width = panel_width(isa, n);
    let n_padded = n.next_multiple_of(width);
    let u_plane = plane_len(isa, [k, n]);
    let (k_row, n_row) = (k.next_multiple_of(LANES), n.next_multiple_of(LANES));
    let per_tile = POINTS * (k_row + n_row) * size_of::<f32>();
    let most = (BLOCK_BYTES / per_tile / UNIT).clamp(1, 16) * UNIT;
    // As many blocks as fill the threads evenly.
    let count = tiles.count.div_ceil(most).next_multiple_of(par::threads());
    let block = tiles.count.div_ceil(count).next_multiple_of(UNIT).min(most);
    let count = tiles.count.div_ceil(block);
    let alone = count >= par::threads();
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    let bias = Ptr::from_const(bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let one = |i: usize| {
        let (from, to) = (i * block, tiles.count.min((i + 1) * block));
        let (v_plane, m_plane) = (block * k_row + LANES, block * n_row + LANES);
        let scratch = Scratch::take(POINTS * (v_plane + m_plane));
        let v = scratch.ptr();
        let m = Ptr::from_const(v.get().wrapping_add(POINTS * v_plane));
        let inner = |n: usize, f: &(dyn Fn(usize) + Sync)| {
            if alone { (0..n).for_each(f) } else { par::for_each(n, f) }
        };
        // Pieces of a block share nothing: each transforms its own tiles or owns its points.
        let pieces = if alone { 1 } else { par::threads().min(to - from) };
        let piece = (to - from).div_ceil(pieces);
        inner(pieces, &|p| {
            let at = Patch { tiles, from: from + p * piece, to: to.min(from + (p + 1) * piece), channels: k };
            let v = Planes { start: v.get().wrapping_add(p * piece * k_row), plane: v_plane, row: k_row };
            let x = x.get().cast_const();
            dispatch!(isa, input_tiles(at: Patch<'_>, x: *const f32, v: Planes))
        });
        let rows_of = to - from;
        let a: Vec<_> = (0..rows_of).map(|r| Ptr::from_const(v.get().wrapping_add(r * k_row))).collect();
        let c: Vec<_> = (0..rows_of).map(|r| Ptr::from_const(m.get().wrapping_add(r * n_row))).collect();
        inner(POINTS, &|point| {
            rows(
                isa,
                &RowsJob {
                    rows: a.as_ptr().cast(),
                    a_offset: point * v_plane,
                    m: rows_of,
                    taps: 1,
                    k,
                    b: u.get().add(point * u_plane),
                    width,
                    n: n_row.min(n_padded),
                    out: c.as_ptr().cast(),
                    out_offset: point * m_plane,
                    bias: std::ptr::null(),
                    accumulate: false,
                },
            );
        });
        inner(pieces, &|p| {
            let at = Patch { tiles, from: from + p * piece, to: to.min(from + (p + 1) * piece), channels: n };
            let m = Planes { start: m.get().wrapping_add(p * piece * n_row), plane: m_plane, row: n_row };
            let (bias, out) = (bias.get().cast_const(), out.get());
            dispatch!(isa, output_tiles(at: Patch<'_>, m: Planes, bias: *const f32, out: *mut f32))
        });
    };
    if alone { par::for_each(count, one) } else { (0..count).for_each(one) }
}

/// `[36][panels][k][width]` from weights in PyTorch's layout.
unsafe fn transform_kernels(isa: Isa, kernels: Kernels, [k, n]: [usize; 2], u: Ptr<f32>) {
    let (width, plane) = (panel_width(isa, n), plane_len(isa, [k, n]));
    #[inline(always)]
    unsafe fn panel<S: Simd>(g: Kernels, k: usize, n: usize, first: usize, width: usize, to: Planes) {
        for lanes in 0..width / LANES {
            let at = first + lanes * LANES;
            let to = Planes { start: to.start.add(lanes * LANES), ..to };
            kernel_lanes::<S>(g, k, at, n.saturating_sub(at).min(LANES), to);
        }
    }
    let start = Ptr::from_const(kernels.start);
    let (k_stride, n_stride, flipped) = (kernels.k_stride, kernels.n_stride, kernels.flipped);
    par::for_each(n.div_ceil(width), |i| {
        let g = Kernels { start: start.get(), k_stride, n_stride, flipped };
        let first = i * width;
        let to = Planes { start: u.get().add(first * k), plane, row: width };
        dispatch!(isa, panel(g: Kernels, k: usize, n: usize, first: usize, width: usize, to: Planes))
    });
}
