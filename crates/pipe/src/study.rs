//! Compares samplers from the same starting noise with the exact solution of the model's probability-flow ODE.

use std::{ops::Range, sync::atomic::AtomicBool};

use serde::Serialize;
use tweedie_core::{Halt, Level, Plan, Prediction, Vector, lin, sample, spacing::Spacing};
use tweedie_hub::{Recipe, Sampling};
use tweedie_ops::Batch;

use crate::{Inputs, Job, Pipeline, PipelineError, Request, job::RowsDenoiser};

/// Default steps of [`Study::converged`]: about ten times as many as samplers take.
pub const CONVERGED_STEPS: usize = 120;

/// A job whose images are sampled in batches by several samplers.
pub struct Study<'a> {
    job: Job,
    cancelled: &'a AtomicBool,
}

impl<'a> Study<'a> {
    /// Creates a study of the request's images. Setting `cancelled` ends it within an evaluation.
    ///
    /// # Errors
    /// If the request does not suit the model.
    pub fn new(
        pipeline: &Pipeline,
        request: &Request,
        cancelled: &'a AtomicBool,
    ) -> Result<Self, PipelineError> {
        Ok(Self { job: pipeline.prepared(request, Inputs::default(), true)?, cancelled })
    }

    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The starting noise, standard normal.
    pub fn noise(&self, rows: &Range<usize>) -> Batch {
        self.job.initial_noise(rows.clone())
    }

    /// The model with the clamp of `recipe` for these images.
    pub fn denoiser<'b>(&'b self, recipe: &'b Recipe, rows: &Range<usize>) -> RowsDenoiser<'b> {
        self.job.denoiser(recipe, rows.clone(), self.cancelled)
    }

    /// A solution of the probability-flow ODE with small steps, from the noisiest level to a clean sample.
    ///
    /// # Errors
    /// If the model's schedule does not have enough levels.
    pub fn converged(&self, steps: usize) -> Result<Recipe, PipelineError> {
        let (solver, spacing) = (Some("dpmpp-3m".to_owned()), Some(Spacing::KlOptimal));
        self.job.recipe_with(&Sampling { steps, solver, spacing, eta: None })
    }

    /// The results for images that start from `noise` times the plan's standard deviation.
    ///
    /// # Errors
    /// If the model fails.
    pub fn end(&self, recipe: &Recipe, rows: &Range<usize>, noise: &Batch) -> Result<Batch, PipelineError> {
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
        noise: &Batch,
        every: usize,
    ) -> Result<(Vec<Batch>, Batch), PipelineError> {
        let solver = recipe.solver.build::<Batch>();
        let denoiser = self.denoiser(recipe, rows);
        let mut end = lin![recipe.plan.start_std => noise];
        let mut way = vec![end.clone()];
        let mut source = self.job.fresh(rows.clone());
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
        start: Batch,
    ) -> Result<Batch, PipelineError> {
        let solver = recipe.solver.build::<Batch>();
        let denoiser = self.denoiser(recipe, rows);
        let mut source = self.job.fresh(rows.clone());
        sample(plan, &*solver, &denoiser, start, &mut source).finish().map_err(halted)
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
pub fn distance(a: &Batch, b: &Batch) -> f64 {
    lin![1.0 => a, -1.0 => b].rms()
}

/// The root mean square difference of each image.
pub fn distances(a: &Batch, b: &Batch) -> Vec<f64> {
    let rows = a.len();
    let differences = lin![1.0 => a, -1.0 => b].to_host();
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
        let batch = |values: &[f32]| Batch::from_host(values.to_vec(), 2, &[1, 1, 2].into(), &device);
        let rows = distances(&batch(&[0.0, 0.0, 3.0, 4.0]), &batch(&[1.0, -1.0, 3.0, 0.0]));
        assert!((rows[0] - 1.0).abs() < 1e-6 && (rows[1] - 8f64.sqrt()).abs() < 1e-6, "{rows:?}");
        let spread = Spread::of(&[1.0, 7.0, 2.0]);
        assert_eq!((spread.median, spread.rms), (2.0, 18f64.sqrt()));
        assert!((spread.mean - 10.0 / 3.0).abs() < 1e-12);
        assert_eq!(Spread::of(&[1.0, 2.0]).median, 1.5);
        assert!(Spread::of(&[]).rms.is_nan() && Spread::of(&[]).median.is_nan());
    }
}
