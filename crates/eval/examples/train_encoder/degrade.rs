//! Random degradations of images that the encoder must detect.

use rand::{Rng, RngExt};
use tweedie_core::noise::{fill_normal, generator};

const SIDE: usize = 32;
/// Number of kinds of degradations.
pub const FAULTS: usize = 3;
/// Maximum standard deviation of blur (in pixels) and noise (for values in -1..1), and maximum distortion in pixels.
const MOST: [f64; FAULTS] = [1.2, 0.25, 2.5];
/// Probability of each.
const OFTEN: f64 = 0.3;

/// Distorts, blurs and adds noise to an image `[3, 32, 32]`, as a function of `(seed, counter)`. Returns the strengths, 0
/// to 1, of blur, noise and distortion.
pub fn degrade(planes: Vec<f32>, seed: u64, counter: u64) -> (Vec<f32>, [f32; FAULTS]) {
    let mut rng = generator(seed ^ 0x6661_756c_7473, counter);
    let strengths: [f64; FAULTS] = std::array::from_fn(|_| {
        let (coin, strength): (f64, f64) = (rng.random(), rng.random());
        if coin < OFTEN { 0.1 + 0.9 * strength } else { 0.0 }
    });
    let [blurred, rough, bent] = std::array::from_fn(|i| strengths[i] * MOST[i]);
    let mut planes = planes;
    if bent > 0.0 {
        planes = bend(&planes, bent, &mut rng);
    }
    if blurred > 0.0 {
        planes = blur(&blur(&planes, blurred, 1), blurred, SIDE);
    }
    if rough > 0.0 {
        let mut noise = vec![0.0; planes.len()];
        fill_normal(seed ^ 0x006e_6f69_7365, counter, &mut noise);
        planes.iter_mut().zip(noise).for_each(|(v, n)| *v = (*v + rough as f32 * n).clamp(-1.0, 1.0));
    }
    (planes, strengths.map(|s| s as f32))
}

/// Gaussian blur along rows (`step` 1) or columns (`step` 32).
fn blur(planes: &[f32], deviation: f64, step: usize) -> Vec<f32> {
    let weights: Vec<f64> = (-4..=4).map(|d| (-0.5 * (f64::from(d) / deviation).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let value = |at: usize| {
        let along = at / step % SIDE;
        let tap = |(d, w): (usize, &f64)| {
            let to = (along + d).saturating_sub(4).min(SIDE - 1);
            f64::from(planes[at - along * step + to * step]) * w
        };
        (weights.iter().enumerate().map(tap).sum::<f64>() / total) as f32
    };
    (0..planes.len()).map(value).collect()
}

/// Reads every pixel from up to about `most` pixels away, with a smooth displacement.
fn bend(planes: &[f32], most: f64, rng: &mut impl Rng) -> Vec<f32> {
    const KNOTS: usize = 6;
    let field: Vec<[f64; 2]> =
        (0..KNOTS * KNOTS).map(|_| [0, 1].map(|_| most * (2.0 * rng.random::<f64>() - 1.0))).collect();
    let shift = |x: usize, y: usize| {
        let at = |v: usize| v as f64 / (SIDE - 1) as f64 * (KNOTS - 1) as f64;
        mix(at(x), at(y), KNOTS, |i| field[i])
    };
    let mut out = vec![0.0; planes.len()];
    for y in 0..SIDE {
        for x in 0..SIDE {
            let [dx, dy] = shift(x, y);
            for plane in 0..3 {
                let read = |i: usize| [f64::from(planes[plane * SIDE * SIDE + i])];
                out[(plane * SIDE + y) * SIDE + x] = mix(x as f64 + dx, y as f64 + dy, SIDE, read)[0] as f32;
            }
        }
    }
    out
}

/// Bilinear interpolation on a grid of `side × side`.
fn mix<const N: usize>(x: f64, y: f64, side: usize, at: impl Fn(usize) -> [f64; N]) -> [f64; N] {
    let [(x0, fx), (y0, fy)] = [x, y].map(|v| {
        let v = v.clamp(0.0, (side - 1) as f64);
        let low = (v as usize).min(side - 2);
        (low, v - low as f64)
    });
    let corner = |dx: usize, dy: usize| at((y0 + dy) * side + x0 + dx);
    let [a, b, c, d] = [corner(0, 0), corner(1, 0), corner(0, 1), corner(1, 1)];
    std::array::from_fn(|i| {
        (a[i] * (1.0 - fx) + b[i] * fx) * (1.0 - fy) + (c[i] * (1.0 - fx) + d[i] * fx) * fy
    })
}
