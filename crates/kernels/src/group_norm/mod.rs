//! Group normalization (Wu & He 2018, arXiv:1803.08494), optionally followed by a scale and shift per sample and SiLU,
//! and its gradient.
//!
//! `x: [batch, pixels, channels]`; a group is `channels / groups` neighbouring channels over all pixels.
//! With `x̂ = (x - mean)·rstd`, `w = weight·(1 + scale)` and `z = x̂·w + bias·(1 + scale) + shift` the result is `z`
//! or `z·sigmoid(z)`. With the gradient `dz` of `z`, and a group of `n` values,
//! `dx = rstd·(w·dz - (Σ w·dz + x̂·Σ w·dz·x̂) / n)`.
//!
//! Sums are taken over differences from each block's first pixel, in `f32` within a block and in `f64` across blocks,
//! so a large mean costs no precision.

mod gradient;

use crate::{
    Isa,
    isa::dispatch,
    maps::Maps,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::{Blocks, load, store, strips},
};

pub use gradient::backward;

/// Shape and settings of a group normalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Batch size.
    pub batch: usize,
    /// Pixels per sample.
    pub pixels: usize,
    /// Number of channels.
    pub channels: usize,
    /// Number of channel groups.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// The factors of a normalization.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// `[channels]`.
    pub weight: &'a [f32],
    /// `[channels]`.
    pub bias: &'a [f32],
    /// Scale and shift of the normalized values from an embedding, `[batch, channels]` each.
    pub scale_shift: Option<[&'a [f32]; 2]>,
}

impl<'a> From<[&'a [f32]; 2]> for Affine<'a> {
    fn from([weight, bias]: [&'a [f32]; 2]) -> Self {
        Self { weight, bias, scale_shift: None }
    }
}

impl<'a> From<[&'a Vec<f32>; 2]> for Affine<'a> {
    fn from([weight, bias]: [&'a Vec<f32>; 2]) -> Self {
        Self { weight, bias, scale_shift: None }
    }
}

impl Affine<'_> {
    pub(crate) fn check(&self, n: &GroupNorm) {
        let fits = [self.weight.len(), self.bias.len()] == [n.channels; 2];
        assert!(fits, "expected one weight and one bias per channel of {n:?}");
        let per_sample = self.scale_shift.iter().flatten().all(|v| v.len() == n.batch * n.channels);
        assert!(per_sample, "expected a scale and shift per sample and channel of {n:?}");
    }

    /// `weight·(1 + scale)` and `bias·(1 + scale) + shift` of channel `c` of sample `b`.
    fn of(&self, b: usize, c: usize) -> [f32; 2] {
        let (weight, bias) = (self.weight[c], self.bias[c]);
        match self.scale_shift {
            None => [weight, bias],
            Some([scale, shift]) => {
                let at = b * self.weight.len() + c;
                let scale = 1.0 + scale[at];
                [weight * scale, bias * scale + shift[at]]
            }
        }
    }
}

impl GroupNorm {
    fn check(&self, images: &[usize], groups: &[usize]) {
        let divides = self.groups > 0 && self.channels.is_multiple_of(self.groups);
        assert!(divides, "groups must divide the channels: {self:?}");
        let len = self.batch * self.pixels * self.channels;
        assert!(images.iter().all(|&l| l == len), "lengths {images:?} of images of {self:?}");
        assert!(
            groups.iter().all(|&l| l == self.batch * self.groups),
            "lengths {groups:?} per group of {self:?}"
        );
    }

    fn blocks(&self) -> Blocks {
        Blocks::new(self.batch, self.pixels, self.channels)
    }

    /// `[rows][channels]` values per sample, from the values for a sample, its group (counted over all samples) and
    /// channel.
    fn factors<const N: usize>(&self, value: impl Fn(usize, usize, usize) -> [f32; N]) -> Vec<f32> {
        let (c, size) = (self.channels, self.channels / self.groups);
        let mut factors = vec![0.0; self.batch * N * c];
        for (b, sample) in factors.chunks_exact_mut((N * c).max(1)).enumerate() {
            for channel in 0..c {
                for (i, v) in value(b, b * self.groups + channel / size, channel).into_iter().enumerate() {
                    sample[i * c + channel] = v;
                }
            }
        }
        factors
    }
}

