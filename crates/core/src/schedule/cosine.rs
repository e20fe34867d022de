//! The continuous cosine schedule, variance preserving. Salimans & Ho 2022, arXiv:2202.00512;
//! the shift for larger images is that of Hoogeboom et al. 2023, arXiv:2301.11093, eq. 5.

use std::f64::consts::FRAC_PI_2;

use super::{Axis, NoiseSchedule, ScheduleError, Times, check};
use crate::level::Level;

/// `sigma/alpha = scale·tan(π·r/2)` with `r = t/time_scale`: for `scale = 1`, `alpha = cos(π·r/2)` and
/// `sigma = sin(π·r/2)`. Ends in pure noise, `alpha = 0`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CosineSchedule {
    scale: f64,
    time_scale: f64,
}

impl CosineSchedule {
    /// Times in `0..=1`, unscaled.
    pub fn new() -> Self {
        Self { scale: 1.0, time_scale: 1.0 }
    }

    /// Multiplies every noise-to-signal ratio. The paper's shift from images of side `d0` to side `d`
    /// is `scale = d/d0`. `scale > 0`.
    pub fn with_scale(self, scale: f64) -> Result<Self, ScheduleError> {
        check(scale > 0.0 && scale.is_finite(), "scale", scale, "a finite number > 0")?;
        Ok(Self { scale, ..self })
    }

    /// Times in `0..=time_scale`, for networks that get `1000·t`.
    pub fn with_time_scale(self, time_scale: f64) -> Result<Self, ScheduleError> {
        check(time_scale > 0.0 && time_scale.is_finite(), "time_scale", time_scale, "a finite number > 0")?;
        Ok(Self { time_scale, ..self })
    }
}

impl Default for CosineSchedule {
    fn default() -> Self {
        Self::new()
    }
}

impl NoiseSchedule for CosineSchedule {
    fn level(&self, t: f64) -> Level {
        let t = t.clamp(0.0, self.time_scale);
        // tan(π/2) is finite in floating point, but pure noise is meant.
        let nsr = if t == self.time_scale {
            f64::INFINITY
        } else {
            self.scale * (FRAC_PI_2 * t / self.time_scale).tan()
        };
        Level::variance_preserving(nsr, t)
    }

    fn at_nsr(&self, nsr: f64) -> Level {
        Level::variance_preserving(nsr, self.time_scale * ((nsr / self.scale).atan() / FRAC_PI_2))
    }

    fn times(&self) -> Times {
        Times::Interval { min: 0.0, max: self.time_scale }
    }

    fn axis(&self) -> Axis {
        Axis::Flow
    }
}
