//! The weight gradient: `dg = Gᵀ·[Σ_tiles (Bᵀ·d·B) ⊙ (A·dy·Aᵀ)]·G`.

use super::{
    POINTS, Tiles,
    transform::{Patch, Planes, input_tiles, kernel_gradient_row, output_gradient_tiles},
};
use crate::{
    Isa,
    conv::Conv,
    gemm::{ColsJob, cols},
    isa::dispatch,
    par::{self, Ptr, Scratch},
    simd::LANES,
};

/// Bytes that the transformed tiles of a block may take.
const BLOCK_BYTES: usize = 12 << 20;
/// Tiles of a piece that one thread transforms at a time.
const PIECE: usize = 8;

pub(crate) fn weight_gradient(isa: Isa, c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let tiles = Tiles::new(c);
    let (k, n) = (c.in_channels, c.out_channels);
    if tiles.count == 0 {
        dw.fill(0.0);
        return;
    }
    // A line beyond the channels, so that rows do not share cache sets.
    let (k_row, n_row) = (k.next_multiple_of(LANES) + LANES, n.next_multiple_of(LANES) + LANES);
    // The order of the sum depends on the layer alone: blocks are of a fixed number of tiles.
    let block = (BLOCK_BYTES / (POINTS * (k_row + n_row) * size_of::<f32>())).clamp(32, 256) & !15;
    let block_now = block.min(tiles.count);
    let (v_plane, z_plane) = (block_now * k_row, block_now * n_row);
    let u_row = n.next_multiple_of(LANES);
    let u_plane = k * u_row + LANES;
    let transformed = Scratch::take(POINTS * (v_plane + z_plane));
    let sums = Scratch::take(POINTS * u_plane);
    let v = transformed.ptr();
    let z = Ptr::from_const(v.get().wrapping_add(POINTS * v_plane));
    let (u, dw) = (sums.ptr(), Ptr::new(dw));
    let (x, dy) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()));
    let a: Vec<_> = (0..block_now).map(|r| Ptr::from_const(v.get().wrapping_add(r * k_row))).collect();
    let b: Vec<_> = (0..block_now).map(|r| Ptr::from_const(z.get().wrapping_add(r * n_row))).collect();
    let (a, b) = (&a, &b);
    for from in (0..tiles.count).step_by(block) {
        let depth = block.min(tiles.count - from);
        par::for_each_piece(depth, PIECE, |start, end| {
            let (tiles, first, last) = (&tiles, from + start, from + end);
            let v = Planes { start: v.get().wrapping_add(start * k_row), plane: v_plane, row: k_row };
            let z = Planes { start: z.get().wrapping_add(start * n_row), plane: z_plane, row: n_row };
            let (x, dy) = (x.get().cast_const(), dy.get().cast_const());
            let input = Patch { tiles, from: first, to: last, channels: k, range: [0, k] };
            let output = Patch { tiles, from: first, to: last, channels: n, range: [0, n] };
            // SAFETY: `Conv::check` has matched lengths and shape; pieces write their own rows.
            unsafe {
                dispatch!(isa, input_tiles(input: Patch<'_>, x: *const f32, v: Planes));
                dispatch!(isa, output_gradient_tiles(output: Patch<'_>, dy: *const f32, z: Planes));
            }
        });
        par::for_each(POINTS, |point| {
            // SAFETY: each point owns its plane of `u`; rows hold `u_row` numbers or more.
            unsafe {
                cols(
                    isa,
                    &ColsJob {
                        a: a.as_ptr().cast(),
                        a_offset: point * v_plane,
                        b: b.as_ptr().cast(),
                        b_offset: point * z_plane,
                        k: depth,
                        m: k,
                        n: u_row,
                        out: u.get().add(point * u_plane),
                        ld: u_row,
                        accumulate: from > 0,
                    },
                );
            }
        });
    }
    par::for_each(k, |i| {
        let u = Planes { start: u.get(), plane: u_plane, row: u_row };
        let dw = dw.get();
        // SAFETY: each row writes its own input channel of `dw`.
        unsafe { dispatch!(isa, kernel_gradient_row(u: Planes, i: usize, k: usize, n: usize, dw: *mut f32)) }
    });
}