/// Parameters of the loops over a block's pixels: a range of channels in one of up to two maps.
#[derive(Clone, Copy)]
struct Strip {
    pixels: usize,
    /// Channels of the map.
    part: usize,
    /// The first of them among all channels.
    first: usize,
    /// Number of all channels.
    channels: usize,
    /// `[rows][channels]`.
    factors: *const f32,
    silu: bool,
}

/// Mean and reciprocal standard deviation of each sample and group, `[batch, groups]` each.
pub fn statistics<'a>(isa: Isa, n: &GroupNorm, x: impl Into<Maps<'a>>, mean: &mut [f32], rstd: &mut [f32]) {
    n.check(&[], &[mean.len(), rstd.len()]);
    let x = x.into().parts(n.batch * n.pixels, n.channels);
    let (blocks, c) = (n.blocks(), n.channels);
    let sums = Scratch::take(blocks.partials(2));
    let sums = sums.ptr();
    let (mean, rstd) = (Ptr::new(mean), Ptr::new(rstd));
    blocks.each_then(
        // SAFETY: lengths are checked above; tasks write disjoint parts. The same holds below.
        |b, i| unsafe {
            let (at, pixels) = blocks.pixels(b, i);
            for part in x.each() {
                let (x, channels) = (part.start.get().add(at * part.channels), part.channels);
                let sums = sums.get().add(blocks.partial(b, i, 2) + part.first);
                dispatch!(isa, differences(x: *const f32, pixels: usize, channels: usize, sums: *mut f32, c: usize))
            }
        },
        |b| unsafe {
            let firsts = |i: usize, shift: &mut [f32]| {
                let at = blocks.pixels(b, i).0;
                for part in x.each() {
                    let x = std::slice::from_raw_parts(part.start.get().add(at * part.channels), part.channels);
                    shift[part.first..][..part.channels].copy_from_slice(x);
                }
            };
            let sums = sums.get().add(blocks.partial(b, 0, 2));
            moments(n, firsts, sums, mean.get().add(b * n.groups), rstd.get().add(b * n.groups));
        },
    );
}

/// Normalizes, scales and shifts `x`, then applies SiLU if requested.
pub fn forward<'a>(
    isa: Isa,
    n: &GroupNorm,
    x: impl Into<Maps<'a>>,
    [mean, rstd]: [&[f32]; 2],
    affine: impl Into<Affine<'a>>,
    out: &mut [f32],
) {
    n.check(&[out.len()], &[mean.len(), rstd.len()]);
    let (x, affine) = (x.into().parts(n.batch * n.pixels, n.channels), affine.into());
    affine.check(n);
    let factors = n.factors(|b, g, c| {
        let [weight, bias] = affine.of(b, c);
        [mean[g], rstd[g] * weight, bias]
    });
    let (blocks, channels, silu) = (n.blocks(), n.channels, n.silu);
    let out = Ptr::new(out);
    blocks.each(|b, i| {
        let (at, pixels) = blocks.pixels(b, i);
        let factors = factors[b * 3 * channels..].as_ptr();
        for part in x.each() {
            // SAFETY: lengths are checked above; tasks write disjoint parts.
            unsafe {
                let (x, out) = (part.start.get().add(at * part.channels), out.get().add(at * channels));
                let job = Strip { pixels, part: part.channels, first: part.first, channels, factors, silu };
                dispatch!(isa, normalize(x: *const f32, job: Strip, out: *mut f32))
            }
        }
    });
}

/// Sums over a block's pixels of the difference from its first pixel, and of its square in the next `row`.
#[inline(always)]
unsafe fn differences<S: Simd>(x: *const f32, pixels: usize, channels: usize, sums: *mut f32, row: usize) {
    strips!(channels, 4, differences_strip::<S>(x, pixels, channels, sums, row))
}

