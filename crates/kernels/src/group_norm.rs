//! Group normalization (Wu & He 2018, arXiv:1803.08494), optionally followed by SiLU, and its gradient.
//!
//! `x: [batch, pixels, channels]`; a group is `channels / groups` neighbouring channels over all pixels.
//! With `x̂ = (x - mean)·rstd` and `z = x̂·weight + bias` the result is `z` or `z·sigmoid(z)`. For `dz`, the
//! gradient of `z`, and a group of `n` numbers,
//! `dx = rstd·(weight·dz - (Σ weight·dz + x̂·Σ weight·dz·x̂) / n)`.
//!
//! Sums are of differences from each block's first pixel, in `f32` over a block and in `f64` over blocks, so a
//! large mean costs no digits.

use crate::{
    Isa,
    elementwise::silu_slope,
    isa::dispatch,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::{Blocks, load, store, strips, total},
};

/// Shape and settings of a group normalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Samples.
    pub batch: usize,
    /// Positions per sample.
    pub pixels: usize,
    /// Channels.
    pub channels: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    fn check(&self, images: &[usize], channels: &[usize], groups: &[usize]) {
        let divides = self.groups > 0 && self.channels.is_multiple_of(self.groups);
        assert!(divides, "groups divide the channels: {self:?}");
        let len = self.batch * self.pixels * self.channels;
        assert!(images.iter().all(|&l| l == len), "lengths {images:?} of images of {self:?}");
        assert!(channels.iter().all(|&l| l == self.channels), "lengths {channels:?} per channel of {self:?}");
        assert!(
            groups.iter().all(|&l| l == self.batch * self.groups),
            "lengths {groups:?} per group of {self:?}"
        );
    }

    fn blocks(&self) -> Blocks {
        Blocks::new(self.batch, self.pixels, self.channels)
    }

    /// `[rows][channels]` numbers per sample, from the values of a sample and channel.
    fn factors<const N: usize>(&self, value: impl Fn(usize, usize) -> [f32; N]) -> Vec<f32> {
        let (c, size) = (self.channels, self.channels / self.groups);
        let mut factors = vec![0.0; self.batch * N * c];
        for (b, sample) in factors.chunks_exact_mut((N * c).max(1)).enumerate() {
            for channel in 0..c {
                for (i, v) in value(b * self.groups + channel / size, channel).into_iter().enumerate() {
                    sample[i * c + channel] = v;
                }
            }
        }
        factors
    }
}

/// What the loops over a block's pixels share.
#[derive(Clone, Copy)]
struct Strip {
    pixels: usize,
    channels: usize,
    /// `[rows][channels]`.
    factors: *const f32,
    silu: bool,
}

/// Mean and reciprocal standard deviation of each sample and group, `[batch, groups]` each.
pub fn statistics(isa: Isa, n: &GroupNorm, x: &[f32], mean: &mut [f32], rstd: &mut [f32]) {
    n.check(&[x.len()], &[], &[mean.len(), rstd.len()]);
    let (blocks, c) = (n.blocks(), n.channels);
    let sums = Scratch::take(blocks.partials(2));
    let (x, sums) = (Ptr::from_const(x.as_ptr()), sums.ptr());
    let (mean, rstd) = (Ptr::new(mean), Ptr::new(rstd));
    blocks.each_then(
        // SAFETY: lengths are checked above; tasks write disjoint parts. So below.
        |b, i| unsafe {
            let (at, pixels) = blocks.get(b, i);
            let (x, sums) = (x.get().add(at), sums.get().add(blocks.partial(b, i, 2)));
            dispatch!(isa, differences(x: *const f32, pixels: usize, c: usize, sums: *mut f32))
        },
        |b| unsafe {
            let (x, sums) = (x.get().add(blocks.get(b, 0).0), sums.get().add(blocks.partial(b, 0, 2)));
            let (mean, rstd) = (mean.get().add(b * n.groups), rstd.get().add(b * n.groups));
            dispatch!(isa, moments(n: &GroupNorm, x: *const f32, sums: *const f32, mean: *mut f32, rstd: *mut f32));
        },
    );
}

/// `(x - mean)·rstd·weight + bias`, then SiLU where asked.
pub fn forward(
    isa: Isa,
    n: &GroupNorm,
    x: &[f32],
    [mean, rstd]: [&[f32]; 2],
    [weight, bias]: [&[f32]; 2],
    out: &mut [f32],
) {
    n.check(&[x.len(), out.len()], &[weight.len(), bias.len()], &[mean.len(), rstd.len()]);
    let factors = n.factors(|g, c| [mean[g], rstd[g] * weight[c], bias[c]]);
    let (blocks, c, silu) = (n.blocks(), n.channels, n.silu);
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    blocks.each(|b, i| {
        let (at, pixels) = blocks.get(b, i);
        let factors = factors[b * 3 * c..].as_ptr();
        // SAFETY: lengths are checked above; tasks write disjoint parts.
        unsafe {
            let (x, out) = (x.get().add(at), out.get().add(at));
            let job = Strip { pixels, channels: c, factors, silu };
            dispatch!(isa, normalize(x: *const f32, job: Strip, out: *mut f32))
        }
    });
}

