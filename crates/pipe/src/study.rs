//! The same starts through several samplers, held against where the model's probability-flow ODE ends.

use std::{ops::Range, sync::atomic::AtomicBool};

use tweedie_core::{Denoiser, Halt, Level, Plan, Prediction, Vector, lin, sample, spacing::Spacing};
use tweedie_hub::{Recipe, Sampling};
use tweedie_models::HostTensor;
use tweedie_ops::{Batch, RowNoise};

use crate::{
    Image, Pipeline, PipelineError, Request, Resolved,
    denoiser::RowsDenoiser,
    pipeline::{INITIAL_DRAW, host, images},
    rows::row_seed,
};

/// Steps of [`Study::converged`], if nothing else is asked for: some ten times as many as samplers take.
pub const CONVERGED_STEPS: usize = 120;

/// A request whose rows go through samplers in batches.
pub struct Study<'a> {
    pipeline: &'a Pipeline,
    resolved: Resolved,
    cancelled: &'a AtomicBool,
    batch: usize,
}

impl<'a> Study<'a> {
    /// A study of the request's rows; setting `cancelled` ends it within an evaluation.
    ///
    /// # Errors
    /// If the request does not suit the model.
    pub fn new(
        pipeline: &'a Pipeline,
        request: &Request,
        cancelled: &'a AtomicBool,
    ) -> Result<Self, PipelineError> {
        let (resolved, _) = pipeline.resolve(request)?;
        let batch = if resolved.guidance == 1.0 { resolved.chunk } else { (resolved.chunk / 2).max(1) };
        Ok(Self { pipeline, resolved, cancelled, batch })
    }

    /// The request, resolved.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Rows that one call of the network takes.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// All rows, in batches.
    pub fn batches(&self) -> Vec<Range<usize>> {
        let count = self.resolved.count;
        (0..count).step_by(self.batch).map(|start| start..(start + self.batch).min(count)).collect()
    }

    /// The standard normal from which rows start, `[rows, C, H, W]`.
    pub fn noise(&self, rows: &Range<usize>) -> Batch<4> {
        let [c, h, w] = self.resolved.shape;
        let seeds = rows.clone().map(|i| row_seed(self.resolved.seed, i as u64)).collect();
        Batch(RowNoise(seeds).tensor([rows.len(), c, h, w], INITIAL_DRAW, self.pipeline.device()))
    }

    /// The model under the clamp of `recipe` for these rows.
    pub fn denoiser(&self, recipe: &Recipe, rows: &Range<usize>) -> impl Denoiser<Batch<4>> + use<'a> {
        RowsDenoiser::new(self.pipeline.unet(), &self.resolved, recipe, rows.clone(), self.cancelled)
    }

    /// The sampler `ask`ed for.
    ///
    /// # Errors
    /// As [`SchedulerConfig::resolve_with`](tweedie_hub::SchedulerConfig::resolve_with).
    pub fn recipe(&self, ask: &Sampling) -> Result<Recipe, PipelineError> {
        Ok(self.pipeline.scheduler().resolve_with(ask)?)
    }

    /// A fine solution of the probability-flow ODE, from the noisiest level to a clean sample.
    ///
    /// # Errors
    /// If the model's schedule has not as many levels.
    pub fn converged(&self, steps: usize) -> Result<Recipe, PipelineError> {
        let (solver, spacing) = (Some("dpmpp-3m".to_owned()), Some(Spacing::KlOptimal));
        self.recipe(&Sampling { steps, solver, spacing, eta: None })
    }

    /// Where the rows end that start from `noise`, times the plan's standard deviation.
    ///
    /// # Errors
    /// If the model halts.
    pub fn end(
        &self,
        recipe: &Recipe,
        rows: &Range<usize>,
        noise: &Batch<4>,
    ) -> Result<Batch<4>, PipelineError> {
        let start = lin![recipe.plan.start_std => noise];
        self.run(&recipe.plan, recipe, rows, start)
    }

    /// As [`Study::end`], for a plan and a start of the caller's own.
    ///
    /// # Errors
    /// If the model halts.
    pub fn run(
        &self,
        plan: &Plan,
        recipe: &Recipe,
        rows: &Range<usize>,
        start: Batch<4>,
    ) -> Result<Batch<4>, PipelineError> {
        let solver = recipe.solver.build::<Batch<4>>();
        let seeds = rows.clone().map(|i| row_seed(self.resolved.seed, i as u64)).collect();
        let denoiser = self.denoiser(recipe, rows);
        let end = sample(plan, &*solver, &denoiser, start, &mut RowNoise(seeds)).finish();
        end.map_err(halted)
    }
}

/// Network evaluations of a recipe, counted on numbers.
pub fn evaluations(recipe: &Recipe) -> Result<usize, Halt> {
    let asked = std::cell::Cell::new(0);
    let model = |x: &f64, at: Level| {
        asked.set(asked.get() + 1);
        let x0 = 0.5 * x / at.alpha.hypot(at.sigma);
        let eps = if at.is_clean() { 0.0 } else { (x - at.alpha * x0) / at.sigma };
        Prediction::new(x0, eps)
    };
    let solver = recipe.solver.build::<f64>();
    sample(&recipe.plan, &*solver, &model, 1.0, &mut |_: &f64, _: u64| 0.5).finish()?;
    Ok(asked.get())
}

/// The root mean square difference over all elements.
pub fn distance(a: &Batch<4>, b: &Batch<4>) -> f64 {
    lin![1.0 => a, -1.0 => b].rms()
}

/// Rows as pictures. Empty where the channels are not those of a picture.
pub fn pictures(x: &Batch<4>) -> Vec<Image> {
    images(&tensor(x)).unwrap_or_default()
}

/// Rows as numbers.
pub fn tensor(x: &Batch<4>) -> HostTensor {
    host(x.0.clone())
}

pub(crate) fn halted(halt: Halt) -> PipelineError {
    match halt {
        Halt::Cancelled => PipelineError::Cancelled,
        Halt::Failed(reason) => PipelineError::Model { reason },
    }
}
