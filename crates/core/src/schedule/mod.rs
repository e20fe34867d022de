//! Forward processes: which [`Level`] belongs to which time.

use crate::level::Level;

/// The coordinates in which Runge–Kutta methods integrate the probability-flow ODE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// `y = x/alpha` over `u = sigma/alpha`.
    Nsr,
    /// `y = x/(alpha+sigma)` over `u = sigma/(alpha+sigma)`: finite where `alpha = 0`.
    Flow,
}

/// The times of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times {
    /// A table: `t = 0, 1, …, steps − 1`, noisier as `t` grows. Fractional `t` interpolate.
    Table {
        /// How many.
        steps: usize,
    },
    /// Any time of an interval, noisier as `t` grows.
    Interval {
        /// The cleanest time.
        min: f64,
        /// The noisiest time.
        max: f64,
    },
}

/// A forward process.
pub trait NoiseSchedule: Send + Sync {
    /// The level at time `t`, clamped to the schedule's range.
    fn level(&self, t: f64) -> Level;

    /// The level whose `sigma/alpha` is `nsr`, for stages between grid points.
    fn at_nsr(&self, nsr: f64) -> Level;

    /// Which times exist.
    fn times(&self) -> Times;

    /// Where Runge–Kutta methods integrate.
    fn axis(&self) -> Axis {
        Axis::Nsr
    }
}
