//! Noise levels: `x = alpha·x0 + sigma·eps`.

use serde::{Deserialize, Serialize};

/// One noise level of a forward process, `x = alpha·x0 + sigma·eps` with `eps ~ N(0, I)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Coefficient of the clean sample, in `0..=1` for variance-preserving and flow processes.
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub sigma: f64,
    /// The timestep passed to the network: a table index, a time in `0..=1`, or a noise level.
    pub t: f64,
}

impl Level {
    /// The level without noise, where sampling ends.
    pub const CLEAN: Level = Level { alpha: 1.0, sigma: 0.0, t: 0.0 };

    /// The variance-preserving level (`alpha² + sigma² = 1`) with `sigma/alpha = nsr`, which may be zero or
    /// infinite.
    pub fn variance_preserving(nsr: f64, t: f64) -> Self {
        Self { alpha: 1.0 / nsr.hypot(1.0), sigma: 1.0 / nsr.recip().hypot(1.0), t }
    }

    /// Log of the amplitude ratio, `ln(alpha / sigma)`: half the log-SNR. Increases as noise decreases; infinite
    /// if `sigma` or `alpha` is zero.
    pub fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// Noise-to-signal ratio `sigma / alpha`, Karras' sigma. Infinite if `alpha` is zero.
    pub fn nsr(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Signal-to-noise ratio `alpha² / sigma²`.
    pub fn snr(self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }

    /// Whether the level has no noise.
    pub fn is_clean(self) -> bool {
        self.sigma == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variance_preserving_is_finite_at_both_ends() {
        let clean = Level::variance_preserving(0.0, 0.0);
        assert_eq!((clean.alpha, clean.sigma), (1.0, 0.0));
        let noise = Level::variance_preserving(f64::INFINITY, 1.0);
        assert_eq!((noise.alpha, noise.sigma), (0.0, 1.0));
        let half = Level::variance_preserving(0.75, 0.0);
        assert!((half.alpha - 0.8).abs() < 1e-15 && (half.sigma - 0.6).abs() < 1e-15);
    }
}
