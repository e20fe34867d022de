//! Group normalization (Wu & He 2018, arXiv:1803.08494), optionally followed by a scale and shift per sample, and
//! SiLU.
//!
//! With `x̂ = (x - mean)·rstd` the result is `z = (x̂·weight + bias)·(1 + scale) + shift`, or `z·sigmoid(z)`.
//! Sums are taken over differences from each block's first pixel, in `f32` within a block and in `f64` across blocks.

use super::{
    Element,
    simd::{self, Dot, V, dispatch16, load_part, store_part, strips16},
};
pub use crate::group_norm::{Affine, GroupNorm};
use crate::{
    Isa,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::Blocks,
};

/// Normalizes `x: [batch, pixels, channels]` into `out`, of the same shape.
pub fn forward<I: Element, O: Element>(isa: Isa, n: &GroupNorm, x: &[I], affine: Affine<'_>, out: &mut [O]) {
    let (c, len) = (n.channels, n.batch * n.pixels * n.channels);
    assert!(n.groups > 0 && c.is_multiple_of(n.groups), "groups must divide the channels: {n:?}");
    assert!([x.len(), out.len()] == [len; 2], "lengths {} and {} of images of {n:?}", x.len(), out.len());
    affine.check(n);
    let blocks = Blocks::new(n.batch, n.pixels, c);
    let sums = Scratch::take(blocks.partials(2));
    let factors = Scratch::take(n.batch * 3 * c);
    let (x, out, silu) = (Ptr::from_const(x.as_ptr()), Ptr::new(out), n.silu);
    let (sums, factors) = (sums.ptr(), factors.ptr());
    blocks.each_thrice(
        // SAFETY: lengths are checked above; tasks write disjoint parts. The same holds below.
        |b, i| unsafe {
            let (at, pixels) = blocks.get(b, i);
            let (x, sums) = (x.get().add(at).cast_const(), sums.get().add(blocks.partial(b, i, 2)));
            dispatch16!(isa, differences[I](x: *const I, pixels: usize, c: usize, sums: *mut f32))
        },
        |b| unsafe {
            let x = x.get().add(blocks.get(b, 0).0).cast_const();
            let sums = sums.get().add(blocks.partial(b, 0, 2)).cast_const();
            let factors = std::slice::from_raw_parts_mut(factors.get().add(b * 3 * c), 3 * c);
            let firsts = |i: usize, shift: &mut [f32]| {
                let x = x.add(blocks.get(0, i).0);
                let shift = shift.as_mut_ptr();
                dispatch16!(isa, copy[I](x: *const I, c: usize, shift: *mut f32))
            };
            moments(n, &blocks, sums, firsts, affine, b, factors);
        },
        |b, i| unsafe {
            let (at, pixels) = blocks.get(b, i);
            let (x, out) = (x.get().add(at).cast_const(), out.get().add(at));
            let factors = factors.get().add(b * 3 * c).cast_const();
            dispatch16!(isa, normalize[I, O](x: *const I, pixels: usize, c: usize, factors: *const f32, silu: bool, out: *mut O))
        },
    );
}

/// `[2][channels]`: sums over a block's pixels of the difference from its first pixel, and of its square.
#[inline(always)]
unsafe fn differences<D: Dot, I: Element>(x: *const I, pixels: usize, channels: usize, sums: *mut f32) {
    strips16!(channels, 4, differences_strip::<D, I>(x, pixels, channels, sums))
}

#[inline(always)]
unsafe fn differences_strip<D: Dot, I: Element, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const I,
    pixels: usize,
    channels: usize,
    sums: *mut f32,
) {
    let mut shift = [D::S::zero(); NV];
    let (mut sum, mut square) = ([D::S::zero(); NV], [D::S::zero(); NV]);
    for v in 0..NV {
        shift[v] = load_part::<D, I, TAIL>(x.add(c + v * LANES), valid);
    }
    for p in 1..pixels {
        let x = x.add(p * channels + c);
        for v in 0..NV {
            let d = D::S::sub(load_part::<D, I, TAIL>(x.add(v * LANES), valid), shift[v]);
            sum[v] = D::S::add(sum[v], d);
            square[v] = D::S::fma(d, d, square[v]);
        }
    }
    for v in 0..NV {
        store_part::<D, f32, TAIL>(sums.add(c + v * LANES), sum[v], valid);
        store_part::<D, f32, TAIL>(sums.add(channels + c + v * LANES), square[v], valid);
    }
}

