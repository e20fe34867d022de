//! Compares samplers from the same starting noise with the exact solution of the model's probability-flow ODE.

use std::{ops::Range, sync::atomic::AtomicBool};

use serde::Serialize;
use tweedie_core::{
    Denoiser, Halt, Level, Plan, Prediction, Vector, lin, sample, solver::Bespoke, spacing::Spacing,
};
use tweedie_hub::{Recipe, Sampling, SchedulerConfig};
use tweedie_models::HostTensor;
use tweedie_ops::{Batch, RowNoise, to_host};

use crate::{
    Image, Pipeline, PipelineError, Request, Resolved,
    denoiser::RowsDenoiser,
    pipeline::{INITIAL_DRAW, host, images},
    rows::row_seed,
};

/// Default steps of [`Study::converged`]: about ten times as many as samplers take.
pub const CONVERGED_STEPS: usize = 120;

/// A request whose images are sampled in batches by several samplers.
pub struct Study<'a> {
    pipeline: &'a Pipeline,
    resolved: Resolved,
    /// The scheduler with the shift for the request's size, if it has one.
    shifted: Option<SchedulerConfig>,
    cancelled: &'a AtomicBool,
    batch: usize,
}

impl<'a> Study<'a> {
    /// Creates a study of the request's images. Setting `cancelled` ends it within an evaluation.
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
        let shifted = pipeline.shifted(request, &resolved)?;
        Ok(Self { pipeline, resolved, shifted, cancelled, batch })
    }

    fn scheduler(&self) -> &SchedulerConfig {
        self.shifted.as_ref().unwrap_or(self.pipeline.scheduler())
    }

    /// The request, resolved.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Number of images in one call of the network.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// All images, in batches.
    pub fn batches(&self) -> Vec<Range<usize>> {
        let count = self.resolved.count;
        (0..count).step_by(self.batch).map(|start| start..(start + self.batch).min(count)).collect()
    }

    /// The starting noise, standard normal, `[rows, C, H, W]`.
    pub fn noise(&self, rows: &Range<usize>) -> Batch<4> {
        let [c, h, w] = self.resolved.shape;
        Batch(self.row_noise(rows).tensor([rows.len(), c, h, w], INITIAL_DRAW, self.pipeline.device()))
    }

    fn row_noise(&self, rows: &Range<usize>) -> RowNoise {
        RowNoise(rows.clone().map(|i| row_seed(self.resolved.seed, i as u64)).collect())
    }

    /// The model with the clamp of `recipe` for these images.
    pub fn denoiser(&self, recipe: &Recipe, rows: &Range<usize>) -> impl Denoiser<Batch<4>> + use<'a> {
        RowsDenoiser::new(self.pipeline.unet(), &self.resolved, recipe, rows.clone(), self.cancelled)
    }

    /// The sampler for `ask`.
    ///
    /// # Errors
    /// Like [`SchedulerConfig::resolve_with`](tweedie_hub::SchedulerConfig::resolve_with).
    pub fn recipe(&self, ask: &Sampling) -> Result<Recipe, PipelineError> {
        Ok(self.scheduler().resolve_with(ask)?)
    }

    /// A learned sampler.
    ///
    /// # Errors
    /// If its levels and weights are invalid.
    pub fn bespoke(&self, sampler: &Bespoke) -> Result<Recipe, PipelineError> {
        Ok(self.scheduler().resolve_bespoke(sampler)?)
    }

    /// A solution of the probability-flow ODE with small steps, from the noisiest level to a clean sample.
    ///
    /// # Errors
    /// If the model's schedule does not have enough levels.
    pub fn converged(&self, steps: usize) -> Result<Recipe, PipelineError> {
        let (solver, spacing) = (Some("dpmpp-3m".to_owned()), Some(Spacing::KlOptimal));
        self.recipe(&Sampling { steps, solver, spacing, eta: None })
    }

    /// The results for images that start from `noise` times the plan's standard deviation.
    ///
    /// # Errors
    /// If the model fails.
    pub fn end(
        &self,
        recipe: &Recipe,
        rows: &Range<usize>,
        noise: &Batch<4>,
    ) -> Result<Batch<4>, PipelineError> {
        let start = lin![recipe.plan.start_std => noise];
        self.run(&recipe.plan, recipe, rows, start)
    }

    /// Like [`Study::end`], with the intermediate samples at every `every`-th level of the plan, starting with the first.
    ///
    /// # Errors
    /// If the model fails.
    pub fn way(
        &self,
        recipe: &Recipe,
        rows: &Range<usize>,
        noise: &Batch<4>,
        every: usize,
    ) -> Result<(Vec<Batch<4>>, Batch<4>), PipelineError> {
        let solver = recipe.solver.build::<Batch<4>>();
        let denoiser = self.denoiser(recipe, rows);
        let mut end = lin![recipe.plan.start_std => noise];
        let mut way = vec![end.clone()];
        let mut source = self.row_noise(rows);
        for moment in sample(&recipe.plan, &*solver, &denoiser, end.clone(), &mut source) {
            let moment = moment.map_err(halted)?;
            end = moment.x;
            if moment.index.is_multiple_of(every) && moment.index < moment.of {
                way.push(end.clone());
            }
        }
        Ok((way, end))
    }

    /// Like [`Study::end`], for a given plan and start.
    ///
    /// # Errors
    /// If the model fails.
    pub fn run(
        &self,
        plan: &Plan,
        recipe: &Recipe,
        rows: &Range<usize>,
        start: Batch<4>,
    ) -> Result<Batch<4>, PipelineError> {
        let solver = recipe.solver.build::<Batch<4>>();
        let denoiser = self.denoiser(recipe, rows);
        let end = sample(plan, &*solver, &denoiser, start, &mut self.row_noise(rows)).finish();
        end.map_err(halted)
    }
}