/// Gradients of the input (into `dx`), the weight and the bias.
pub fn backward(
    isa: Isa,
    n: &GroupNorm,
    x: &[f32],
    dy: &[f32],
    [mean, rstd]: [&[f32]; 2],
    [weight, bias]: [&[f32]; 2],
    dx: &mut [f32],
    [dweight, dbias]: [&mut [f32]; 2],
) {
    let per_channel = [weight.len(), bias.len(), dweight.len(), dbias.len()];
    n.check(&[x.len(), dy.len(), dx.len()], &per_channel, &[mean.len(), rstd.len()]);
    let (blocks, c, silu) = (n.blocks(), n.channels, n.silu);
    let mut factors = n.factors(|g, c| [mean[g], rstd[g], weight[c], bias[c]]);
    let mut totals = vec![0.0f64; blocks.batch * 2 * c];
    let sums = Scratch::take(blocks.partials(2));
    let (sums, factors, totals_of) = (sums.ptr(), Ptr::new(&mut factors), Ptr::new(&mut totals));
    let (x, dy, dx) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()), Ptr::new(dx));
    blocks.each_thrice(
        // SAFETY: lengths are checked above; tasks write disjoint parts. So below.
        |b, i| unsafe {
            let (at, pixels) = blocks.get(b, i);
            let (x, dy, dx) = (x.get().add(at), dy.get().add(at), dx.get().add(at));
            let (sums, factors) = (sums.get().add(blocks.partial(b, i, 2)), factors.get().add(b * 4 * c));
            let job = Strip { pixels, channels: c, factors, silu };
            dispatch!(isa, reduce(x: *const f32, dy: *const f32, job: Strip, dx: *mut f32, sums: *mut f32))
        },
        |b| unsafe {
            let (sums, factors) = (sums.get().add(blocks.partial(b, 0, 2)), factors.get().add(b * 4 * c));
            let totals = std::slice::from_raw_parts_mut(totals_of.get().add(b * 2 * c), 2 * c);
            let (mean, rstd) = (&mean[b * n.groups..], &rstd[b * n.groups..]);
            dispatch!(isa, gradient_factors(n: &GroupNorm, sums: *const f32, weight: &[f32], mean: &[f32], rstd: &[f32], totals: &mut [f64], factors: *mut f32))
        },
        |b, i| unsafe {
            let (at, pixels) = blocks.get(b, i);
            let dz = if silu { dx.get() } else { dy.get() };
            let (x, dz, dx) = (x.get().add(at), dz.add(at), dx.get().add(at));
            let factors = factors.get().add(b * 4 * c);
            let job = Strip { pixels, channels: c, factors, silu };
            dispatch!(isa, input_gradient(x: *const f32, dz: *const f32, job: Strip, dx: *mut f32))
        },
    );
    let over_batch = |at: usize| (0..blocks.batch).map(|b| totals[b * 2 * c + at]).sum::<f64>() as f32;
    for channel in 0..c {
        dbias[channel] = over_batch(channel);
        dweight[channel] = over_batch(c + channel);
    }
}

/// `[2][channels]`: sums over a block's pixels of the difference from its first pixel, and of its square.
#[inline(always)]
unsafe fn differences<S: Simd>(x: *const f32, pixels: usize, channels: usize, sums: *mut f32) {
    strips!(channels, 4, differences_strip::<S>(x, pixels, channels, sums))
}

#[inline(always)]
unsafe fn differences_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    pixels: usize,
    channels: usize,
    sums: *mut f32,
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
        store::<S, TAIL>(sums.add(channels + c + v * LANES), square[v], valid);
    }
}

/// Mean and reciprocal standard deviation of an image's groups, from the [`differences`] of its blocks.
#[inline(always)]
unsafe fn moments<S: Simd>(n: &GroupNorm, x: *const f32, sums: *const f32, mean: *mut f32, rstd: *mut f32) {
    let (blocks, c) = (n.blocks(), n.channels);
    let of_block = |i: usize| {
        let (at, pixels) = blocks.get(0, i);
        let sums = std::slice::from_raw_parts(sums.add(blocks.partial(0, i, 2)), 2 * c);
        (std::slice::from_raw_parts(x.add(at), c), &sums[..c], &sums[c..], pixels as f64)
    };
    let size = c / n.groups;
    let count = (size * n.pixels) as f64;
    let (mut total, mut centre) = (vec![0.0f64; c], vec![0.0f64; c]);
    for i in 0..blocks.per_image {
        let (shift, sum, _, pixels) = of_block(i);
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
        let (shift, sum, square, pixels) = of_block(i);
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

/// A strip of `factors: [N][channels]`.
#[inline(always)]
unsafe fn strip_factors<S: Simd, const N: usize, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    job: Strip,
) -> [[S::V; NV]; N] {
    let mut f = [[S::zero(); NV]; N];
    for i in 0..N {
        for v in 0..NV {
            f[i][v] = load::<S, TAIL>(job.factors.add(i * job.channels + c + v * LANES), valid);
        }
    }
    f
}

/// `factors: [3][channels]`: mean, `rstd·weight`, bias.
#[inline(always)]
unsafe fn normalize<S: Simd>(x: *const f32, job: Strip, out: *mut f32) {
    strips!(job.channels, 4, normalize_strip::<S>(x, job, out))
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
        let at = p * job.channels + c;
        for v in 0..NV {
            let x = load::<S, TAIL>(x.add(at + v * LANES), valid);
            let mut y = S::fma(S::sub(x, f[0][v]), f[1][v], f[2][v]);
            if job.silu {
                y = S::mul(y, S::sigmoid(y));
            }
            store::<S, TAIL>(out.add(at + v * LANES), y, valid);
        }
    }
}

