//! Group normalization with an optional SiLU, and its gradient.
//!
//! `x: [batch, pixels, channels]`; a group is `channels / groups` neighbouring channels over all pixels.
//! Statistics are sums of deviations from the group's first element, so a large mean costs no digits.

use crate::{
    Isa,
    elementwise::silu_slope,
    isa::dispatch,
    par::{self, Ptr},
    simd::{LANES, Simd},
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

/// Pixels of a piece. Fixed, so that sums do not depend on threads.
const ROWS: usize = 64;

impl GroupNorm {
    fn len(&self) -> usize {
        self.batch * self.pixels * self.channels
    }

    fn check(&self, lens: &[usize]) {
        assert!(self.groups > 0 && self.channels.is_multiple_of(self.groups), "groups divide the channels");
        assert!(lens.iter().all(|&l| l == self.len()), "lengths of a group normalization {self:?}");
    }

    fn pieces(&self) -> usize {
        self.pixels.div_ceil(ROWS)
    }

    /// Elements of a group.
    fn count(&self) -> f64 {
        (self.pixels * self.channels / self.groups) as f64
    }
}

/// The channels of a sample: `z = x·scale + shift`.
struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Runs `f(sample, piece)` over all pieces: whole samples per task where there are enough of them.
fn for_each_piece(n: &GroupNorm, f: impl Fn(usize, usize) + Sync + Send) {
    let pieces = n.pieces();
    par::for_each_piece(n.batch * pieces, 4, |from, to| {
        for i in from..to {
            f(i / pieces, i % pieces);
        }
    });
}

/// Mean and reciprocal standard deviation of each sample and group, `[batch, groups]` each.
pub fn statistics(isa: Isa, n: &GroupNorm, x: &[f32], mean: &mut [f32], rstd: &mut [f32]) {
    n.check(&[x.len()]);
    assert!(mean.len() == n.batch * n.groups && rstd.len() == mean.len(), "one number per sample and group");
    let (channels, pieces, size) = (n.channels, n.pieces(), n.channels / n.groups);
    let mut parts = vec![0.0f32; n.batch * pieces * 2 * channels];
    let pivots: Vec<f32> = (0..n.batch * channels)
        .map(|i| {
            let (b, c) = (i / channels, i % channels);
            if n.pixels == 0 { 0.0 } else { x[b * n.pixels * channels + c / size * size] }
        })
        .collect();
    let (source, to) = (Ptr::from_const(x.as_ptr()), Ptr::new(&mut parts));
    let pivots_at = Ptr::from_const(pivots.as_ptr());
    for_each_piece(n, |b, p| {
        let rows = ROWS.min(n.pixels - p * ROWS);
        // SAFETY: inside `x` by `check`; every piece has its own part.
        unsafe {
            let x = source.get().add((b * n.pixels + p * ROWS) * channels).cast_const();
            let pivot = pivots_at.get().add(b * channels).cast_const();
            let to = to.get().add((b * pieces + p) * 2 * channels);
            dispatch!(isa, moments(x: *const f32, pivot: *const f32, rows: usize, channels: usize, to: *mut f32))
        }
    });
    for (i, (mean, rstd)) in mean.iter_mut().zip(rstd).enumerate() {
        let (b, g) = (i / n.groups, i % n.groups);
        let (mut sum, mut square) = (0.0f64, 0.0f64);
        for part in parts[b * pieces * 2 * channels..].chunks(2 * channels).take(pieces) {
            sum += part[g * size..(g + 1) * size].iter().map(|&v| f64::from(v)).sum::<f64>();
            square += part[channels + g * size..][..size].iter().map(|&v| f64::from(v)).sum::<f64>();
        }
        let shift = sum / n.count();
        let variance = (square / n.count() - shift * shift).max(0.0);
        *mean = (f64::from(pivots[b * channels + g * size]) + shift) as f32;
        *rstd = (1.0 / (variance + f64::from(n.eps)).sqrt()) as f32;
    }
}

#[inline(always)]
unsafe fn moments<S: Simd>(x: *const f32, pivot: *const f32, rows: usize, channels: usize, out: *mut f32) {
    let mut c = 0;
    while c < channels {
        let n = (channels - c).min(LANES);
        let pivot = S::load_n(pivot.add(c), n);
        let (mut sum, mut square) = (S::zero(), S::zero());
        for r in 0..rows {
            let d = S::sub(S::load_n(x.add(r * channels + c), n), pivot);
            sum = S::add(sum, d);
            square = S::fma(d, d, square);
        }
        S::store_n(out.add(c), sum, n);
        S::store_n(out.add(channels + c), square, n);
        c += LANES;
    }
}

fn affine(n: &GroupNorm, mean: &[f32], rstd: &[f32], weight: &[f32], bias: &[f32]) -> Affine {
    assert!(weight.len() == n.channels && bias.len() == n.channels, "one weight and bias per channel");
    let size = n.channels / n.groups;
    let group = |i: usize| i / n.channels * n.groups + i % n.channels / size;
    let all = 0..n.batch * n.channels;
    let scale: Vec<f32> = all.map(|i| rstd[group(i)] * weight[i % n.channels]).collect();
    let shift =
        scale.iter().enumerate().map(|(i, s)| (-mean[group(i)]).mul_add(*s, bias[i % n.channels])).collect();
    Affine { scale, shift }
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
    n.check(&[x.len(), out.len()]);
    let a = affine(n, mean, rstd, weight, bias);
    let (x, out, channels, silu) = (Ptr::from_const(x.as_ptr()), Ptr::new(out), n.channels, n.silu);
    for_each_piece(n, |b, p| {
        let rows = ROWS.min(n.pixels - p * ROWS);
        let at = (b * n.pixels + p * ROWS) * channels;
        let (scale, shift) = (a.scale[b * channels..].as_ptr(), a.shift[b * channels..].as_ptr());
        // SAFETY: inside the buffers by `check`; pieces are disjoint.
        unsafe {
            let (x, out) = (x.get().add(at).cast_const(), out.get().add(at));
            dispatch!(isa, apply(
                x: *const f32, scale: *const f32, shift: *const f32, rows: usize, channels: usize, silu: bool, out: *mut f32
            ))
        }
    });
}

#[inline(always)]
unsafe fn apply<S: Simd>(
    x: *const f32,
    scale: *const f32,
    shift: *const f32,
    rows: usize,
    channels: usize,
    silu: bool,
    out: *mut f32,
) {
    let mut c = 0;
    while c < channels {
        let n = (channels - c).min(LANES);
        let (scale, shift) = (S::load_n(scale.add(c), n), S::load_n(shift.add(c), n));
        for r in 0..rows {
            let at = r * channels + c;
            let z = S::fma(S::load_n(x.add(at), n), scale, shift);
            let y = if silu { S::mul(z, S::sigmoid(z)) } else { z };
            S::store_n(out.add(at), y, n);
        }
        c += LANES;
    }
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
    n.check(&[x.len(), dy.len(), dx.len()]);
    assert!(dweight.len() == n.channels && dbias.len() == n.channels, "one weight and bias per channel");
    let a = affine(n, mean, rstd, weight, bias);
    let (channels, pieces, size, silu) = (n.channels, n.pieces(), n.channels / n.groups, n.silu);
    // Per piece and channel: Σ dz and Σ dz·(x - mean), where z is the value before SiLU.
    let mut parts = vec![0.0f32; n.batch * pieces * 2 * channels];
    let centers: Vec<f32> =
        (0..n.batch * channels).map(|i| mean[i / channels * n.groups + i % channels / size]).collect();
    let (x, dy, dx) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()), Ptr::new(dx));
    let to = Ptr::new(&mut parts);
    for_each_piece(n, |b, p| {
        let rows = ROWS.min(n.pixels - p * ROWS);
        let at = (b * n.pixels + p * ROWS) * channels;
        let z = [&a.scale, &a.shift, &centers].map(|v| v[b * channels..].as_ptr());
        // SAFETY: as in `forward`.
        unsafe {
            let (x, dy) = (x.get().add(at).cast_const(), dy.get().add(at).cast_const());
            let to = to.get().add((b * pieces + p) * 2 * channels);
            dispatch!(isa, gradient_sums(
                x: *const f32, dy: *const f32, z: [*const f32; 3], rows: usize, channels: usize, silu: bool, to: *mut f32
            ))
        }
    });
    // dx = scale·dz - u - (x - mean)·t, with u and t constant over a group.
    let (mut u, mut t) = (vec![0.0f32; n.batch * channels], vec![0.0f32; n.batch * channels]);
    let (mut dw, mut db) = (vec![0.0f64; channels], vec![0.0f64; channels]);
    for b in 0..n.batch {
        let mut sums = vec![[0.0f64; 2]; channels];
        for part in parts[b * pieces * 2 * channels..].chunks(2 * channels).take(pieces) {
            for c in 0..channels {
                sums[c][0] += f64::from(part[c]);
                sums[c][1] += f64::from(part[channels + c]);
            }
        }
        for g in 0..n.groups {
            let r = f64::from(rstd[b * n.groups + g]);
            let (mut first, mut second) = (0.0, 0.0);
            for c in g * size..(g + 1) * size {
                dw[c] += sums[c][1] * r;
                db[c] += sums[c][0];
                first += sums[c][0] * f64::from(weight[c]);
                second += sums[c][1] * f64::from(weight[c]);
            }
            for c in g * size..(g + 1) * size {
                u[b * channels + c] = (r * first / n.count()) as f32;
                t[b * channels + c] = (r * r * r * second / n.count()) as f32;
            }
        }
    }
    for c in 0..channels {
        (dweight[c], dbias[c]) = (dw[c] as f32, db[c] as f32);
    }
    for_each_piece(n, |b, p| {
        let rows = ROWS.min(n.pixels - p * ROWS);
        let at = (b * n.pixels + p * ROWS) * channels;
        let z = [&a.scale, &a.shift, &centers, &u, &t].map(|v| v[b * channels..].as_ptr());
        // SAFETY: as in `forward`.
        unsafe {
            let (x, dy) = (x.get().add(at).cast_const(), dy.get().add(at).cast_const());
            let dx = dx.get().add(at);
            dispatch!(isa, gradient(
                x: *const f32, dy: *const f32, z: [*const f32; 5], rows: usize, channels: usize, silu: bool, dx: *mut f32
            ))
        }
    });
}

