//! Variance exploding: `x = x0 + sigma·eps` with geometric noise levels. Song et al. 2021,
//! arXiv:2011.13456, appendix C.

use super::{NoiseSchedule, ScheduleError, Times, check};
use crate::level::Level;

/// `alpha = 1`, `sigma = sigma_min·(sigma_max/sigma_min)^t` for `t` in `0..=1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VeSchedule {
    sigma_min: f64,
    sigma_max: f64,
}

impl VeSchedule {
    /// Noise levels from `sigma_min` to `sigma_max`, `0 < sigma_min < sigma_max < ∞`.
    pub fn new(sigma_min: f64, sigma_max: f64) -> Result<Self, ScheduleError> {
        check(sigma_min > 0.0, "sigma_min", sigma_min, "sigma_min > 0")?;
        check(
            sigma_max > sigma_min && sigma_max.is_finite(),
            "sigma_max",
            sigma_max,
            "sigma_min < sigma_max < ∞",
        )?;
        Ok(Self { sigma_min, sigma_max })
    }
}

impl Default for VeSchedule {
    /// 0.01 to 1348, diffusers' defaults.
    fn default() -> Self {
        Self { sigma_min: 0.01, sigma_max: 1348.0 }
    }
}

impl NoiseSchedule for VeSchedule {
    fn level(&self, t: f64) -> Level {
        let t = t.clamp(0.0, 1.0);
        Level { alpha: 1.0, sigma: self.sigma_min * (self.sigma_max / self.sigma_min).powf(t), t }
    }

    fn at_nsr(&self, nsr: f64) -> Level {
        let t = (nsr / self.sigma_min).ln() / (self.sigma_max / self.sigma_min).ln();
        Level { alpha: 1.0, sigma: nsr, t: t.clamp(0.0, 1.0) }
    }

    fn times(&self) -> Times {
        Times::Interval { min: 0.0, max: 1.0 }
    }
}