/// `sums: [2][channels]`: sums over a block's pixels of `dz` and of `dz·x̂`; with SiLU, `dz` goes to `dx`.
/// `factors: [4][channels]`: mean, rstd, weight, bias.
#[inline(always)]
unsafe fn reduce<S: Simd>(x: *const f32, dy: *const f32, job: Strip, dx: *mut f32, sums: *mut f32) {
    strips!(job.channels, 2, reduce_strip::<S>(x, dy, job, dx, sums))
}

#[inline(always)]
unsafe fn reduce_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    dy: *const f32,
    job: Strip,
    dx: *mut f32,
    sums: *mut f32,
) {
    let f = strip_factors::<S, 4, NV, TAIL>(c, valid, job);
    let (mut sum, mut product) = ([S::zero(); NV], [S::zero(); NV]);
    for p in 0..job.pixels {
        let at = p * job.channels + c;
        for v in 0..NV {
            let at = at + v * LANES;
            let normal = S::mul(S::sub(load::<S, TAIL>(x.add(at), valid), f[0][v]), f[1][v]);
            let mut dz = load::<S, TAIL>(dy.add(at), valid);
            if job.silu {
                let z = S::fma(normal, f[2][v], f[3][v]);
                dz = S::mul(dz, silu_slope::<S>(z));
                store::<S, TAIL>(dx.add(at), dz, valid);
            }
            sum[v] = S::add(sum[v], dz);
            product[v] = S::fma(dz, normal, product[v]);
        }
    }
    for v in 0..NV {
        store::<S, TAIL>(sums.add(c + v * LANES), sum[v], valid);
        store::<S, TAIL>(sums.add(job.channels + c + v * LANES), product[v], valid);
    }
}

/// Totals `[2][channels]` of [`reduce`]'s sums, and from them, per channel, `mean, a, c, d` such that
/// `dx = a·dz - (c + d·(x - mean))`.
#[inline(always)]
unsafe fn gradient_factors<S: Simd>(
    n: &GroupNorm,
    sums: *const f32,
    weight: &[f32],
    mean: &[f32],
    rstd: &[f32],
    totals: &mut [f64],
    factors: *mut f32,
) {
    total(sums, n.blocks().per_image, totals);
    let (c, size) = (n.channels, n.channels / n.groups);
    for g in 0..n.groups {
        let rstd_g = f64::from(rstd[g]);
        let (mut sum, mut product) = (0.0, 0.0);
        for channel in g * size..(g + 1) * size {
            sum += f64::from(weight[channel]) * totals[channel];
            product += f64::from(weight[channel]) * totals[c + channel];
        }
        let factor = rstd_g / (size * n.pixels) as f64;
        for channel in g * size..(g + 1) * size {
            *factors.add(channel) = mean[g];
            *factors.add(c + channel) = rstd[g] * weight[channel];
            *factors.add(2 * c + channel) = (sum * factor) as f32;
            *factors.add(3 * c + channel) = (product * factor * rstd_g) as f32;
        }
    }
}

#[inline(always)]
unsafe fn input_gradient<S: Simd>(x: *const f32, dz: *const f32, job: Strip, dx: *mut f32) {
    strips!(job.channels, 2, input_gradient_strip::<S>(x, dz, job, dx))
}

#[inline(always)]
unsafe fn input_gradient_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    dz: *const f32,
    job: Strip,
    dx: *mut f32,
) {
    let f = strip_factors::<S, 4, NV, TAIL>(c, valid, job);
    for p in 0..job.pixels {
        let at = p * job.channels + c;
        for v in 0..NV {
            let at = at + v * LANES;
            let x = S::sub(load::<S, TAIL>(x.add(at), valid), f[0][v]);
            let shared = S::fma(f[3][v], x, f[2][v]);
            let g = load::<S, TAIL>(dz.add(at), valid);
            store::<S, TAIL>(dx.add(at), S::sub(S::mul(f[1][v], g), shared), valid);
        }
    }
}
