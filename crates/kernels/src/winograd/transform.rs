//! The one-dimensional transforms, and their two-dimensional use on sixteen channels at a time.

use super::{Edge, Tiles};
use crate::simd::{LANES, Simd};

/// A minimal filtering algorithm, in one dimension.
pub(super) trait Filter<S: Simd> {
    /// Inputs of a tile, and its points.
    const PATCH: usize;
    /// Outputs of a tile.
    const TILE: usize;
    /// As many as a patch has.
    type Points: Copy;
    /// As many as a tile has.
    type Outputs: Copy;

    /// `Bᵀ·d`.
    unsafe fn input(d: Self::Points) -> Self::Points;
    /// `Aᵀ·m`.
    unsafe fn output(m: Self::Points) -> Self::Outputs;
    /// `G·g`.
    unsafe fn kernel(g: [S::V; 3]) -> Self::Points;
}

/// F(2, 3) on the points 0, ±1, ∞.
pub(super) struct F2;

impl<S: Simd> Filter<S> for F2 {
    const PATCH: usize = 4;
    const TILE: usize = 2;
    type Points = [S::V; 4];
    type Outputs = [S::V; 2];

    #[inline(always)]
    unsafe fn input(d: [S::V; 4]) -> [S::V; 4] {
        [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[1], d[3])]
    }
    #[inline(always)]
    unsafe fn output(m: [S::V; 4]) -> [S::V; 2] {
        [S::add(S::add(m[0], m[1]), m[2]), S::sub(S::sub(m[1], m[2]), m[3])]
    }
    #[inline(always)]
    unsafe fn kernel(g: [S::V; 3]) -> [S::V; 4] {
        let half = S::splat(0.5);
        let (ends, middle) = (S::mul(half, S::add(g[0], g[2])), S::mul(half, g[1]));
        [g[0], S::add(ends, middle), S::sub(ends, middle), g[2]]
    }
}

/// F(4, 3) on the points 0, ±P, ±Q, ∞.
pub(super) struct F4;

const P: f32 = 0.75;
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// `Π(a_i - a_l)` over the other points `l`, for 0, ±P and ±Q.
const F0: f32 = P2 * Q2;
const FP: f32 = 2.0 * P2 * (P2 - Q2);
const FQ: f32 = 2.0 * Q2 * (Q2 - P2);

impl<S: Simd> Filter<S> for F4 {
    const PATCH: usize = 6;
    const TILE: usize = 4;
    type Points = [S::V; 6];
    type Outputs = [S::V; 4];

    #[inline(always)]
    unsafe fn input(d: [S::V; 6]) -> [S::V; 6] {
        let (p, q, p2, q2) = (S::splat(P), S::splat(Q), S::splat(P2), S::splat(Q2));
        let (product, sum) = (S::splat(P2 * Q2), S::splat(P2 + Q2));
        let even_p = S::fnma(q2, d[2], d[4]);
        let odd_p = S::mul(p, S::fnma(q2, d[1], d[3]));
        let even_q = S::fnma(p2, d[2], d[4]);
        let odd_q = S::mul(q, S::fnma(p2, d[1], d[3]));
        [
            S::fma(product, d[0], S::fnma(sum, d[2], d[4])),
            S::add(even_p, odd_p),
            S::sub(even_p, odd_p),
            S::add(even_q, odd_q),
            S::sub(even_q, odd_q),
            S::fma(product, d[1], S::fnma(sum, d[3], d[5])),
        ]
    }
    #[inline(always)]
    unsafe fn output(m: [S::V; 6]) -> [S::V; 4] {
        let (s1, d1) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (s2, d2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(s1, s2)),
            S::fma(S::splat(Q), d2, S::mul(S::splat(P), d1)),
            S::fma(S::splat(Q2), s2, S::mul(S::splat(P2), s1)),
            S::add(m[5], S::fma(S::splat(Q2 * Q), d2, S::mul(S::splat(P2 * P), d1))),
        ]
    }
    #[inline(always)]
    unsafe fn kernel(g: [S::V; 3]) -> [S::V; 6] {
        let (p, q) = (S::splat(1.0 / FP), S::splat(1.0 / FQ));
        let even_p = S::fma(S::splat(P2), g[2], g[0]);
        let odd_p = S::mul(S::splat(P), g[1]);
        let even_q = S::fma(S::splat(Q2), g[2], g[0]);
        let odd_q = S::mul(S::splat(Q), g[1]);
        [
            S::mul(S::splat(1.0 / F0), g[0]),
            S::mul(p, S::add(even_p, odd_p)),
            S::mul(p, S::sub(even_p, odd_p)),
            S::mul(q, S::add(even_q, odd_q)),
            S::mul(q, S::sub(even_q, odd_q)),
            g[2],
        ]
    }
}

