//! The gradient of group normalization.

use super::{Affine, GroupNorm, Strip, strip_factors};
use crate::{
    Isa,
    elementwise::silu_slope,
    isa::dispatch,
    maps::{Maps, MapsMut, Part},
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::{load, store, strips, total},
};

/// Gradients of the input (into `dx`), of weight and bias (`[channels]`), and of scale and shift (`[batch, channels]`)
/// if there are any.
pub fn backward<'a>(
    isa: Isa,
    n: &GroupNorm,
    x: impl Into<Maps<'a>>,
    dy: &[f32],
    [mean, rstd]: [&[f32]; 2],
    affine: impl Into<Affine<'a>>,
    dx: impl Into<MapsMut<'a>>,
    [dweight, dbias]: [&mut [f32]; 2],
    dscale_shift: Option<[&mut [f32]; 2]>,
) {
    n.check(&[dy.len()], &[mean.len(), rstd.len()]);
    let (blocks, c, silu) = (n.blocks(), n.channels, n.silu);
    let (affine, mut dx) = (affine.into(), dx.into());
    affine.check(n);
    assert!(dweight.len() == c && dbias.len() == c, "expected one gradient per channel of {n:?}");
    let (x, dx) = (x.into().parts(n.batch * n.pixels, c), dx.parts(n.batch * n.pixels, c));
    assert_eq!(x.channels(), dx.channels(), "maps and their gradients must have the same channels");
    let mut factors = n.factors(|b, g, c| {
        let [weight, bias] = affine.of(b, c);
        [mean[g], rstd[g], weight, bias]
    });
    let mut totals = vec![0.0f64; blocks.batch * 2 * c];
    let sums = Scratch::take(blocks.partials(2));
    let (sums, factors, totals_of) = (sums.ptr(), Ptr::new(&mut factors), Ptr::new(&mut totals));
    let dy = Ptr::from_const(dy.as_ptr());
    let job = |b: usize, pixels: usize, part: &Part| Strip {
        pixels,
        part: part.channels,
        first: part.first,
        channels: c,
        factors: factors.get().wrapping_add(b * 4 * c),
        silu,
    };
    blocks.each_thrice(
        // SAFETY: lengths are checked above; tasks write disjoint parts. The same holds below.
        |b, i| unsafe {
            let (at, pixels) = blocks.pixels(b, i);
            let dy = dy.get().add(at * c);
            let sums = sums.get().add(blocks.partial(b, i, 2));
            for (part, to) in x.each().zip(dx.each()) {
                let (job, at) = (job(b, pixels, &part), at * part.channels);
                let (x, dx) = (part.start.get().add(at), to.start.get().add(at));
                dispatch!(isa, reduce(x: *const f32, dy: *const f32, job: Strip, dx: *mut f32, sums: *mut f32))
            }
        },
        |b| unsafe {
            let (sums, factors) = (sums.get().add(blocks.partial(b, 0, 2)), factors.get().add(b * 4 * c));
            let totals = std::slice::from_raw_parts_mut(totals_of.get().add(b * 2 * c), 2 * c);
            total(sums, blocks.per_image, totals);
            let (mean, rstd) = (&mean[b * n.groups..], &rstd[b * n.groups..]);
            gradient_factors(n, mean, rstd, totals, std::slice::from_raw_parts_mut(factors, 4 * c));
        },
        |b, i| unsafe {
            let (at, pixels) = blocks.pixels(b, i);
            for (part, to) in x.each().zip(dx.each()) {
                let (job, own) = (job(b, pixels, &part), at * part.channels);
                let (x, dx) = (part.start.get().add(own), to.start.get().add(own));
                // With SiLU, `dx` holds `dz`.
                let (dz, row) = if silu {
                    (dx.cast_const(), part.channels)
                } else {
                    (dy.get().add(at * c + part.first).cast_const(), c)
                };
                dispatch!(isa, input_gradient(x: *const f32, dz: *const f32, row: usize, job: Strip, dx: *mut f32))
            }
        },
    );
    let sample = |b: usize| totals[b * 2 * c..][..2 * c].split_at(c);
    let factor = |b: usize, i: usize| affine.scale_shift.map_or(1.0, |[s, _]| 1.0 + f64::from(s[b * c + i]));
    for i in 0..c {
        dbias[i] = (0..n.batch).map(|b| factor(b, i) * sample(b).0[i]).sum::<f64>() as f32;
        dweight[i] = (0..n.batch).map(|b| factor(b, i) * sample(b).1[i]).sum::<f64>() as f32;
    }
    if let Some([dscale, dshift]) = dscale_shift {
        assert!([dscale.len(), dshift.len()] == [n.batch * c; 2], "gradients of scale and shift of {n:?}");
        for (b, i) in (0..n.batch).flat_map(|b| (0..c).map(move |i| (b, i))) {
            let (sum, product) = (sample(b).0[i], sample(b).1[i]);
            dshift[b * c + i] = sum as f32;
            let dscale_of = f64::from(affine.weight[i]) * product + f64::from(affine.bias[i]) * sum;
            dscale[b * c + i] = dscale_of as f32;
        }
    }
}

