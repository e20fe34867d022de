//! Adaptive step sizes. DPM-Solver-12 and -23: Lu et al. 2022, arXiv:2206.00927. The controller is the PID controller of
//! Söderlind 2003, as in Katherine Crowson's `dpm_adaptive`.

use serde::{Deserialize, Serialize};

use crate::{level::Level, lin, predict::Halt, schedule::NoiseSchedule, vector::Vector};

/// The error allowed in a step, and how the controller reacts to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The error allowed in a step, relative to the sample's root mean square.
    pub relative: f64,
    /// The error that is always allowed.
    pub absolute: f64,
    /// Proportional, integral and derivative gains of the controller.
    pub pid: [f64; 3],
    /// The length of the first step, in `lambda`.
    pub first: f64,
}

impl Tolerance {
    /// The tolerance of k-diffusion.
    pub const K_DIFFUSION: Self =
        Self { relative: 0.05, absolute: 0.0078, pid: [0.0, 1.0, 0.0], first: 0.25 };
}

/// Chooses the length of the next step from the last three errors.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct PidController {
    /// The length of the next step.
    h: f64,
    exponents: [f64; 3],
    inverse_errors: Option<[f64; 3]>,
}

impl PidController {
    /// A step that would shrink below this fraction is repeated.
    const ACCEPT: f64 = 0.81;

    /// `order` is the order of the error.
    fn new(h: f64, [p, i, d]: [f64; 3], order: usize) -> Self {
        let order = order as f64;
        let exponents = [(p + i + d) / order, -(p + 2.0 * d) / order, d / order];
        Self { h, exponents, inverse_errors: None }
    }

    /// Records an error, in units of the tolerance, and returns whether the step is accepted.
    fn accepts(&mut self, error: f64) -> bool {
        let inverse = (error + 1e-8).recip();
        let mut errors = self.inverse_errors.unwrap_or([inverse; 3]);
        errors[0] = inverse;
        let factor: f64 = errors.iter().zip(self.exponents).map(|(e, x)| e.powf(x)).product();
        let limited = 1.0 + (factor - 1.0).atan();
        self.h *= limited;
        let accepted = limited >= Self::ACCEPT;
        self.inverse_errors = Some(if accepted { [inverse, inverse, errors[1]] } else { errors });
        accepted
    }
}

/// Maximum number of attempts between two levels of the plan.
const MOST_ATTEMPTS: usize = 100_000;

/// The steps from one level of the plan to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Substeps {
    controller: PidController,
    /// Root mean square of the last step's lower-order result.
    rms: f64,
    attempts: usize,
}

impl Substeps {
    pub fn new<V: Vector>(tolerance: &Tolerance, order: usize, x: &V, from: Level, end: Level) -> Self {
        let first = tolerance.first.min((end.lambda() - from.lambda()).abs());
        Self { controller: PidController::new(first, tolerance.pid, order), rms: x.rms(), attempts: 0 }
    }

    /// The end of the next step from `from`, at most `end`.
    pub fn next(&self, schedule: &dyn NoiseSchedule, from: Level, end: Level) -> Level {
        let left = end.lambda() - from.lambda();
        if self.controller.h >= left.abs() {
            return end;
        }
        schedule.at_lambda(from.lambda() + self.controller.h.copysign(left))
    }

    /// Whether the step with the results `high` and `low`, of the next lower order, is accurate enough.
    ///
    /// # Errors
    /// If the error is not finite, or there are too many steps.
    pub fn accept<V: Vector>(&mut self, tolerance: &Tolerance, low: &V, high: &V) -> Result<bool, Halt> {
        let rms = low.rms();
        let size = rms.max(self.rms);
        let error = lin![1.0 => low, -1.0 => high].rms() / tolerance.absolute.max(tolerance.relative * size);
        if !error.is_finite() {
            return Err(Halt::Failed("the error of an adaptive step is not finite".into()));
        }
        self.attempts += 1;
        if self.attempts > MOST_ATTEMPTS {
            let reason =
                format!("the next level of the plan was not reached after {MOST_ATTEMPTS} adaptive steps");
            return Err(Halt::Failed(reason));
        }
        let accepted = self.controller.accepts(error);
        if accepted {
            self.rms = rms;
        }
        Ok(accepted)
    }
}
