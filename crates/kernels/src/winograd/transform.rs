//! The one-dimensional transforms, and their two-dimensional use on sixteen channels at a time.

use super::{POINTS, TILE, Tiles};
use crate::simd::{LANES, Simd};

/// The points: 0, ±P, ±Q, ∞.
const P: f32 = 0.75;
const Q: f32 = 1.5;
const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// `Π(a_i - a_l)` over the other points `l`, for 0, ±P and ±Q.
const F0: f32 = P2 * Q2;
const FP: f32 = 2.0 * P2 * (P2 - Q2);
const FQ: f32 = 2.0 * Q2 * (Q2 - P2);

/// `Bᵀ·d`.
#[inline(always)]
unsafe fn input<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
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

/// `Aᵀ·m`.
#[inline(always)]
unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 4] {
    let (s1, d1) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
    let (s2, d2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
    [
        S::add(m[0], S::add(s1, s2)),
        S::fma(S::splat(Q), d2, S::mul(S::splat(P), d1)),
        S::fma(S::splat(Q2), s2, S::mul(S::splat(P2), s1)),
        S::add(m[5], S::fma(S::splat(Q2 * Q), d2, S::mul(S::splat(P2 * P), d1))),
    ]
}

/// `A·y`.
#[inline(always)]
unsafe fn output_gradient<S: Simd>(y: [S::V; 4]) -> [S::V; 6] {
    let even_p = S::fma(S::splat(P2), y[2], y[0]);
    let odd_p = S::fma(S::splat(P2 * P), y[3], S::mul(S::splat(P), y[1]));
    let even_q = S::fma(S::splat(Q2), y[2], y[0]);
    let odd_q = S::fma(S::splat(Q2 * Q), y[3], S::mul(S::splat(Q), y[1]));
    [y[0], S::add(even_p, odd_p), S::sub(even_p, odd_p), S::add(even_q, odd_q), S::sub(even_q, odd_q), y[3]]
}

/// `G·g`.
#[inline(always)]
unsafe fn kernel<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
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

/// `Gᵀ·u`.
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

/// Applies a one-dimensional transform to both dimensions.
macro_rules! both {
    ($name:ident, $one:ident, $from:literal, $to:literal) => {
        #[inline(always)]
        unsafe fn $name<S: Simd>(x: [[S::V; $from]; $from]) -> [[S::V; $to]; $to] {
            let mut half = [[S::zero(); $from]; $to];
            for j in 0..$from {
                let column = $one::<S>(std::array::from_fn(|i| x[i][j]));
                for i in 0..$to {
                    half[i][j] = column[i];
                }
            }
            let mut y = [[S::zero(); $to]; $to];
            for i in 0..$to {
                y[i] = $one::<S>(half[i]);
            }
            y
        }
    };
}
both!(input2, input, 6, 6);
both!(output2, output, 6, 4);
both!(output_gradient2, output_gradient, 4, 6);
both!(kernel2, kernel, 3, 6);
both!(kernel_gradient2, kernel_gradient, 6, 3);

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
}

/// `V = Bᵀ·d·B` of the tiles' 6×6 patches.
#[inline(always)]
pub(super) unsafe fn input_tiles<S: Simd>(at: Patch<'_>, x: *const f32, v: Planes) {
    let [h, w] = at.tiles.size;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let inside = y0 > 0 && x0 > 0 && y0 + 5 <= h && x0 + 5 <= w;
        let image = x.add(b * h * w * at.channels);
        let mut c = 0;
        while c < at.channels {
            let valid = (at.channels - c).min(LANES);
            let mut d = [[S::zero(); 6]; 6];
            if inside && valid == LANES {
                let corner = image.add(((y0 - 1) * w + x0 - 1) * at.channels + c);
                for i in 0..6 {
                    for j in 0..6 {
                        d[i][j] = S::load(corner.add((i * w + j) * at.channels));
                    }
                }
            } else {
                for i in 0..6 {
                    for j in 0..6 {
                        let (y, x) = (y0 + i, x0 + j);
                        if y >= 1 && y <= h && x >= 1 && x <= w {
                            let pixel = image.add(((y - 1) * w + x - 1) * at.channels + c);
                            d[i][j] = if valid == LANES { S::load(pixel) } else { S::load_n(pixel, valid) };
                        }
                    }
                }
            }
            let d = input2::<S>(d);
            let to = v.start.add((t - at.from) * v.row + c);
            for i in 0..6 {
                for j in 0..6 {
                    S::store(to.add((i * 6 + j) * v.plane), d[i][j]);
                }
            }
            c += LANES;
        }
    }
}

