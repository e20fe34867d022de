//! Clamping of the predicted clean sample.

use tweedie_core::{Denoiser, Halt, Level, Prediction, lin};

/// How the predicted clean sample is clamped, and how the predicted noise changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// The range.
    pub range: ClampRange,
    /// Keep the network's `eps`, as DDIM does, instead of recomputing it from the clamped `x0`.
    pub keep_eps: bool,
}

/// The range of a clean sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClampRange {
    /// `-limit..=limit`.
    Static {
        /// The largest magnitude.
        limit: f64,
    },
    /// Dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487): `s` is the `ratio` quantile of a
    /// sample's magnitudes, between 1 and `max`; the sample is clamped to `-s..=s` and divided by `s`.
    Dynamic {
        /// The quantile, in `0..=1`.
        ratio: f64,
        /// The largest `s`.
        max: f64,
    },
}

impl ClampRange {
    /// Clamps one sample.
    pub fn apply(self, x0: &mut [f64]) {
        let (limit, divisor) = match self {
            Self::Static { limit } => (limit, 1.0),
            Self::Dynamic { ratio, max } => {
                let s = quantile(x0, ratio).max(1.0).min(max);
                (s, s)
            }
        };
        x0.iter_mut().for_each(|v| *v = v.max(-limit).min(limit) / divisor);
    }
}

/// The `ratio` quantile of the magnitudes, interpolated linearly.
fn quantile(x: &[f64], ratio: f64) -> f64 {
    let mut sorted: Vec<f64> = x.iter().map(|v| v.abs()).collect();
    sorted.sort_by(f64::total_cmp);
    let position = ratio * sorted.len().saturating_sub(1) as f64;
    let at = |i: usize| sorted.get(i).or(sorted.last()).copied().unwrap_or_default();
    let (low, high) = (at(position.floor() as usize), at(position.floor() as usize + 1));
    low + (high - low) * position.fract()
}

/// A denoiser of one sample whose `x0` is clamped.
pub(super) struct Clamped<'a> {
    pub(super) inner: &'a dyn Denoiser<Vec<f64>>,
    pub(super) clamp: Option<Clamp>,
}

impl Denoiser<Vec<f64>> for Clamped<'_> {
    fn denoise(&self, x: &Vec<f64>, at: Level) -> Result<Prediction<Vec<f64>>, Halt> {
        let mut p = self.inner.denoise(x, at)?;
        if let Some(clamp) = self.clamp {
            clamp.range.apply(&mut p.x0);
            if !clamp.keep_eps && !at.is_clean() {
                p.eps = lin![1.0 / at.sigma => x, -at.alpha / at.sigma => &p.x0];
            }
        }
        Ok(p)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand: magnitudes 0, 1, 2, 3, 4 have their 0.8 quantile at 3.2.
    #[test]
    fn ranges() {
        let mut x = vec![0.0, -1.0, 2.0, -3.0, 4.0];
        ClampRange::Dynamic { ratio: 0.8, max: 10.0 }.apply(&mut x);
        let expected = [0.0, -1.0 / 3.2, 2.0 / 3.2, -3.0 / 3.2, 1.0];
        assert!(x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{x:?}");
        let mut x = vec![-3.0, 0.5];
        ClampRange::Static { limit: 1.0 }.apply(&mut x);
        assert_eq!(x, [-1.0, 0.5]);
        ClampRange::Dynamic { ratio: 1.0, max: 2.0 }.apply(&mut []);
    }
}