#[inline(always)]
unsafe fn gradient_sums<S: Simd>(
    x: *const f32,
    dy: *const f32,
    z: [*const f32; 3],
    rows: usize,
    channels: usize,
    silu: bool,
    out: *mut f32,
) {
    let mut c = 0;
    while c < channels {
        let n = (channels - c).min(LANES);
        let [scale, shift, center] = z.map(|v| S::load_n(v.add(c), n));
        let (mut sum, mut product) = (S::zero(), S::zero());
        for r in 0..rows {
            let at = r * channels + c;
            let x = S::load_n(x.add(at), n);
            let mut dz = S::load_n(dy.add(at), n);
            if silu {
                dz = S::mul(dz, silu_slope::<S>(S::fma(x, scale, shift)));
            }
            sum = S::add(sum, dz);
            product = S::fma(dz, S::sub(x, center), product);
        }
        S::store_n(out.add(c), sum, n);
        S::store_n(out.add(channels + c), product, n);
        c += LANES;
    }
}

#[inline(always)]
unsafe fn gradient<S: Simd>(
    x: *const f32,
    dy: *const f32,
    z: [*const f32; 5],
    rows: usize,
    channels: usize,
    silu: bool,
    dx: *mut f32,
) {
    let mut c = 0;
    while c < channels {
        let n = (channels - c).min(LANES);
        let [scale, shift, center, u, t] = z.map(|v| S::load_n(v.add(c), n));
        for r in 0..rows {
            let at = r * channels + c;
            let x = S::load_n(x.add(at), n);
            let mut dz = S::load_n(dy.add(at), n);
            if silu {
                dz = S::mul(dz, silu_slope::<S>(S::fma(x, scale, shift)));
            }
            let d = S::fnma(S::sub(x, center), t, S::sub(S::mul(scale, dz), u));
            S::store_n(dx.add(at), d, n);
        }
        c += LANES;
    }
}
