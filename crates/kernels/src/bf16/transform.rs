//! The transforms of F(2×2, 3×3) with points 0, 1, -1, ∞ (Lavin & Gray 2016, arXiv:1509.09308), in `f32`.

use super::{
    Bf16, Element,
    pack::Pair,
    simd::{Dot, V, load_part, store_part},
    winograd::{TILE, Tiles},
};
use crate::simd::{LANES, Simd};

/// `Bᵀ·d`.
#[inline(always)]
unsafe fn input<D: Dot>(d: [V<D>; 4]) -> [V<D>; 4] {
    [D::S::sub(d[0], d[2]), D::S::add(d[1], d[2]), D::S::sub(d[2], d[1]), D::S::sub(d[1], d[3])]
}

/// `Aᵀ·m`.
#[inline(always)]
unsafe fn output<D: Dot>(m: [V<D>; 4]) -> [V<D>; 2] {
    [D::S::add(D::S::add(m[0], m[1]), m[2]), D::S::sub(D::S::sub(m[1], m[2]), m[3])]
}

/// `G·g`.
#[inline(always)]
unsafe fn kernel<D: Dot>(g: [V<D>; 3]) -> [V<D>; 4] {
    let half = D::S::splat(0.5);
    let (ends, middle) = (D::S::mul(half, D::S::add(g[0], g[2])), D::S::mul(half, g[1]));
    [g[0], D::S::add(ends, middle), D::S::sub(ends, middle), g[2]]
}

/// `G·g·Gᵀ` of the 3×3 kernels of sixteen columns, for one `term` of each pair.
#[inline(always)]
pub(super) unsafe fn kernel_taps<D: Dot>(g: &[Pair], term: usize) -> [V<D>; 16] {
    let mut half = [[D::S::zero(); 3]; 4];
    for x in 0..3 {
        let [top, middle, bottom] = [g[x][term].as_ptr(), g[3 + x][term].as_ptr(), g[6 + x][term].as_ptr()];
        let column = kernel::<D>([D::S::load(top), D::S::load(middle), D::S::load(bottom)]);
        for y in 0..4 {
            half[y][x] = column[y];
        }
    }
    let mut u = [D::S::zero(); 16];
    for y in 0..4 {
        let row = kernel::<D>(half[y]);
        for x in 0..4 {
            u[4 * y + x] = row[x];
        }
    }
    u
}

/// Channels are transformed in groups of thirty-two, even channels before odd ones, which is the order in which they
/// come out of a register of pairs; a last group of at most sixteen keeps its order. Returns the channel at a
/// position in the transformed row of `k` channels, or `k` or more in the padding.
pub(super) fn channel_at(place: usize, k: usize) -> usize {
    let group = place / (2 * LANES) * 2 * LANES;
    if k - group.min(k) <= LANES {
        return place;
    }
    let place = place - group;
    group + if place < LANES { 2 * place } else { 2 * (place - LANES) + 1 }
}

/// Length of a transformed row of `k` channels.
pub(super) fn row_len(k: usize) -> usize {
    k.next_multiple_of(LANES)
}

/// Values outside a map.
static ZEROS: [Bf16; 2 * LANES] = [Bf16::ZERO; 2 * LANES];

/// Layout of transformed tiles: point `ξ` of tile `t` is at `start + ξ·plane + t·row`.
#[derive(Clone, Copy)]
pub(super) struct Planes<T> {
    pub start: *mut T,
    pub plane: usize,
    pub row: usize,
}

/// Which of the adjacent values in memory to use.
const ALL: u8 = 0;
const EVEN: u8 = 1;
const ODD: u8 = 2;

/// `V = Bᵀ·d·B`, rounded, of the 4×4 patches of tiles `from..to`; `v` starts at tile `from`.
#[inline(always)]
pub(super) unsafe fn input_tiles<D: Dot>(
    tiles: &Tiles,
    [from, to]: [usize; 2],
    k: usize,
    x: *const Bf16,
    v: Planes<Bf16>,
) {
    let [h, w] = tiles.size;
    for t in from..to {
        let (b, y0, x0) = tiles.place(t);
        let image = x.add(b * h * w * k);
        // Pixels of the patch, and the channel increment of each: 0 outside the map.
        let mut pixels = [ZEROS.as_ptr(); 16];
        let mut steps = [0usize; 16];
        for i in 0..4 {
            for j in 0..4 {
                let (y, x) = ((y0 + i).wrapping_sub(1), (x0 + j).wrapping_sub(1));
                if y < h && x < w {
                    pixels[4 * i + j] = image.add((y * w + x) * k);
                    steps[4 * i + j] = 1;
                }
            }
        }
        let to = v.start.add((t - from) * v.row);
        let mut c = 0;
        while c < k {
            let left = k - c;
            let to = to.add(c);
            if left >= 2 * LANES {
                patch::<D, EVEN>(&pixels, &steps, c, to, v.plane);
                patch::<D, ODD>(&pixels, &steps, c, to.add(LANES), v.plane);
            } else {
                // Copies the remaining channels, padded with zeros, and runs the same steps on the copy.
                let mut part = [[Bf16::ZERO; 2 * LANES]; 16];
                let mut parts = [ZEROS.as_ptr(); 16];
                for i in 0..16 {
                    let from = pixels[i].add(steps[i] * c);
                    std::ptr::copy_nonoverlapping(from, part[i].as_mut_ptr(), left);
                    parts[i] = part[i].as_ptr();
                }
                if left > LANES {
                    patch::<D, EVEN>(&parts, &steps, 0, to, v.plane);
                    patch::<D, ODD>(&parts, &steps, 0, to.add(LANES), v.plane);
                } else {
                    patch::<D, ALL>(&parts, &steps, 0, to, v.plane);
                }
            }
            c += 2 * LANES;
        }
    }
}

