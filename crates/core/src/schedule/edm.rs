//! EDM: `x = x0 + sigma·eps`, with the noise level itself as the time. Karras et al. 2022,
//! arXiv:2206.00364.

use super::{NoiseSchedule, ScheduleError, Times, check};
use crate::level::Level;

/// `alpha = 1`, `sigma = t`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EdmSchedule {
    sigma_min: f64,
    sigma_max: f64,
}

impl EdmSchedule {
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

impl Default for EdmSchedule {
    /// 0.002 to 80, as in the paper's table 1.
    fn default() -> Self {
        Self { sigma_min: 0.002, sigma_max: 80.0 }
    }
}

impl NoiseSchedule for EdmSchedule {
    fn level(&self, t: f64) -> Level {
        self.at_nsr(t.clamp(self.sigma_min, self.sigma_max))
    }

    fn at_nsr(&self, nsr: f64) -> Level {
        Level { alpha: 1.0, sigma: nsr, t: nsr }
    }

    fn times(&self) -> Times {
        Times::Interval { min: self.sigma_min, max: self.sigma_max }
    }
}
