//! Rectified flow: `x = (1 − s)·x0 + s·eps`. Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023,
//! arXiv:2210.02747. The shift is that of Esser et al. 2024, arXiv:2403.03206, section 5.3.2.

use super::{Axis, NoiseSchedule, ScheduleError, Times, check};
use crate::{level::Level, spacing};

/// `alpha = 1 − s`, `sigma = s`, where `s = shift·r / (1 + (shift − 1)·r)` and `r = t/time_scale`.
///
/// The network gets `t` before the shift. For networks that get the shifted noise level, leave the shift at 1
/// here and shift the times instead ([`spacing::shift`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowSchedule {
    shift: f64,
    time_scale: f64,
}

impl FlowSchedule {
    /// Times in `0..=1`, no shift.
    pub fn new() -> Self {
        Self { shift: 1.0, time_scale: 1.0 }
    }

    /// Shifts times towards noisy (`shift > 1`) or clean levels. `shift > 0`.
    pub fn with_shift(self, shift: f64) -> Result<Self, ScheduleError> {
        check(shift > 0.0 && shift.is_finite(), "shift", shift, "a finite number > 0")?;
        Ok(Self { shift, ..self })
    }

    /// Times in `0..=time_scale`, for networks that get `1000·t`.
    pub fn with_time_scale(self, time_scale: f64) -> Result<Self, ScheduleError> {
        check(time_scale > 0.0 && time_scale.is_finite(), "time_scale", time_scale, "a finite number > 0")?;
        Ok(Self { time_scale, ..self })
    }
}

impl Default for FlowSchedule {
    fn default() -> Self {
        Self::new()
    }
}

impl NoiseSchedule for FlowSchedule {
    fn level(&self, t: f64) -> Level {
        let t = t.clamp(0.0, self.time_scale);
        let sigma = spacing::shift(t / self.time_scale, self.shift);
        Level { alpha: 1.0 - sigma, sigma, t }
    }

    fn at_nsr(&self, nsr: f64) -> Level {
        let sigma = 1.0 / (1.0 + nsr.recip());
        let t = self.time_scale * spacing::shift(sigma, self.shift.recip());
        Level { alpha: 1.0 / (1.0 + nsr), sigma, t }
    }

    fn times(&self) -> Times {
        Times::Interval { min: 0.0, max: self.time_scale }
    }

    fn axis(&self) -> Axis {
        Axis::Flow
    }
}
