//! Samples during training: jobs of the sampling pipeline with the run's own networks and schedule.

use std::{ops::Range, sync::Arc};

use burn::tensor::Device;
use tweedie_core::{NoiseSchedule, schedule::Times, spacing::Spacing};
use tweedie_data::Image;
use tweedie_ops::{Batch, RowNoise, SampleShape};
use tweedie_pipe::{Inputs, NoiseOfRows, Pipeline, Request};

use crate::{
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, key},
};

/// Makes `run.preview_images` samples with about `run.preview_steps` network evaluations each, always from the same noise.
/// `asked` says which conditions they have.
pub(crate) fn samples(
    config: &RunConfig,
    pipeline: &Pipeline,
    asked: Request,
) -> Result<Vec<Image>, TrainError> {
    let run = &config.run;
    let Some(count) = run.preview_images.try_into().ok() else { return Ok(Vec::new()) };
    let (solver, spacing, steps) = sampler(&*config.diffusion.schedule()?, run.preview_steps);
    let request = Request {
        count,
        steps: steps.try_into().ok(),
        solver: Some(solver.to_owned()),
        spacing,
        chunk: run.batch.try_into().ok(),
        precision: Some(run.precision),
        ..asked
    };
    let inputs = Inputs { draws: Some(Arc::new(PreviewNoise(run.seed))), ..Inputs::default() };
    let never = std::sync::atomic::AtomicBool::new(false);
    let job = pipeline.prepare_with(&request, inputs)?;
    Ok(job.run(&never, &mut |_| std::ops::ControlFlow::Continue(()))?.images)
}

/// Solver, spacing and steps for about this many network evaluations; without a spacing, the scheduler's own.
fn sampler(schedule: &dyn NoiseSchedule, evaluations: usize) -> (&'static str, Option<Spacing>, usize) {
    let noisiest = schedule.level(schedule.times().max());
    match schedule.times() {
        // At pure noise, a multistep solver has no step size.
        Times::Table { steps } if noisiest.alpha == 0.0 => {
            ("ddim", Some(Spacing::Trailing), evaluations.min(steps))
        }
        Times::Table { steps } => ("dpmpp-2m", Some(Spacing::Trailing), evaluations.min(steps)),
        Times::Interval { .. } => ("heun", None, evaluations.div_ceil(2)),
    }
}

/// The noise of previews, which does not change during a run.
struct PreviewNoise(u64);

impl NoiseOfRows for PreviewNoise {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        RowNoise(rows.map(|row| key(self.0, Purpose::Preview, row as u64)).collect())
            .batch(shape, draw, device)
    }
}
