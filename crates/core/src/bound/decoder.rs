//! The discretised Gaussian decoder: the mass of a normal on the bin of an 8-bit value. Bins are `2/255` wide
//! around the values `-1, -1 + 2/255, …, 1`; the first and the last reach to infinity. Ho et al. 2020,
//! arXiv:2006.11239, eq. 13.
//!
//! Far from the mean the mass underflows, and for wide normals the difference of the two distribution functions
//! cancels, so the logarithm is computed after factoring out the leading exponential.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

/// The normal density at 0.
const PEAK: f64 = 0.398_942_280_401_432_7;

/// The cost of decoding one value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoded {
    /// `-ln p(x0)`, in nats.
    pub nats: f64,
    /// Derivative with respect to the mean.
    pub d_mean: f64,
    /// Derivative with respect to the logarithm of the variance.
    pub d_log_variance: f64,
}

/// `-ln` of the mass of `N(mean, exp(log_variance))` on the bin of `x0`, which is one of the 256 values;
/// relative error about 1e-12.
pub fn decoder(x0: f64, mean: f64, log_variance: f64) -> Decoded {
    let inverse = (-0.5 * log_variance).exp();
    let edge = |side: f64| (x0 - mean + side / 255.0) * inverse;
    let low = if x0 < -0.999 { f64::NEG_INFINITY } else { edge(-1.0) };
    let high = if x0 > 0.999 { f64::INFINITY } else { edge(1.0) };
    // The mirrored interval has the same mass, so only the upper side needs a formula.
    let mirrored = low + high < 0.0;
    let (a, b) = if mirrored { (-high, -low) } else { (low, high) };
    let Interval { nats, at_a, at_b } = interval(a, b);
    // Derivative for shifting the interval: the density at its ends divided by its mass.
    let shift = at_b - at_a;
    let scaled = |z: f64, density: f64| if z.is_finite() { z * density } else { 0.0 };
    Decoded {
        nats,
        d_mean: if mirrored { -shift } else { shift } * inverse,
        d_log_variance: 0.5 * (scaled(b, at_b) - scaled(a, at_a)),
    }
}

struct Interval {
    /// `-ln` of the mass.
    nats: f64,
    /// The density at the lower end divided by the mass.
    at_a: f64,
    /// The density at the upper end divided by the mass.
    at_b: f64,
}

/// The standard normal on `a..b`, `a + b ≥ 0`.
fn interval(a: f64, b: f64) -> Interval {
    let width = b - a;
    if width * (1.0 + a.abs()) < 1e-3 {
        // The density's Taylor series around the middle.
        let m = a + 0.5 * width;
        let h = width * width / 24.0;
        let correction = h * (m * m - 1.0);
        let nats = 0.5 * m * m - (PEAK * width).ln() - correction.ln_1p();
        let ratio = |z: f64| (0.5 * (m - z) * (m + z)).exp() / (width * (1.0 + correction));
        return Interval { nats, at_a: ratio(a), at_b: ratio(b) };
    }
    if a > 0.0 {
        // mass = exp(-a²/2)/2·(erfcx(a/√2) - exp(-(b² - a²)/2)·erfcx(b/√2)).
        let fall = if b.is_finite() { (-0.5 * width * (a + b)).exp() } else { 0.0 };
        let tail = if b.is_finite() { fall * erfcx(b * FRAC_1_SQRT_2) } else { 0.0 };
        let rest = 0.5 * (erfcx(a * FRAC_1_SQRT_2) - tail);
        let at_a = PEAK / rest;
        return Interval { nats: 0.5 * a * a - rest.ln(), at_a, at_b: at_a * fall };
    }
    let density = |z: f64| if z.is_finite() { PEAK * (-0.5 * z * z).exp() } else { 0.0 };
    let outside = upper(-a) + upper(b);
    let mass = if outside < 0.5 { 1.0 - outside } else { 0.5 * (erf(-a) + erf(b)) };
    let nats = if outside < 0.5 { -(-outside).ln_1p() } else { -mass.ln() };
    Interval { nats, at_a: density(a) / mass, at_b: density(b) / mass }
}

/// The standard normal's mass above `z ≥ 0`.
fn upper(z: f64) -> f64 {
    if z.is_finite() { 0.5 * (-0.5 * z * z).exp() * erfcx(z * FRAC_1_SQRT_2) } else { 0.0 }
}

/// `erf(z/√2)` for `z ≥ 0`: the standard normal's mass on `-z..z`.
fn erf(z: f64) -> f64 {
    if z < 2.0 { scaled_erf(z * FRAC_1_SQRT_2) * (-0.5 * z * z).exp() } else { 1.0 - 2.0 * upper(z) }
}

/// `exp(x²)·erf(x) = 2/√π·Σ 2^n·x^(2n+1)/(2n+1)!!`, a series of positive terms.
fn scaled_erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    let mut n = 1.0;
    while term > 1e-17 * sum {
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    FRAC_2_SQRT_PI * sum
}

/// `exp(x²)·erfc(x)` for `x ≥ 0`: by the series of [`scaled_erf`] near 0, else by Laplace's continued fraction,
/// Abramowitz & Stegun 7.1.14.
fn erfcx(x: f64) -> f64 {
    if x < 1.5 {
        return (x * x).exp() - scaled_erf(x);
    }
    let terms = (12.0 + 220.0 / (x * x)) as u32;
    let fraction = (1..=terms).rev().fold(x, |below, k| x + 0.5 * f64::from(k) / below);
    1.0 / (fraction * PI.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERFCX: [(f64, f64); 12] = [
        (0.0, 1.0),
        (1e-09, 0.9999999988716205),
        (0.1, 0.8964569799691268),
        (0.7, 0.525930337349441),
        (1.49, 0.3232292938008237),
        (1.51, 0.31995676958333286),
        (2.0, 0.2553956763105058),
        (3.3, 0.16400729757293261),
        (6.0, 0.09277656780053836),
        (20.0, 0.028174348741051323),
        (1000.0, 0.0005641893014533876),
        (100000000.0, 5.641895835477563e-09),
    ];

    #[test]
    fn erfcx_is_that_of_scipy() {
        // scipy.special.erfcx, scipy 1.17.1.
        for (x, y) in ERFCX {
            assert!((erfcx(x) / y - 1.0).abs() < 2e-14, "{x}: {} {y}", erfcx(x));
        }
    }

    #[test]
    fn the_bins_share_out_all_of_the_mass() {
        for (mean, log_variance) in [(0.1, -9.0), (-0.99, -3.0), (0.7, 4.0), (0.004, -16.0)] {
            let mass: f64 =
                (0..256).map(|k| (-decoder(f64::from(k) / 127.5 - 1.0, mean, log_variance).nats).exp()).sum();
            assert!((mass - 1.0).abs() < 1e-11, "{mean} {log_variance}: {mass}");
        }
    }

    #[test]
    fn every_branch_joins_the_next() {
        for z in [1e-3, 0.3, 2.0, 30.0] {
            for width in [0.999e-3, 1.001e-3].map(|w| w / (1.0 + z)) {
                let (near, far) = (interval(z, z + width), interval(z, z + 1.01 * width));
                assert!(near.nats > far.nats && near.nats - far.nats < 0.011, "{z} {width}");
            }
        }
        for (x0, mean) in [(0.5, -40.0), (-1.0, 70.0), (1.0, -1e4)] {
            let found = decoder(x0, mean, -9.0);
            assert!(found.nats.is_finite() && found.d_mean.is_finite() && found.d_log_variance.is_finite());
        }
    }
}