/// `A·y` of F(4, 3).
#[inline(always)]
unsafe fn output_gradient<S: Simd>(y: [S::V; 4]) -> [S::V; 6] {
    let even_p = S::fma(S::splat(P2), y[2], y[0]);
    let odd_p = S::fma(S::splat(P2 * P), y[3], S::mul(S::splat(P), y[1]));
    let even_q = S::fma(S::splat(Q2), y[2], y[0]);
    let odd_q = S::fma(S::splat(Q2 * Q), y[3], S::mul(S::splat(Q), y[1]));
    [y[0], S::add(even_p, odd_p), S::sub(even_p, odd_p), S::add(even_q, odd_q), S::sub(even_q, odd_q), y[3]]
}

/// `Gᵀ·u` of F(4, 3).
#[inline(always)]
unsafe fn kernel_gradient<S: Simd>(u: [S::V; 6]) -> [S::V; 3] {
    let (p, q) = (S::splat(1.0 / FP), S::splat(1.0 / FQ));
    let (s1, d1) = (S::mul(p, S::add(u[1], u[2])), S::mul(p, S::sub(u[1], u[2])));
    let (s2, d2) = (S::mul(q, S::add(u[3], u[4])), S::mul(q, S::sub(u[3], u[4])));
    [
        S::fma(S::splat(1.0 / F0), u[0], S::add(s1, s2)),
        S::fma(S::splat(Q), d2, S::mul(S::splat(P), d1)),
        S::add(u[5], S::fma(S::splat(Q2), s2, S::mul(S::splat(P2), s1))),
    ]
}

/// Applies a one-dimensional transform to both dimensions: `load` gives element `(i, j)`, `store` takes it. The types
/// are those of its argument and of a number.
/// What lies between the passes is never cleared, only written.
macro_rules! transform {
    (
        $one:path, $from_type:ty [$from:expr] => [$to:expr] of $v_type:ty,
        load($i:ident, $j:ident) $load:expr,
        store($y:ident, $x:ident, $v:ident) $store:expr
    ) => {{
        let mut half = std::mem::MaybeUninit::<[$v_type; 36]>::uninit();
        let half = half.as_mut_ptr().cast::<$v_type>();
        for $j in 0..$from {
            let mut column = std::mem::MaybeUninit::<$from_type>::uninit();
            for $i in 0..$from {
                column.as_mut_ptr().cast::<$v_type>().add($i).write($load);
            }
            let column = $one(column.assume_init());
            let column = (&raw const column).cast::<$v_type>();
            for i in 0..$to {
                half.add(i * $from + $j).write(column.add(i).read());
            }
        }
        for $y in 0..$to {
            let row = $one(half.add($y * $from).cast::<$from_type>().read());
            let row = (&raw const row).cast::<$v_type>();
            for $x in 0..$to {
                let $v = row.add($x).read();
                $store;
            }
        }
    }};
}

pub(super) use transform;

/// What lies outside a map.
static ZEROS: [f32; LANES] = [0.0; LANES];

