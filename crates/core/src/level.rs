//! Noise levels: `x = alpha·x0 + sigma·eps`.

/// One noise level of a forward process, `x = alpha·x0 + sigma·eps` with `eps ~ N(0, I)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Coefficient of the clean sample, in `0..=1` for variance-preserving and flow processes.
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub sigma: f64,
    /// What the network is told: a table index, a time in `0..=1`, or a noise level.
    pub t: f64,
}

impl Level {
    /// A noise-free level, where sampling ends.
    pub const CLEAN: Level = Level { alpha: 1.0, sigma: 0.0, t: 0.0 };

    /// Log of the amplitude ratio, `ln(alpha / sigma)`: half the log-SNR. Grows as noise falls;
    /// infinite where `sigma` or `alpha` is zero.
    pub fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// Noise-to-signal ratio `sigma / alpha`: Karras' sigma.
    pub fn nsr(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Signal-to-noise ratio `alpha² / sigma²`.
    pub fn snr(self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }

    /// Whether no noise is left.
    pub fn is_clean(self) -> bool {
        self.sigma == 0.0
    }
}
