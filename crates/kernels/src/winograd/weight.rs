//! The weight gradient: `dg = Gᵀ·[Σ_tiles (Bᵀ·d·B) ⊙ (A·dy·Aᵀ)]·G`, in tiles of 4×4.

use super::{
    Edge, Tiles, groups,
    source::Source,
    transform::{Patch, Planes, kernel_gradient_block, output_gradient_tiles},
};
use crate::{
    Isa,
    conv::{Conv, Input},
    gemm::{ColsJob, cols},
    isa::dispatch,
    par::{self, Ptr, Scratch},
    simd::LANES,
};

/// Points of a tile: 6×6, whatever the map, for sums over tiles want few of them.
pub(super) const POINTS: usize = 36;
/// Bytes that the transformed tiles of a block may take.
const BLOCK_BYTES: usize = 12 << 20;
/// Tiles of a piece that one thread transforms at a time.
const PIECE: usize = 8;
/// Tiles that are added up before they join the rest: what a microkernel reads of them fits the first cache.
const DEPTH: usize = 128;
/// Channels in and out of a part of the sums: all its points stay in a core's cache.
const PART: [usize; 2] = [48, 64];

/// Where the transformed tiles of a block lie, and how many.
pub(super) struct Block<'a> {
    pub isa: Isa,
    pub v: &'a [Ptr<f32>],
    pub z: &'a [Ptr<f32>],
    pub v_plane: usize,
    pub z_plane: usize,
    /// Whether sums start with this block.
    pub first: bool,
}

impl Block<'_> {
    /// The sums of one point over channels `k` and `n`, added to `[k][n]` at `out`.
    pub(super) unsafe fn products(
        &self,
        point: usize,
        k: [usize; 2],
        n: [usize; 2],
        out: *mut f32,
        ld: usize,
    ) {
        for start in (0..self.v.len()).step_by(DEPTH) {
            let job = ColsJob {
                a: self.v[start..].as_ptr().cast(),
                a_offset: point * self.v_plane + k[0],
                b: self.z[start..].as_ptr().cast(),
                b_offset: point * self.z_plane + n[0],
                k: DEPTH.min(self.v.len() - start),
                m: k[1] - k[0],
                n: n[1] - n[0],
                out,
                ld,
                accumulate: start > 0 || !self.first,
            };
            cols(self.isa, &job);
        }
    }
}