/// Where transformed tiles lie: point `ξ` of row `r`, channel `c` at `start + ξ·plane + r·row + c`.
#[derive(Clone, Copy)]
pub(super) struct Planes {
    pub start: *mut f32,
    pub plane: usize,
    pub row: usize,
}

/// What surrounds the tiles `from..to` of an image batch `[.., channels]`.
#[derive(Clone, Copy)]
pub(super) struct Patch<'a> {
    pub tiles: &'a Tiles,
    pub from: usize,
    pub to: usize,
    pub channels: usize,
    /// The channels that are transformed; they start at 0 in planes.
    pub range: [usize; 2],
}

/// `V = Bᵀ·d·B` of the tiles' patches.
#[inline(always)]
pub(super) unsafe fn input_tiles<S: Simd>(at: Patch<'_>, x: *const f32, v: Planes) {
    match at.tiles.edge {
        Edge::Two => patches::<S, F2, 0>(at, x, v),
        Edge::Four => patches::<S, F4, 0>(at, x, v),
    }
}

/// The same of maps of half the size, each pixel taken twice in both directions.
#[inline(always)]
pub(super) unsafe fn doubled_input_tiles<S: Simd>(at: Patch<'_>, x: *const f32, v: Planes) {
    match at.tiles.edge {
        Edge::Two => patches::<S, F2, 1>(at, x, v),
        Edge::Four => patches::<S, F4, 1>(at, x, v),
    }
}

/// `SHIFT`: powers of two that coordinates are divided by.
#[inline(always)]
unsafe fn patches<S: Simd, F: Filter<S>, const SHIFT: usize>(at: Patch<'_>, x: *const f32, v: Planes) {
    let [h, w] = at.tiles.size;
    let row = w >> SHIFT;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let inside = y0 > 0 && x0 > 0 && y0 + F::PATCH <= h + 1 && x0 + F::PATCH <= w + 1;
        let image = x.add(b * (h >> SHIFT) * row * at.channels);
        let [mut c, end] = at.range;
        while c < end {
            let valid = (end - c).min(LANES);
            let to = v.start.add((t - at.from) * v.row + c - at.range[0]);
            if inside && valid == LANES {
                let image = image.add(c);
                transform!(
                    F::input, F::Points [F::PATCH] => [F::PATCH] of S::V,
                    load(i, j) {
                        let (y, x) = ((y0 + i - 1) >> SHIFT, (x0 + j - 1) >> SHIFT);
                        S::load(image.add((y * row + x) * at.channels))
                    },
                    store(y, x, value) S::store(to.add((y * F::PATCH + x) * v.plane), value)
                );
            } else {
                transform!(
                    F::input, F::Points [F::PATCH] => [F::PATCH] of S::V,
                    load(i, j) {
                        let (y, x) = ((y0 + i).wrapping_sub(1), (x0 + j).wrapping_sub(1));
                        // A choice of addresses, not of paths: every second tile has an edge.
                        let index = (y >> SHIFT).wrapping_mul(row).wrapping_add(x >> SHIFT);
                        let pixel = image.wrapping_add(index.wrapping_mul(at.channels).wrapping_add(c));
                        let inside = y < h && x < w;
                        S::load_n(if inside { pixel } else { ZEROS.as_ptr() }, valid)
                    },
                    store(y, x, value) S::store(to.add((y * F::PATCH + x) * v.plane), value)
                );
            }
            c += LANES;
        }
    }
}

