//! Adaptive steps: a solver that also estimates its error, and a controller that makes each step as long as a
//! tolerance allows. DPM-Solver-12 and -23: Lu et al. 2022, arXiv:2206.00927; the controller is the
//! PID of Söderlind 2003, as in Katherine Crowson's `dpm_adaptive`.

use super::{DpmSinglestep, Solver};
use crate::{
    level::Level,
    lin,
    predict::{Halt, Prediction},
    trajectory::Step,
    vector::Vector,
};

/// A solver that estimates the error of its step.
pub trait Embedded<V: Vector>: Solver<V> {
    /// The result at `to` of the next lower order, and the result, from `x` at `from` with its answer `p`. Both
    /// levels are finite in `lambda`.
    fn pair(
        &self,
        s: &mut Step<'_, V>,
        x: &V,
        p: &Prediction<V>,
        from: Level,
        to: Level,
    ) -> Result<(V, V), Halt>;
}

impl<V: Vector> Embedded<V> for DpmSinglestep {
    fn pair(
        &self,
        s: &mut Step<'_, V>,
        x: &V,
        p: &Prediction<V>,
        from: Level,
        to: Level,
    ) -> Result<(V, V), Halt> {
        DpmSinglestep::pair(self, s, x, p, from, to)
    }
}

/// Chooses the next step's length from the errors of the last three.
#[derive(Clone, Copy, Debug)]
pub struct PidController {
    /// The length of the next step.
    pub h: f64,
    exponents: [f64; 3],
    inverse_errors: Option<[f64; 3]>,
}

impl PidController {
    /// A step shrunk below this share of itself is taken again.
    const ACCEPT: f64 = 0.81;

    /// With gains for the error now, summed up, and changing; `order` of the error.
    pub fn new(h: f64, [p, i, d]: [f64; 3], order: usize) -> Self {
        let order = order as f64;
        let exponents = [(p + i + d) / order, -(p + 2.0 * d) / order, d / order];
        Self { h, exponents, inverse_errors: None }
    }

    /// Takes note of an error, in units of the tolerance; whether the step is good enough.
    pub fn accepts(&mut self, error: f64) -> bool {
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

/// Takes as many steps from each level of the plan to the next as the tolerance asks for. The plan need only
/// hold the noisiest level and the cleanest one that is not free of noise.
///
/// The error is measured over the whole vector: rows of a batch share their steps, so that a sample depends on
/// its batch-mates.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive<S> {
    /// The solver.
    pub solver: S,
    /// The error allowed for a step, as a share of the sample's root mean square.
    pub relative: f64,
    /// The error always allowed.
    pub absolute: f64,
    /// The controller's gains.
    pub pid: [f64; 3],
    /// The length of the first step, in `lambda`.
    pub first: f64,
}

impl<S> Adaptive<S> {
    /// With k-diffusion's tolerances.
    pub const fn new(solver: S) -> Self {
        Self { solver, relative: 0.05, absolute: 0.0078, pid: [0.0, 1.0, 0.0], first: 0.25 }
    }
}

/// More steps than this have lost their way.
const MOST_STEPS: usize = 100_000;

impl<V: Vector, S: Embedded<V>> Solver<V> for Adaptive<S> {
    fn order(&self) -> usize {
        self.solver.order()
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let mut p = s.predict()?;
        if !s.is_finite() {
            return Ok(lin![s.to.alpha => &p.x0, s.to.sigma => &p.eps]);
        }
        let end = s.to.lambda();
        let (mut x, mut at, mut before) = (s.x.clone(), s.from, s.x.rms());
        let first = self.first.min((end - at.lambda()).abs());
        let mut controller = PidController::new(first, self.pid, self.solver.order());
        for _ in 0..MOST_STEPS {
            let left = end - at.lambda();
            let last = controller.h >= left.abs();
            let to =
                if last { s.to } else { s.schedule().at_lambda(at.lambda() + controller.h.copysign(left)) };
            let (low, high) = self.solver.pair(s, &x, &p, at, to)?;
            let size = low.rms().max(before);
            let error = lin![1.0 => &low, -1.0 => &high].rms() / self.absolute.max(self.relative * size);
            if !error.is_finite() {
                return Err(Halt::Failed("the error of an adaptive step is not finite".into()));
            }
            if controller.accepts(error) {
                if last {
                    return Ok(high);
                }
                (x, at, before) = (high, to, low.rms());
                p = s.predict_at(&x, at)?;
            }
        }
        let (from, to) = (s.from.nsr(), s.to.nsr());
        Err(Halt::Failed(format!("{MOST_STEPS} adaptive steps do not lead from noise {from} to {to}")))
    }
}
