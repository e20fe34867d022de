//! The result of a configuration: everything that sampling needs except the network and the noise.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tweedie_core::{
    Level, NoiseSchedule, Parameterization, Plan, Solver, Vector, solver::AnySolver, spacing::Spacing,
};

use super::Clamp;

/// A forward process and the network's prediction type.
#[derive(Clone, Debug)]
pub struct Process {
    /// The noise levels.
    pub schedule: Arc<dyn NoiseSchedule>,
    /// The meaning of the network's output.
    pub parameterization: Parameterization,
}

/// How to sample. `None` means the model's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Number of solver steps, at least 1.
    pub steps: usize,
    /// A name or alias of [`SOLVERS`](tweedie_core::solver::SOLVERS).
    #[serde(default)]
    pub solver: Option<String>,
    /// Which noise levels to visit.
    #[serde(default)]
    pub spacing: Option<Spacing>,
    /// Amount of fresh noise, from 0 (none) to 1 (as in the reversed diffusion).
    #[serde(default)]
    pub eta: Option<f64>,
}

impl Sampling {
    /// The model's own sampler with `steps` steps.
    pub fn steps(steps: usize) -> Self {
        Self { steps, solver: None, spacing: None, eta: None }
    }
}

/// The scale of the sample in a diffusers scheduler, relative to `x = alpha·x0 + sigma·eps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleScale {
    /// `x` itself.
    #[default]
    Level,
    /// `x/alpha = x0 + sigma/alpha·eps`, in Euler's scheduler and related ones, which divide it by
    /// `sqrt(sigma²/alpha² + 1)` for the network.
    OverAlpha,
}

impl SampleScale {
    /// The scheduler's sample divided by `x`.
    pub fn factor(self, at: Level) -> f64 {
        match self {
            Self::Level => 1.0,
            Self::OverAlpha => 1.0 / at.alpha,
        }
    }
}

/// A solver with its options and name.
#[derive(Clone, Debug)]
pub struct SolverChoice {
    pub(super) name: &'static str,
    pub(super) evaluations: usize,
    pub(super) solver: AnySolver,
    /// Whether it is the class's own with its options, which begins at a later step as in diffusers.
    pub(super) own: bool,
}

impl SolverChoice {
    /// Its name, which is in [`SOLVERS`](tweedie_core::solver::SOLVERS) if it has no further options.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Network evaluations per step.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Creates the solver for one kind of sample.
    pub fn build<V: Vector + 'static>(&self) -> Box<dyn Solver<V>> {
        self.solver.build()
    }
}

/// Everything that sampling needs except the network and the noise.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The forward process.
    pub schedule: Arc<dyn NoiseSchedule>,
    /// The meaning of the network's output.
    pub parameterization: Parameterization,
    /// The noise levels to visit.
    pub plan: Plan,
    /// The solver.
    pub solver: SolverChoice,
    /// How `x0` is clamped.
    pub clamp: Option<Clamp>,
    /// The scale of the scheduler's sample relative to `plan`'s.
    pub scale: SampleScale,
}

impl Recipe {
    /// The same without its first `step` steps, like diffusers' `set_begin_index` in image-to-image pipelines. The sample must
    /// then be at the level of the new start.
    ///
    /// # Errors
    /// If no step remains.
    pub fn begun_at(mut self, step: usize) -> Result<Self, String> {
        let begun = if self.solver.own {
            self.solver.solver.begun_at(&self.plan, step)
        } else {
            let solver = self.solver.solver.clone();
            self.plan.clone().begun_at(step).map(|plan| (plan, solver))
        };
        let Some((plan, solver)) = begun else {
            let steps = self.plan.solves();
            return Err(format!("begin = {step}: expected a value below the number of steps, {steps}"));
        };
        (self.plan, self.solver.solver) = (plan, solver);
        Ok(self)
    }
}