#[inline(always)]
unsafe fn differences_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    pixels: usize,
    channels: usize,
    sums: *mut f32,
    row: usize,
) {
    let mut shift = [S::zero(); NV];
    let (mut sum, mut square) = ([S::zero(); NV], [S::zero(); NV]);
    for v in 0..NV {
        shift[v] = load::<S, TAIL>(x.add(c + v * LANES), valid);
    }
    for p in 1..pixels {
        let x = x.add(p * channels + c);
        for v in 0..NV {
            let d = S::sub(load::<S, TAIL>(x.add(v * LANES), valid), shift[v]);
            sum[v] = S::add(sum[v], d);
            square[v] = S::fma(d, d, square[v]);
        }
    }
    for v in 0..NV {
        store::<S, TAIL>(sums.add(c + v * LANES), sum[v], valid);
        store::<S, TAIL>(sums.add(row + c + v * LANES), square[v], valid);
    }
}

/// Mean and reciprocal standard deviation of an image's groups, from the [`differences`] of its blocks and the first
/// pixel of each.
unsafe fn moments(
    n: &GroupNorm,
    firsts: impl Fn(usize, &mut [f32]),
    sums: *const f32,
    mean: *mut f32,
    rstd: *mut f32,
) {
    let (blocks, c) = (n.blocks(), n.channels);
    let mut shift = vec![0.0f32; c];
    let of_block = |i: usize| {
        let sums = std::slice::from_raw_parts(sums.add(blocks.partial(0, i, 2)), 2 * c);
        (&sums[..c], &sums[c..], blocks.pixels(0, i).1 as f64)
    };
    let size = c / n.groups;
    let count = (size * n.pixels) as f64;
    let (mut total, mut centre) = (vec![0.0f64; c], vec![0.0f64; c]);
    for i in 0..blocks.per_image {
        let (sum, _, pixels) = of_block(i);
        firsts(i, &mut shift);
        for j in 0..c {
            total[j] += pixels * f64::from(shift[j]) + f64::from(sum[j]);
        }
    }
    for g in 0..n.groups {
        let m = total[g * size..][..size].iter().sum::<f64>() / count;
        centre[g * size..][..size].fill(m);
        *mean.add(g) = m as f32;
    }
    total.fill(0.0);
    for i in 0..blocks.per_image {
        let (sum, square, pixels) = of_block(i);
        firsts(i, &mut shift);
        for j in 0..c {
            let d = f64::from(shift[j]) - centre[j];
            total[j] += f64::from(square[j]) + d * (2.0 * f64::from(sum[j]) + pixels * d);
        }
    }
    for g in 0..n.groups {
        let variance = total[g * size..][..size].iter().sum::<f64>() / count;
        *rstd.add(g) = (1.0 / (variance.max(0.0) + f64::from(n.eps)).sqrt()) as f32;
    }
}

/// A strip of `factors: [N][channels]`, at channel `c` of the map.
#[inline(always)]
unsafe fn strip_factors<S: Simd, const N: usize, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    job: Strip,
) -> [[S::V; NV]; N] {
    let mut f = [[S::zero(); NV]; N];
    for i in 0..N {
        for v in 0..NV {
            f[i][v] = load::<S, TAIL>(job.factors.add(i * job.channels + job.first + c + v * LANES), valid);
        }
    }
    f
}

/// `factors: [3][channels]`: mean, `rstd·weight`, bias.
#[inline(always)]
unsafe fn normalize<S: Simd>(x: *const f32, job: Strip, out: *mut f32) {
    strips!(job.part, 4, normalize_strip::<S>(x, job, out))
}

#[inline(always)]
unsafe fn normalize_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    job: Strip,
    out: *mut f32,
) {
    let f = strip_factors::<S, 3, NV, TAIL>(c, valid, job);
    for p in 0..job.pixels {
        let (from, to) = (p * job.part + c, p * job.channels + job.first + c);
        for v in 0..NV {
            let x = load::<S, TAIL>(x.add(from + v * LANES), valid);
            let mut y = S::fma(S::sub(x, f[0][v]), f[1][v], f[2][v]);
            if job.silu {
                y = S::mul(y, S::sigmoid(y));
            }
            store::<S, TAIL>(out.add(to + v * LANES), y, valid);
        }
    }
}