#[inline(always)]
unsafe fn patch<D: Dot, const WHICH: u8>(
    pixels: &[*const Bf16; 16],
    steps: &[usize; 16],
    c: usize,
    to: *mut Bf16,
    plane: usize,
) {
    let mut half = [[D::S::zero(); 4]; 4];
    for j in 0..4 {
        let mut column = [D::S::zero(); 4];
        for i in 0..4 {
            let p = pixels[4 * i + j].add(steps[4 * i + j] * c);
            column[i] = match WHICH {
                EVEN => D::even(p),
                ODD => D::odd(p),
                _ => D::widen(p),
            };
        }
        let column = input::<D>(column);
        for i in 0..4 {
            half[i][j] = column[i];
        }
    }
    for i in 0..4 {
        let row = input::<D>(half[i]);
        for j in 0..4 {
            D::narrow(to.add((4 * i + j) * plane), row[j]);
        }
    }
}

/// Parameters for the outputs of a strip of channels.
#[derive(Clone, Copy)]
pub(super) struct Finish<O> {
    /// The map, at the strip's first channel.
    pub out: *mut O,
    /// Channels of a pixel.
    pub n: usize,
    /// Channels of the strip.
    pub columns: usize,
    /// The bias at the strip's first channel, or null.
    pub bias: *const f32,
    /// Distance between the biases of consecutive samples.
    pub bias_step: usize,
    /// Like `out`, or null.
    pub residual: *const Bf16,
}

/// `y = Aᵀ·m·A` with the epilogue applied, for tiles `from..to`; `m` starts at tile `from`.
#[inline(always)]
pub(super) unsafe fn output_tiles<D: Dot, O: Element>(
    tiles: &Tiles,
    [from, to]: [usize; 2],
    m: Planes<f32>,
    f: Finish<O>,
) {
    let [h, w] = tiles.size;
    for t in from..to {
        let (b, y0, x0) = tiles.place(t);
        let pixel = (b * h + y0) * w + x0;
        let inside = [h - y0, w - x0];
        let whole = inside[0] >= TILE && inside[1] >= TILE;
        let mut c = 0;
        while c < f.columns {
            let valid = f.columns - c;
            let m = Planes { start: m.start.add((t - from) * m.row + c), ..m };
            let bias = if f.bias.is_null() { f.bias } else { f.bias.add(b * f.bias_step + c) };
            let at = pixel * f.n + c;
            if whole && valid >= LANES {
                square::<D, O, false>(m, f, bias, at, w, [TILE; 2], LANES);
            } else {
                square::<D, O, true>(m, f, bias, at, w, inside, valid);
            }
            c += LANES;
        }
    }
}

#[inline(always)]
unsafe fn square<D: Dot, O: Element, const TAIL: bool>(
    m: Planes<f32>,
    f: Finish<O>,
    bias: *const f32,
    at: usize,
    w: usize,
    inside: [usize; 2],
    valid: usize,
) {
    let mut half = [[D::S::zero(); 4]; 2];
    for j in 0..4 {
        let mut column = [D::S::zero(); 4];
        for i in 0..4 {
            column[i] = D::S::load(m.start.add((4 * i + j) * m.plane));
        }
        let column = output::<D>(column);
        for i in 0..2 {
            half[i][j] = column[i];
        }
    }
    let bias = if bias.is_null() { D::S::zero() } else { load_part::<D, f32, TAIL>(bias, valid) };
    for i in 0..2 {
        let row = output::<D>(half[i]);
        for j in 0..2 {
            if !TAIL || (i < inside[0] && j < inside[1]) {
                let at = at + (i * w + j) * f.n;
                let mut y = D::S::add(row[j], bias);
                if !f.residual.is_null() {
                    y = D::S::add(y, load_part::<D, Bf16, TAIL>(f.residual.add(at), valid));
                }
                store_part::<D, O, TAIL>(f.out.add(at), y, valid);
            }
        }
    }
}
