//! 3×3 convolutions of stride 1 and padding 1 by Winograd's algorithm F(2×2, 3×3).
//!
//! Inputs are transformed in `f32` and rounded; the sixteen matrix products are summed in `f32`, and their results are
//! transformed back before they are rounded.

use super::{
    Bf16, Element, Epilogue,
    conv::Order,
    micro::{Job, rows},
    pack::Packed,
    simd::{Dot, dispatch16},
    transform::{Finish, Planes, channel_at, input_tiles, output_tiles, row_len},
};
use crate::{
    Isa,
    conv::Conv,
    par::{self, Ptr, Scratch},
    simd::LANES,
};

/// Outputs of a tile in each dimension.
pub(super) const TILE: usize = 2;
/// Points per tile.
pub(super) const POINTS: usize = 16;
/// Bytes for the transformed input of a thread's block: part of the L2 cache.
const BLOCK_BYTES: usize = 400 << 10;
/// Rows of the widest microkernel: blocks are multiples of it.
const UNIT: usize = 12;
/// Tiles of a block that threads share.
const SHARED: usize = 132;
/// Bytes of weights from which on threads share blocks, each with its own columns of the weights.
const LARGE: usize = 4 << 20;

/// The tiles of a batch of maps, numbered image by image, row by row.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub size: [usize; 2],
    per: [usize; 2],
    count: usize,
}

impl Tiles {
    fn new(c: &Conv) -> Self {
        let per = c.size.map(|s| s.div_ceil(TILE));
        Self { size: c.size, per, count: c.batch * per[0] * per[1] }
    }

    /// Image index, and the tile's first row and column.
    pub(super) fn place(&self, t: usize) -> (usize, usize, usize) {
        let (rest, x) = (t / self.per[1], t % self.per[1]);
        (rest / self.per[0], rest % self.per[0] * TILE, x * TILE)
    }
}

/// Packs the transformed weights, with the points as the taps of a product.
pub(super) fn pack(isa: Isa, c: &Conv, w: &[f32], order: Order) -> Packed {
    let (k, n) = (c.in_channels, c.out_channels);
    Packed::transformed(isa, [9, POINTS, row_len(k), n], |first, columns, pair, to| {
        for i in 0..2 {
            let channel = channel_at(2 * pair + i, k);
            if channel >= k {
                continue;
            }
            for lane in 0..columns {
                let at = order.at(first + lane, channel, 9);
                let kernel = &w[at..at + 9];
                if order.turned {
                    to.iter_mut().zip(kernel.iter().rev()).for_each(|(to, w)| to[i][lane] = *w);
                } else {
                    to.iter_mut().zip(kernel).for_each(|(to, w)| to[i][lane] = *w);
                }
            }
        }
    })
}

/// What all tasks read.
#[derive(Clone, Copy)]
struct Layer<'a> {
    tiles: &'a Tiles,
    k: usize,
    w: &'a Packed,
}

