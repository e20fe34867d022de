//! Forward processes, which map times to noise [`Level`]s.

mod cosine;
mod edm;
mod flow;
mod table;
mod ve;

use std::fmt::Debug;

use crate::{level::Level, lin, predict::Prediction, vector::Vector};

pub use cosine::CosineSchedule;
pub use edm::EdmSchedule;
pub use flow::FlowSchedule;
pub use table::{Interpolation, TableSchedule, rescale_zero_terminal_snr};
pub use ve::VeSchedule;

/// The coordinates in which Runge–Kutta methods integrate the probability-flow ODE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// `y = x/alpha` over `u = sigma/alpha`, where `dy/du = eps`.
    Nsr,
    /// `y = x/(alpha+sigma)` over `u = sigma/(alpha+sigma)`, where `dy/du = eps − x0`: finite where
    /// `alpha = 0`.
    Flow,
}

impl Axis {
    /// `x / y`.
    pub fn scale(self, at: Level) -> f64 {
        match self {
            Self::Nsr => at.alpha,
            Self::Flow => at.alpha + at.sigma,
        }
    }

    /// The coordinate `u` of a level.
    pub fn coordinate(self, at: Level) -> f64 {
        at.sigma / self.scale(at)
    }

    /// The noise-to-signal ratio at coordinate `u`.
    pub fn nsr(self, u: f64) -> f64 {
        match self {
            Self::Nsr => u,
            Self::Flow => u / (1.0 - u),
        }
    }

    /// `dy/du`, the right-hand side of the probability-flow ODE.
    pub fn slope<V: Vector>(self, p: &Prediction<V>) -> V {
        match self {
            Self::Nsr => p.eps.clone(),
            Self::Flow => lin![1.0 => &p.eps, -1.0 => &p.x0],
        }
    }
}

/// The times of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times {
    /// A table: `t = 0, 1, …, steps − 1`, noisier as `t` grows. Fractional `t` interpolate.
    Table {
        /// Number of entries.
        steps: usize,
    },
    /// All times in an interval, noisier as `t` grows.
    Interval {
        /// The cleanest time.
        min: f64,
        /// The noisiest time.
        max: f64,
    },
}

impl Times {
    /// Whether the times are entries of a table.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Table { .. })
    }

    /// The cleanest time.
    pub fn min(self) -> f64 {
        match self {
            Self::Table { .. } => 0.0,
            Self::Interval { min, .. } => min,
        }
    }

    /// The noisiest time.
    pub fn max(self) -> f64 {
        match self {
            Self::Table { steps } => steps as f64 - 1.0,
            Self::Interval { max, .. } => max,
        }
    }
}

/// A forward process.
pub trait NoiseSchedule: Debug + Send + Sync {
    /// The level at time `t`, clamped to the schedule's range. `level(level(t).t) == level(t)`.
    fn level(&self, t: f64) -> Level;

    /// The level with `sigma/alpha = nsr`, in `0..=∞`, for stages between grid points. Its `alpha` and `sigma`
    /// are exact even outside the schedule's range, where `t` is clamped.
    fn at_nsr(&self, nsr: f64) -> Level;

    /// The times on which the schedule is defined.
    fn times(&self) -> Times;

    /// The coordinates in which Runge–Kutta methods integrate.
    fn axis(&self) -> Axis {
        Axis::Nsr
    }

    /// The level with `ln(alpha/sigma) = lambda`, the inverse of [`Level::lambda`]. `at_lambda(lambda).t` is the
    /// time of the log-SNR `2·lambda`.
    fn at_lambda(&self, lambda: f64) -> Level {
        self.at_nsr((-lambda).exp())
    }
}

/// Why a schedule cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// A table without entries.
    #[error("a noise schedule needs at least one step, got 0")]
    Empty,
    /// A beta outside `0 < beta < 1`; only the last may be 1.
    #[error("betas[{index}] = {value}: expected 0 < beta < 1 (the last may be 1)")]
    Beta {
        /// Index of the entry.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// Products of alphas that do not decrease strictly within `0..1`.
    #[error(
        "alphas_cumprod[{index}] = {value}: expected strictly decreasing values below 1 (the last may be 0)"
    )]
    AlphaBar {
        /// Index of the entry.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// A table too short to be rescaled to zero terminal SNR.
    #[error("rescaling to zero terminal SNR needs at least two steps, got {steps}")]
    TooShort {
        /// Number of steps in the table.
        steps: usize,
    },
    /// A parameter outside its range.
    #[error("{name} = {value}: expected {expected}")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The allowed range.
        expected: &'static str,
    },
}

fn check(ok: bool, name: &'static str, value: f64, expected: &'static str) -> Result<(), ScheduleError> {
    if ok { Ok(()) } else { Err(ScheduleError::Parameter { name, value, expected }) }
}