#[inline(always)]
unsafe fn copy<D: Dot, I: Element>(x: *const I, channels: usize, out: *mut f32) {
    strips16!(channels, 4, copy_strip::<D, I>(x, out))
}

#[inline(always)]
unsafe fn copy_strip<D: Dot, I: Element, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const I,
    out: *mut f32,
) {
    for v in 0..NV {
        let at = c + v * LANES;
        store_part::<D, f32, TAIL>(out.add(at), load_part::<D, I, TAIL>(x.add(at), valid), valid);
    }
}

/// `mean, factor, shift` per channel of sample `b`, such that `z = (x - mean)·factor + shift`, from the
/// [`differences`] of the sample's blocks and their first pixels.
unsafe fn moments(
    n: &GroupNorm,
    blocks: &Blocks,
    sums: *const f32,
    firsts: impl Fn(usize, &mut [f32]),
    affine: Affine<'_>,
    b: usize,
    factors: &mut [f32],
) {
    let (c, size) = (n.channels, n.channels / n.groups);
    let count = (size * n.pixels) as f64;
    let of_block = |i: usize| {
        let sums = std::slice::from_raw_parts(sums.add(blocks.partial(0, i, 2)), 2 * c);
        (sums, blocks.get(0, i).1 as f64)
    };
    let (mut total, mut centre, mut shift) = (vec![0.0f64; c], vec![0.0f64; c], vec![0.0f32; c]);
    for i in 0..blocks.per_image {
        let (sums, pixels) = of_block(i);
        firsts(i, &mut shift);
        for j in 0..c {
            total[j] += pixels * f64::from(shift[j]) + f64::from(sums[j]);
        }
    }
    for g in 0..n.groups {
        let mean = total[g * size..][..size].iter().sum::<f64>() / count;
        centre[g * size..][..size].fill(mean);
    }
    total.fill(0.0);
    for i in 0..blocks.per_image {
        let (sums, pixels) = of_block(i);
        firsts(i, &mut shift);
        for j in 0..c {
            let d = f64::from(shift[j]) - centre[j];
            total[j] += f64::from(sums[c + j]) + d * (2.0 * f64::from(sums[j]) + pixels * d);
        }
    }
    for g in 0..n.groups {
        let variance = total[g * size..][..size].iter().sum::<f64>() / count;
        let rstd = (1.0 / (variance.max(0.0) + f64::from(n.eps)).sqrt()) as f32;
        for j in g * size..(g + 1) * size {
            let (mut factor, mut shift) = (rstd * affine.weight[j], affine.bias[j]);
            if let Some([scale, add]) = affine.scale_shift {
                let scale = 1.0 + scale[b * c + j];
                (factor, shift) = (factor * scale, shift * scale + add[b * c + j]);
            }
            factors[j] = centre[j] as f32;
            factors[c + j] = factor;
            factors[2 * c + j] = shift;
        }
    }
}

#[inline(always)]
unsafe fn normalize<D: Dot, I: Element, O: Element>(
    x: *const I,
    pixels: usize,
    channels: usize,
    factors: *const f32,
    silu: bool,
    out: *mut O,
) {
    strips16!(channels, 4, normalize_strip::<D, I, O>(x, pixels, channels, factors, silu, out))
}

#[inline(always)]
unsafe fn normalize_strip<D: Dot, I: Element, O: Element, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const I,
    pixels: usize,
    channels: usize,
    factors: *const f32,
    silu: bool,
    out: *mut O,
) {
    let mut f: [[V<D>; NV]; 3] = [[D::S::zero(); NV]; 3];
    for i in 0..3 {
        for v in 0..NV {
            f[i][v] = load_part::<D, f32, TAIL>(factors.add(i * channels + c + v * LANES), valid);
        }
    }
    for p in 0..pixels {
        for v in 0..NV {
            let at = p * channels + c + v * LANES;
            let x = load_part::<D, I, TAIL>(x.add(at), valid);
            let mut y = D::S::fma(D::S::sub(x, f[0][v]), f[1][v], f[2][v]);
            if silu {
                y = simd::silu::<D, O>(y);
            }
            store_part::<D, O, TAIL>(out.add(at), y, valid);
        }
    }
}