pub(crate) fn weight_gradient(isa: Isa, c: &Conv, x: &Input<'_>, dy: &[f32], dw: &mut [f32]) {
    let tiles = Tiles::new(c, Edge::Four);
    let (k, n) = (c.in_channels, c.out_channels);
    if tiles.count == 0 {
        dw.fill(0.0);
        return;
    }
    let dw = Ptr::new(dw);
    let (x, dy) = (Source::new(c, x), Ptr::from_const(dy.as_ptr()));
    if groups::serve(k, n, tiles.count) {
        groups::weight_gradient(isa, &tiles, [k, n], x, dy, dw);
        return;
    }
    // A line beyond the channels, so that rows do not share cache sets.
    let (k_row, n_row) = (k.next_multiple_of(LANES) + LANES, n.next_multiple_of(LANES) + LANES);
    // The order of the sum depends on the layer alone: blocks are of a fixed number of tiles.
    let block = (BLOCK_BYTES / (POINTS * (k_row + n_row) * size_of::<f32>())).clamp(32, 256) & !15;
    let block_now = block.min(tiles.count);
    let (v_plane, z_plane) = (block_now * k_row, block_now * n_row);
    let n_all = n.next_multiple_of(LANES);

    // Parts of all points where there are enough of them, which then turn to weights where they are; or else
    // whole points.
    let parts = [k.div_ceil(PART[0]), n_all.div_ceil(PART[1])];
    let by_parts = parts[0] * parts[1] >= 2 * par::threads();
    let part = if by_parts { PART } else { [k, n_all] };
    let u_plane = part[0] * part[1] + LANES;
    let count = if by_parts { parts[0] * parts[1] } else { 1 };
    let single = tiles.count <= block;

    let transformed = Scratch::take(POINTS * (v_plane + z_plane));
    let all_sums = (!by_parts || !single).then(|| Scratch::take(count * POINTS * u_plane));
    let sums = all_sums.as_ref().map(|s| s.ptr());
    let v = transformed.ptr();
    let z = Ptr::from_const(v.get().wrapping_add(POINTS * v_plane));
    let a: Vec<_> = (0..block_now).map(|r| Ptr::from_const(v.get().wrapping_add(r * k_row))).collect();
    let b: Vec<_> = (0..block_now).map(|r| Ptr::from_const(z.get().wrapping_add(r * n_row))).collect();

    for from in (0..tiles.count).step_by(block) {
        let depth = block.min(tiles.count - from);
        let last = from + depth == tiles.count;
        par::for_each_piece(depth, PIECE, |start, end| {
            let (tiles, first, last) = (&tiles, from + start, from + end);
            let v = Planes { start: v.get().wrapping_add(start * k_row), plane: v_plane, row: k_row };
            let z = Planes { start: z.get().wrapping_add(start * n_row), plane: z_plane, row: n_row };
            let dy = dy.get().cast_const();
            let output = Patch { tiles, from: first, to: last, channels: n, range: [0, n] };
            // SAFETY: `Conv::check` has matched lengths and shape; pieces write their own rows.
            unsafe {
                x.transform(isa, tiles, [first, last], v);
                dispatch!(isa, output_gradient_tiles(output: Patch<'_>, dy: *const f32, z: Planes));
            }
        });
        let tiles = Block { isa, v: &a[..depth], z: &b[..depth], v_plane, z_plane, first: from == 0 };
        if by_parts {
            par::for_each(count, |i| {
                let (i, j) = (i / parts[1] * part[0], i % parts[1] * part[1]);
                let (ks, ns) = ([i, k.min(i + part[0])], [j, n_all.min(j + part[1])]);
                let own = sums.is_none().then(|| Scratch::take(POINTS * u_plane));
                let index = i / part[0] * parts[1] + j / part[1];
                let start = match (&own, sums) {
                    (None, Some(all)) => all.get().wrapping_add(index * POINTS * u_plane),
                    (own, _) => own.as_ref().map_or(std::ptr::null_mut(), |s| s.ptr().get()),
                };
                let (u, dw) = (Planes { start, plane: u_plane, row: part[1] }, dw.get());
                // SAFETY: each part owns its sums and its weights.
                unsafe {
                    for point in 0..POINTS {
                        tiles.products(point, ks, ns, start.add(point * u_plane), part[1]);
                    }
                    if last {
                        let ns = [j, n.min(j + part[1])];
                        dispatch!(isa, kernel_gradient_block(u: Planes, ks: [usize; 2], ns: [usize; 2], k: usize, dw: *mut f32));
                    }
                }
            });
        } else if let Some(sums) = sums {
            par::for_each(POINTS, |point| {
                // SAFETY: each point owns its plane of sums.
                unsafe {
                    let out = sums.get().add(point * u_plane);
                    tiles.products(point, [0, k], [0, n_all], out, n_all);
                }
            });
            if last {
                to_weights(isa, sums, u_plane, [k, n], dw);
            }
        }
    }
}

/// Turns the sums of whole points, `[36][k][n]` with `n` rounded up to lanes, to weights.
pub(super) fn to_weights(isa: Isa, sums: Ptr<f32>, u_plane: usize, [k, n]: [usize; 2], dw: Ptr<f32>) {
    let row = n.next_multiple_of(LANES);
    par::for_each_piece(k, LANES, |start, end| {
        // SAFETY: each piece writes its own input channels of `dw`.
        unsafe {
            let u = Planes { start: sums.get().add(start * row), plane: u_plane, row };
            let (ks, ns, dw) = ([start, end], [0, n], dw.get());
            dispatch!(isa, kernel_gradient_block(u: Planes, ks: [usize; 2], ns: [usize; 2], k: usize, dw: *mut f32));
        }
    });
}
