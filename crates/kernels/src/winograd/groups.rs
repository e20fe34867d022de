//! The weight gradient of narrow layers, which have few sums and many tiles: a task is a group of tiles with sums
//! of its own, and all it reads and writes stays in a core's cache.

use super::{
    Tiles,
    source::Source,
    transform::{Patch, Planes, output_gradient_tiles},
    weight::{Block, POINTS, to_weights},
};
use crate::{
    Isa,
    isa::dispatch,
    par::{self, Ptr, Scratch},
    simd::LANES,
};

/// Products of channels in and out up to which sums fit a core's cache beside tiles.
const NARROW: usize = 3 << 10;
/// Tiles of a group, at least.
const GROUP: usize = 128;
/// Groups, at most.
const GROUPS: usize = 16;
/// Bytes of transformed tiles that are added up at a time.
const OWN_BYTES: usize = 600 << 10;

/// Whether groups serve a layer of `k` and `n` channels with so many tiles.
pub(super) fn serve(k: usize, n: usize, tiles: usize) -> bool {
    k * n.next_multiple_of(LANES) <= NARROW && tiles > GROUP
}

pub(super) fn weight_gradient(
    isa: Isa,
    tiles: &Tiles,
    [k, n]: [usize; 2],
    x: Source,
    dy: Ptr<f32>,
    dw: Ptr<f32>,
) {
    let n_all = n.next_multiple_of(LANES);
    let (k_row, n_row) = (k.next_multiple_of(LANES) + LANES, n_all + LANES);
    // The order of the sum is a matter of shapes alone.
    let group = GROUP.max(tiles.count.div_ceil(GROUPS));
    let groups = tiles.count.div_ceil(group);
    let block = (OWN_BYTES / (POINTS * (k_row + n_row) * size_of::<f32>())).clamp(8, 64) & !7;
    let (v_plane, z_plane, u_plane) = (block * k_row, block * n_row, k * n_all + LANES);
    let sums = Scratch::take(groups * POINTS * u_plane);
    let u = sums.ptr();
    par::for_each(groups, |g| {
        let transformed = Scratch::take(POINTS * (v_plane + z_plane));
        let start = transformed.ptr().get();
        let v = Planes { start, plane: v_plane, row: k_row };
        let z = Planes { start: start.wrapping_add(POINTS * v_plane), plane: z_plane, row: n_row };
        let table =
            |p: Planes| (0..block).map(|r| Ptr::from_const(p.start.wrapping_add(r * p.row))).collect();
        let (a, b): (Vec<_>, Vec<_>) = (table(v), table(z));
        let dy = dy.get().cast_const();
        let end = tiles.count.min((g + 1) * group);
        for from in (g * group..end).step_by(block) {
            let to = end.min(from + block);
            let output = Patch { tiles, from, to, channels: n, range: [0, n] };
            let (v_tiles, z_tiles) = (&a[..to - from], &b[..to - from]);
            let sums = Block { isa, v: v_tiles, z: z_tiles, v_plane, z_plane, first: from == g * group };
            // SAFETY: the caller has matched lengths and shape; groups own their buffers.
            unsafe {
                x.transform(isa, tiles, [from, to], v);
                dispatch!(isa, output_gradient_tiles(output: Patch<'_>, dy: *const f32, z: Planes));
                for point in 0..POINTS {
                    let out = u.get().add((g * POINTS + point) * u_plane);
                    sums.products(point, [0, k], [0, n_all], out, n_all);
                }
            }
        }
    });
    par::for_each(POINTS, |point| {
        // SAFETY: planes of a group hold `k·n_all` sums, and points are disjoint.
        let plane = |g: usize| unsafe {
            std::slice::from_raw_parts_mut(u.get().add((g * POINTS + point) * u_plane), k * n_all)
        };
        let all = plane(0);
        for g in 1..groups {
            all.iter_mut().zip(plane(g)).for_each(|(sum, part)| *sum += *part);
        }
    });
    to_weights(isa, u, u_plane, [k, n], dw);
}