/// `Z = A·dy·Aᵀ` of the output gradients of 4×4 tiles.
#[inline(always)]
pub(super) unsafe fn output_gradient_tiles<S: Simd>(at: Patch<'_>, dy: *const f32, z: Planes) {
    const TILE: usize = 4;
    let [h, w] = at.tiles.size;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let image = dy.add(b * h * w * at.channels);
        let (rows, columns) = (TILE.min(h - y0), TILE.min(w - x0));
        let [mut c, end] = at.range;
        while c < end {
            let valid = (end - c).min(LANES);
            let to = z.start.add((t - at.from) * z.row + c - at.range[0]);
            let corner = image.add((y0 * w + x0) * at.channels + c);
            if valid == LANES && rows == TILE && columns == TILE {
                transform!(
                    output_gradient::<S>, [S::V; 4] [4] => [6] of S::V,
                    load(i, j) S::load(corner.add((i * w + j) * at.channels)),
                    store(y, x, value) S::store(to.add((y * 6 + x) * z.plane), value)
                );
            } else {
                transform!(
                    output_gradient::<S>, [S::V; 4] [4] => [6] of S::V,
                    load(i, j) {
                        let pixel = corner.wrapping_add((i * w + j) * at.channels);
                        S::load_n(if i < rows && j < columns { pixel } else { ZEROS.as_ptr() }, valid)
                    },
                    store(y, x, value) S::store(to.add((y * 6 + x) * z.plane), value)
                );
            }
            c += LANES;
        }
    }
}

/// `U = G·g·Gᵀ` of the kernels `[k][9][width]`, stored at `to.start + ξ·plane + k·row + column`; `width` is
/// `to.row`.
#[inline(always)]
pub(super) unsafe fn kernel_vectors<S: Simd>(edge: Edge, from: *const f32, k: usize, to: Planes) {
    match edge {
        Edge::Two => kernels::<S, F2>(from, k, to),
        Edge::Four => kernels::<S, F4>(from, k, to),
    }
}

#[inline(always)]
unsafe fn kernels<S: Simd, F: Filter<S>>(from: *const f32, k: usize, to: Planes) {
    for i in 0..k {
        for column in (0..to.row).step_by(LANES) {
            let from = from.add(i * 9 * to.row + column);
            let start = to.start.add(i * to.row + column);
            transform!(
                F::kernel, [S::V; 3] [3] => [F::PATCH] of S::V,
                load(y, x) S::load(from.add((3 * y + x) * to.row)),
                store(y, x, value) S::store(start.add((y * F::PATCH + x) * to.plane), value)
            );
        }
    }
}

/// `dg = Gᵀ·dU·G` of the sums `[k][n]` in `u` for the channels `ks` in and `ns` out, written to
/// `dw[n][k][3][3]` with `k` channels in.
#[inline(always)]
pub(super) unsafe fn kernel_gradient_block<S: Simd>(
    u: Planes,
    ks: [usize; 2],
    ns: [usize; 2],
    k: usize,
    dw: *mut f32,
) {
    // All taps of sixteen input channels follow each other in memory: they are turned together.
    let mut some = [[0.0f32; LANES]; 9 * LANES];
    for i in (0..ks[1] - ks[0]).step_by(LANES) {
        let count = LANES.min(ks[1] - ks[0] - i);
        for j in (0..ns[1] - ns[0]).step_by(LANES) {
            let valid = LANES.min(ns[1] - ns[0] - j);
            for own in 0..count {
                let from = u.start.add((i + own) * u.row + j);
                transform!(
                    kernel_gradient::<S>, [S::V; 6] [6] => [3] of S::V,
                    load(y, x) S::load(from.add((y * 6 + x) * u.plane)),
                    store(y, x, value) S::store(some[9 * own + 3 * y + x].as_mut_ptr(), value)
                );
            }
            let to = dw.add(((ns[0] + j) * k + ks[0] + i) * 9);
            for first in (0..9 * count).step_by(LANES) {
                let mut rows = [S::zero(); LANES];
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = S::load(some[first + r].as_ptr());
                }
                let columns = S::transpose(rows);
                for lane in 0..valid {
                    S::store_n(to.add(lane * k * 9 + first), columns[lane], 9 * count - first);
                }
            }
        }
    }
}