/// From totals `[2][channels]` of [`reduce`]'s sums, and factors `mean, rstd, weight, bias` per channel: `mean, a, c, d`
/// such that `dx = a·dz - (c + d·(x - mean))`.
fn gradient_factors(n: &GroupNorm, mean: &[f32], rstd: &[f32], totals: &[f64], factors: &mut [f32]) {
    let (c, size) = (n.channels, n.channels / n.groups);
    for g in 0..n.groups {
        let rstd_g = f64::from(rstd[g]);
        let (mut sum, mut product) = (0.0, 0.0);
        for channel in g * size..(g + 1) * size {
            let weight = f64::from(factors[2 * c + channel]);
            sum += weight * totals[channel];
            product += weight * totals[c + channel];
        }
        let factor = rstd_g / (size * n.pixels) as f64;
        for channel in g * size..(g + 1) * size {
            factors[channel] = mean[g];
            factors[c + channel] = rstd[g] * factors[2 * c + channel];
            factors[2 * c + channel] = (sum * factor) as f32;
            factors[3 * c + channel] = (product * factor * rstd_g) as f32;
        }
    }
}

/// `sums: [2][channels]`: sums over a block's pixels of `dz` and of `dz·x̂`; with SiLU, writes `dz` to `dx`.
/// `factors: [4][channels]`: mean, rstd, weight, bias.
#[inline(always)]
unsafe fn reduce<S: Simd>(x: *const f32, dy: *const f32, job: Strip, dx: *mut f32, sums: *mut f32) {
    strips!(job.part, 2, reduce_strip::<S>(x, dy, job, dx, sums))
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
        let (at, all) = (p * job.part + c, p * job.channels + job.first + c);
        for v in 0..NV {
            let (at, all) = (at + v * LANES, all + v * LANES);
            let normal = S::mul(S::sub(load::<S, TAIL>(x.add(at), valid), f[0][v]), f[1][v]);
            let mut dz = load::<S, TAIL>(dy.add(all), valid);
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
        let at = job.first + c + v * LANES;
        store::<S, TAIL>(sums.add(at), sum[v], valid);
        store::<S, TAIL>(sums.add(job.channels + at), product[v], valid);
    }
}

/// `row`: distance between pixels of `dz`.
#[inline(always)]
unsafe fn input_gradient<S: Simd>(x: *const f32, dz: *const f32, row: usize, job: Strip, dx: *mut f32) {
    strips!(job.part, 2, input_gradient_strip::<S>(x, dz, row, job, dx))
}

#[inline(always)]
unsafe fn input_gradient_strip<S: Simd, const NV: usize, const TAIL: bool>(
    c: usize,
    valid: usize,
    x: *const f32,
    dz: *const f32,
    row: usize,
    job: Strip,
    dx: *mut f32,
) {
    let f = strip_factors::<S, 4, NV, TAIL>(c, valid, job);
    for p in 0..job.pixels {
        let (at, from) = (p * job.part + c, p * row + c);
        for v in 0..NV {
            let (at, from) = (at + v * LANES, from + v * LANES);
            let x = S::sub(load::<S, TAIL>(x.add(at), valid), f[0][v]);
            let shared = S::fma(f[3][v], x, f[2][v]);
            let g = load::<S, TAIL>(dz.add(from), valid);
            store::<S, TAIL>(dx.add(at), S::sub(S::mul(f[1][v], g), shared), valid);
        }
    }
}