/// # Safety
/// Lengths and shape must have been checked and must not be zero.
pub(super) unsafe fn forward<O: Element>(
    isa: Isa,
    c: &Conv,
    x: &[Bf16],
    w: &Packed,
    epilogue: &Epilogue<'_>,
    rows_per_bias: usize,
    out: &mut [O],
) {
    let tiles = Tiles::new(c);
    let layer = Layer { tiles: &tiles, k: c.in_channels, w };
    // Rows are padded by a cache line so that they do not share cache sets.
    let row = row_len(c.in_channels) + 2 * LANES;
    let pixels = c.size[0] * c.size[1];
    let bias_step = if rows_per_bias == pixels { c.out_channels } else { 0 };
    let out = Ptr::new(out);
    let x = Ptr::from_const(x.as_ptr());
    let bias = Ptr::from_const(epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let residual = Ptr::from_const(epilogue.residual.map_or(std::ptr::null(), <[Bf16]>::as_ptr));
    // Computes columns `first..end` of the outputs of some tiles, whose transformed inputs are in `v`.
    let outputs = |range: [usize; 2], v: Planes<Bf16>, first: usize, end: usize| {
        let null = |p: *const f32| if p.is_null() { p } else { p.add(first) };
        let residual = residual.get().cast_const();
        let finish = Finish {
            out: out.get().add(first),
            n: c.out_channels,
            columns: end - first,
            bias: null(bias.get()),
            bias_step,
            residual: if residual.is_null() { residual } else { residual.add(first) },
        };
        dispatch16!(isa, panels[O](layer: Layer<'_>, range: [usize; 2], v: Planes<Bf16>, first: usize, finish: Finish<O>))
    };
    let inputs = |range: [usize; 2], v: Planes<Bf16>| {
        let (tiles, k, x) = (layer.tiles, layer.k, x.get().cast_const());
        dispatch16!(isa, input_tiles[](tiles: &Tiles, range: [usize; 2], k: usize, x: *const Bf16, v: Planes<Bf16>))
    };
    let threads = par::threads();
    let most = (BLOCK_BYTES / (POINTS * row * size_of::<Bf16>()) / UNIT).clamp(4, 8) * UNIT;
    let alone = threads == 1 || (w.bytes() < LARGE && tiles.count >= 2 * UNIT * threads);
    // A number of blocks that divides evenly among the threads.
    let most = if alone { most } else { SHARED };
    let parts = if alone { threads } else { 1 };
    let blocks = tiles.count.div_ceil(most).next_multiple_of(parts);
    let block = tiles.count.div_ceil(blocks).next_multiple_of(UNIT);
    let plane = block * row + 2 * LANES;
    let planes = |scratch: Ptr<f32>, tile: usize| Planes {
        start: scratch.get().cast::<Bf16>().wrapping_add(tile * row),
        plane,
        row,
    };
    if alone {
        par::for_each_piece(tiles.count, block, |from, to| {
            let scratch = Scratch::take(POINTS * plane / 2);
            let v = planes(scratch.ptr(), 0);
            inputs([from, to], v);
            outputs([from, to], v, 0, w.n);
        });
    } else {
        let scratch = Scratch::take(POINTS * plane / 2);
        let scratch = scratch.ptr();
        for from in (0..tiles.count).step_by(block) {
            let to = tiles.count.min(from + block);
            let piece = (to - from).div_ceil(4 * threads).max(4);
            par::for_each_piece(to - from, piece, |start, end| {
                inputs([from + start, from + end], planes(scratch, start));
            });
            par::for_each_piece(w.n, w.width, |first, end| {
                outputs([from, to], planes(scratch, 0), first, end);
            });
        }
    }
}

/// Products and outputs, panel by panel.
#[inline(always)]
unsafe fn panels<D: Dot, O: Element>(
    layer: Layer<'_>,
    [from, to]: [usize; 2],
    v: Planes<Bf16>,
    first: usize,
    finish: Finish<O>,
) {
    let w = layer.w;
    let count = to - from;
    let row = w.width;
    // Planes are padded by a cache line, like rows.
    let plane = count * row + 2 * LANES;
    let scratch = Scratch::take(POINTS * plane);
    let m = Planes { start: scratch.ptr().get(), plane, row };
    let table: Vec<Ptr<Bf16>> = (0..count).map(|t| Ptr::from_const(v.start.add(t * v.row))).collect();
    let mut column = 0;
    while column < finish.columns {
        let columns = w.width.min(finish.columns - column);
        let vectors = columns.div_ceil(LANES);
        let b = w.panels(first + column).get();
        for point in 0..POINTS {
            rows::<D, f32>(&Job {
                rows: table.as_ptr().cast(),
                offset: point * v.plane,
                m: count,
                taps: 1,
                pairs: w.pairs,
                b: b.add(point * 2 * w.pairs * vectors * LANES),
                first: 0,
                end: vectors * LANES,
                out: m.start.add(point * plane),
                ld: row,
                bias: std::ptr::null(),
                residual: std::ptr::null(),
            });
        }
        let part = Finish {
            out: finish.out.add(column),
            columns,
            bias: if finish.bias.is_null() { finish.bias } else { finish.bias.add(column) },
            residual: if finish.residual.is_null() { finish.residual } else { finish.residual.add(column) },
            ..finish
        };
        output_tiles::<D, O>(layer.tiles, [from, to], m, part);
        column += columns;
    }
}
