//! Encoding images as noise by the inverted probability-flow ODE, and interpolating noise.

use tweedie_core::{Plan, Vector, lin, spacing::Spacing};
use tweedie_hub::{Recipe, Sampling};
use tweedie_ops::Batch;

use crate::{PipelineError, study::Study};

/// A deterministic sampler and its inverse.
pub struct Inversion {
    /// From noise to a clean sample.
    pub down: Recipe,
    /// From the cleanest noise level to noise.
    pub up: Plan,
}

impl Inversion {
    /// Creates both with `steps` steps of a deterministic solver, evenly spaced in the angle `arctan(sigma/alpha)`.
    ///
    /// # Errors
    /// For a solver that is unknown or stochastic, or more steps than the schedule allows.
    pub fn new(study: &Study<'_>, solver: &str, steps: usize) -> Result<Self, PipelineError> {
        let (name, spacing) = (Some(solver.to_owned()), Some(Spacing::KlOptimal));
        let down = study.job().recipe_with(&Sampling { steps, solver: name, spacing, eta: None })?;
        let fail = |reason: String| PipelineError::request("solver", reason);
        let known = tweedie_core::solver::find(solver);
        if known.is_some_and(|entry| !entry.is_deterministic() || entry.is_cfgpp()) {
            return Err(fail(format!(
                "the solver `{solver}` cannot be inverted; expected a deterministic solver"
            )));
        }
        // A network needs a noise level, but a clean image has none: it counts as one at the cleanest level.
        let mut levels: Vec<_> = down.plan.steps().map(|(from, _)| from).collect();
        levels.reverse();
        let up = Plan::through(down.schedule.clone(), &levels).map_err(|e| fail(e.to_string()))?;
        Ok(Self { down, up })
    }

    /// The noise that the rows of `x0` come from, with a nominal standard deviation of 1. The rows are the first
    /// ones of the study.
    ///
    /// # Errors
    /// If the model fails.
    pub fn encode(&self, study: &Study<'_>, x0: &Batch) -> Result<Batch, PipelineError> {
        let rows = 0..x0.len();
        let start = lin![self.up.start.alpha => x0];
        let noise = study.run(&self.up, &self.down, &rows, start)?;
        Ok(lin![1.0 / self.down.plan.start_std => &noise])
    }

    /// The images that come from `noise`.
    ///
    /// # Errors
    /// If the model fails.
    pub fn decode(&self, study: &Study<'_>, noise: &Batch) -> Result<Batch, PipelineError> {
        study.end(&self.down, &(0..noise.len()), noise)
    }
}

/// Spherical interpolation from `a` to `b` at `share` in 0..1: the result is as likely a normal sample as both. Linear if
/// they almost coincide. Shoemake 1985.
pub fn slerp<V: Vector>(a: &V, b: &V, share: f64) -> V {
    let (la, lb) = (a.dot(a).sqrt(), b.dot(b).sqrt());
    let cosine = if la > 0.0 && lb > 0.0 { (a.dot(b) / (la * lb)).clamp(-1.0, 1.0) } else { 1.0 };
    let angle = cosine.acos();
    if angle.sin() < 1e-6 {
        return lin![1.0 - share => a, share => b];
    }
    let length = (1.0 - share) * la + share * lb;
    let part = |share: f64, own: f64| (share * angle).sin() / angle.sin() * length / own;
    lin![part(1.0 - share, la) => a, part(share, lb) => b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slerp_turns_evenly_and_keeps_lengths() {
        let (a, b) = (vec![2.0, 0.0], vec![0.0, 4.0]);
        for (share, degrees, length) in
            [(0.0, 0.0f64, 2.0), (0.25, 22.5, 2.5), (0.5, 45.0, 3.0), (1.0, 90.0, 4.0)]
        {
            let c: Vec<f64> = slerp(&a, &b, share);
            let (sin, cos) = degrees.to_radians().sin_cos();
            assert!(
                (c[0] - length * cos).abs() < 1e-12 && (c[1] - length * sin).abs() < 1e-12,
                "{share}: {c:?}"
            );
        }
        assert_eq!(slerp(&a, &a, 0.3), a);
    }
}