/// Network evaluations of a recipe, counted by running it on values.
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

/// The root mean square difference of each image.
pub fn distances(a: &Batch<4>, b: &Batch<4>) -> Vec<f64> {
    let rows = a.0.dims()[0];
    let differences = to_host(lin![1.0 => a, -1.0 => b].0);
    let each = (differences.len() / rows.max(1)).max(1);
    let square = |v: &f32| f64::from(*v).powi(2);
    differences.chunks(each).map(|row| (row.iter().map(square).sum::<f64>() / each as f64).sqrt()).collect()
}

/// Statistics of the distances of many samples. A few samples that become another image weigh most in the first value
/// and least in the last.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Root mean square over all elements of all samples.
    pub rms: f64,
    /// Mean over samples of their root mean square.
    pub mean: f64,
    /// Median over samples.
    pub median: f64,
}

impl Spread {
    /// Statistics of the samples' root mean squares; NaN if there are none.
    pub fn of(distances: &[f64]) -> Self {
        let count = distances.len() as f64;
        let mut sorted = distances.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = |k: usize| sorted.get(k).copied().unwrap_or(f64::NAN);
        Self {
            rms: (distances.iter().map(|d| d * d).sum::<f64>() / count).sqrt(),
            mean: distances.iter().sum::<f64>() / count,
            median: 0.5 * (middle(sorted.len() / 2) + middle(sorted.len().saturating_sub(1) / 2)),
        }
    }
}

/// The samples as images. Empty if the number of channels does not suit images.
pub fn pictures(x: &Batch<4>) -> Vec<Image> {
    images(&tensor(x)).unwrap_or_default()
}

/// The samples as values.
pub fn tensor(x: &Batch<4>) -> HostTensor {
    host(x.0.clone())
}

pub(crate) fn halted(halt: Halt) -> PipelineError {
    match halt {
        Halt::Cancelled => PipelineError::Cancelled,
        halt => PipelineError::Model { reason: halt.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_of_rows() {
        let device = tweedie_ops::device("cpu").unwrap();
        let batch = |values: &[f32]| Batch(tweedie_ops::from_host(values.to_vec(), [2, 1, 1, 2], &device));
        let rows = distances(&batch(&[0.0, 0.0, 3.0, 4.0]), &batch(&[1.0, -1.0, 3.0, 0.0]));
        assert!((rows[0] - 1.0).abs() < 1e-6 && (rows[1] - 8f64.sqrt()).abs() < 1e-6, "{rows:?}");
        let spread = Spread::of(&[1.0, 7.0, 2.0]);
        assert_eq!((spread.median, spread.rms), (2.0, 18f64.sqrt()));
        assert!((spread.mean - 10.0 / 3.0).abs() < 1e-12);
        assert_eq!(Spread::of(&[1.0, 2.0]).median, 1.5);
        assert!(Spread::of(&[]).rms.is_nan() && Spread::of(&[]).median.is_nan());
    }
}
