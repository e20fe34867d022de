//! Outputs from the products of tiles, with what is added to them, to where they belong.

use super::{
    Edge,
    transform::{F2, F4, Filter, Patch, Planes, transform},
};
use crate::simd::{LANES, Simd};

/// What joins outputs. Null where there is nothing.
#[derive(Clone, Copy)]
pub(super) struct Finish {
    /// Starts at the range's first channel.
    pub bias: *const f32,
    /// Numbers from the biases of one sample to those of the next.
    pub bias_row: usize,
    /// Laid out as the output.
    pub residual: *const f32,
}

/// `y = Aᵀ·m·A + bias (+ residual)` into the tiles of `out`.
#[inline(always)]
pub(super) unsafe fn output_tiles<S: Simd>(at: Patch<'_>, m: Planes, finish: Finish, out: *mut f32) {
    match (at.tiles.edge, finish.residual.is_null()) {
        (Edge::Two, true) => whole::<S, F2, false>(at, m, finish, out),
        (Edge::Two, false) => whole::<S, F2, true>(at, m, finish, out),
        (Edge::Four, true) => whole::<S, F4, false>(at, m, finish, out),
        (Edge::Four, false) => whole::<S, F4, true>(at, m, finish, out),
    }
}

#[inline(always)]
unsafe fn whole<S: Simd, F: Filter<S>, const ADDS: bool>(
    at: Patch<'_>,
    m: Planes,
    finish: Finish,
    out: *mut f32,
) {
    let [h, w] = at.tiles.size;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let image = b * h * w * at.channels;
        let (rows, columns) = (F::TILE.min(h - y0), F::TILE.min(w - x0));
        let [mut c, end] = at.range;
        while c < end {
            let valid = (end - c).min(LANES);
            let own = c - at.range[0];
            let from = m.start.add((t - at.from) * m.row + own);
            let bias = finish.bias.wrapping_add(b * finish.bias_row + own);
            let shift = if finish.bias.is_null() { S::zero() } else { S::load_n(bias, valid) };
            let corner = image + (y0 * w + x0) * at.channels + c;
            if valid == LANES && rows == F::TILE && columns == F::TILE {
                transform!(
                    F::output, F::Points [F::PATCH] => [F::TILE] of S::V,
                    load(i, j) S::load(from.add((i * F::PATCH + j) * m.plane)),
                    store(y, x, value) {
                        let to = corner + (y * w + x) * at.channels;
                        let mut value = S::add(value, shift);
                        if ADDS {
                            value = S::add(S::load(finish.residual.add(to)), value);
                        }
                        S::store(out.add(to), value)
                    }
                );
            } else {
                transform!(
                    F::output, F::Points [F::PATCH] => [F::TILE] of S::V,
                    load(i, j) S::load(from.add((i * F::PATCH + j) * m.plane)),
                    store(y, x, value) if y < rows && x < columns {
                        let to = corner + (y * w + x) * at.channels;
                        let mut value = S::add(value, shift);
                        if ADDS {
                            value = S::add(S::load_n(finish.residual.add(to), valid), value);
                        }
                        S::store_n(out.add(to), value, valid);
                    }
                );
            }
            c += LANES;
        }
    }
}

/// Sums of 2×2 outputs `Aᵀ·m·A` into maps of half the size, which is even: the gradient of doubled maps.
#[inline(always)]
pub(super) unsafe fn halved_output_tiles<S: Simd>(at: Patch<'_>, m: Planes, out: *mut f32) {
    match at.tiles.edge {
        Edge::Two => halved::<S, F2>(at, m, out),
        Edge::Four => halved::<S, F4>(at, m, out),
    }
}

#[inline(always)]
unsafe fn halved<S: Simd, F: Filter<S>>(at: Patch<'_>, m: Planes, out: *mut f32) {
    let [h, w] = at.tiles.size;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let image = out.add(b * (h / 2) * (w / 2) * at.channels);
        let (rows, columns) = (F::TILE.min(h - y0), F::TILE.min(w - x0));
        let [mut c, end] = at.range;
        while c < end {
            let valid = (end - c).min(LANES);
            let from = m.start.add((t - at.from) * m.row + c - at.range[0]);
            let corner = image.add((y0 / 2 * (w / 2) + x0 / 2) * at.channels + c);
            let mut sums = [S::zero(); 2];
            transform!(
                F::output, F::Points [F::PATCH] => [F::TILE] of S::V,
                load(i, j) S::load(from.add((i * F::PATCH + j) * m.plane)),
                store(y, x, value) {
                    // In the order in which the enlarged map's gradient would be summed up.
                    sums[x / 2] = if y % 2 + x % 2 == 0 { value } else { S::add(sums[x / 2], value) };
                    if y % 2 == 1 && x % 2 == 1 && y < rows && x < columns {
                        let to = corner.add((y / 2 * (w / 2) + x / 2) * at.channels);
                        S::store_n(to, sums[x / 2], valid);
                    }
                }
            );
            c += LANES;
        }
    }
}