/// `Z = A·dy·Aᵀ` of the tiles' 4×4 output gradients.
#[inline(always)]
pub(super) unsafe fn output_gradient_tiles<S: Simd>(at: Patch<'_>, dy: *const f32, z: Planes) {
    let [h, w] = at.tiles.size;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let image = dy.add(b * h * w * at.channels);
        let mut c = 0;
        while c < at.channels {
            let valid = (at.channels - c).min(LANES);
            let mut d = [[S::zero(); 4]; 4];
            for i in 0..TILE.min(h - y0) {
                for j in 0..TILE.min(w - x0) {
                    let pixel = image.add(((y0 + i) * w + x0 + j) * at.channels + c);
                    d[i][j] = if valid == LANES { S::load(pixel) } else { S::load_n(pixel, valid) };
                }
            }
            let d = output_gradient2::<S>(d);
            let to = z.start.add((t - at.from) * z.row + c);
            for i in 0..6 {
                for j in 0..6 {
                    S::store(to.add((i * 6 + j) * z.plane), d[i][j]);
                }
            }
            c += LANES;
        }
    }
}

/// `y = Aᵀ·m·A + bias` into the tiles of `out`. `bias` may be null.
#[inline(always)]
pub(super) unsafe fn output_tiles<S: Simd>(at: Patch<'_>, m: Planes, bias: *const f32, out: *mut f32) {
    let [h, w] = at.tiles.size;
    for t in at.from..at.to {
        let (b, y0, x0) = at.tiles.place(t);
        let image = out.add(b * h * w * at.channels);
        let (rows, columns) = (TILE.min(h - y0), TILE.min(w - x0));
        let mut c = 0;
        while c < at.channels {
            let valid = (at.channels - c).min(LANES);
            let from = m.start.add((t - at.from) * m.row + c);
            let mut d = [[S::zero(); 6]; 6];
            for i in 0..6 {
                for j in 0..6 {
                    d[i][j] = S::load(from.add((i * 6 + j) * m.plane));
                }
            }
            let y = output2::<S>(d);
            let shift = if bias.is_null() { S::zero() } else { S::load_n(bias.add(c), valid) };
            let corner = image.add((y0 * w + x0) * at.channels + c);
            if valid == LANES && rows == TILE && columns == TILE {
                for i in 0..TILE {
                    for j in 0..TILE {
                        S::store(corner.add((i * w + j) * at.channels), S::add(y[i][j], shift));
                    }
                }
            } else {
                for i in 0..rows {
                    for j in 0..columns {
                        S::store_n(corner.add((i * w + j) * at.channels), S::add(y[i][j], shift), valid);
                    }
                }
            }
            c += LANES;
        }
    }
}

/// Weights seen as `[k][n][3][3]` through strides; `flipped` turns the kernel by 180°.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub start: *const f32,
    pub k_stride: usize,
    pub n_stride: usize,
    pub flipped: bool,
}

/// Kernels that are brought together before they are transformed: a vector read too soon after the
/// numbers in it were written would wait for them.
const GATHERED: usize = 16;

/// `U = G·g·Gᵀ` for all `k` and the columns `first..first + valid` (at most 16), stored at
/// `out + ξ·plane + k·row`; the other lanes become zero.
#[inline(always)]
pub(super) unsafe fn kernel_lanes<S: Simd>(g: Kernels, k: usize, first: usize, valid: usize, out: Planes) {
    let mut gathered = [[[0.0f32; LANES]; 9]; GATHERED];
    for start in (0..k).step_by(GATHERED) {
        let count = GATHERED.min(k - start);
        for lane in 0..valid {
            for (i, taps) in gathered.iter_mut().enumerate().take(count) {
                let from = g.start.add((start + i) * g.k_stride + (first + lane) * g.n_stride);
                for (tap, row) in taps.iter_mut().enumerate() {
                    row[lane] = *from.add(if g.flipped { 8 - tap } else { tap });
                }
            }
        }
        for (i, taps) in gathered.iter().enumerate().take(count) {
            let mut d = [[S::zero(); 3]; 3];
            for y in 0..3 {
                for x in 0..3 {
                    d[y][x] = S::load(taps[3 * y + x].as_ptr());
                }
            }
            let u = kernel2::<S>(d);
            let to = out.start.add((start + i) * out.row);
            for y in 0..6 {
                for x in 0..6 {
                    S::store(to.add((y * 6 + x) * out.plane), u[y][x]);
                }
            }
        }
    }
}

/// `dg = Gᵀ·dU·G` of row `i` of `[k][n]` sums in `u`, written to `dw[n][k][3][3]` for all `n` columns.
#[inline(always)]
pub(super) unsafe fn kernel_gradient_row<S: Simd>(u: Planes, i: usize, k: usize, n: usize, dw: *mut f32) {
    let mut first = 0;
    while first < n {
        let valid = (n - first).min(LANES);
        let from = u.start.add(i * u.row + first);
        let mut d = [[S::zero(); 6]; 6];
        for y in 0..6 {
            for x in 0..6 {
                d[y][x] = S::load(from.add((y * 6 + x) * u.plane));
            }
        }
        let g = kernel_gradient2::<S>(d);
        let mut lanes = [0.0f32; LANES];
        for tap in 0..9 {
            S::store(lanes.as_mut_ptr(), g[tap / 3][tap % 3]);
            for (lane, value) in lanes.iter().enumerate().take(valid) {
                *dw.add(((first + lane) * k + i) * 9 + tap) = *value;
            }
        }
        first += LANES;
    }
}

const _: () = assert!(POINTS == 36 && TILE == 4);
