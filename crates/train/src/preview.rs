//! Samples during training, with the run's own network and schedule.

use std::sync::Arc;

use burn::tensor::Device;
use tweedie_core::{
    Denoiser, Halt, Level, NoiseSchedule, Plan, Prediction, Solver, lin, sample, schedule::Times, solver,
    spacing::Spacing,
};
use tweedie_data::Image;
use tweedie_models::{Condition, NetworkDenoiser};
use tweedie_ops::{Batch, RowNoise};

use crate::{
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, key},
    model::TrainModel,
};

/// Draws `run.preview_images` samples with about `run.preview_steps` network evaluations each, always from the same noise.
/// With classes, sample `i` has class `i mod classes`.
pub(crate) fn samples(
    config: &RunConfig,
    model: &TrainModel,
    classes: Option<usize>,
    device: &Device,
) -> Result<Vec<Image>, TrainError> {
    let run = &config.run;
    let schedule = config.diffusion.schedule()?;
    let (plan, solver) = plan(schedule, config.diffusion.shift, run.preview_steps)?;
    let (size, channels) = (config.data.size, config.data.channels);
    let mut images = Vec::with_capacity(run.preview_images);
    for start in (0..run.preview_images).step_by(run.batch) {
        let rows: Vec<usize> = (start..(start + run.batch).min(run.preview_images)).collect();
        let condition = match classes {
            Some(k) => Condition::classes(rows.iter().map(|i| i % k.max(1)).collect()),
            None => Condition::default(),
        };
        let network = NetworkDenoiser::new(&model.unet, config.parameterization(), condition);
        let seeds = rows.iter().map(|&i| key(run.seed, Purpose::Preview, i as u64)).collect();
        let mut noise = RowNoise(seeds);
        // The draws of a plan start at 0.
        let x = noise.tensor([rows.len(), channels, size, size], u64::MAX, device).mul_scalar(plan.start_std);
        let x = sample(&plan, &*solver, &Clamped(network), Batch(x), &mut noise).finish()?;
        let data = x.0.into_data().convert::<f32>();
        let values = data.as_slice::<f32>().unwrap_or_default();
        if !values.iter().all(|v| v.is_finite()) {
            return Err(Halt::Failed("the network's output is not finite".into()).into());
        }
        let rows = values.chunks_exact(channels * size * size);
        images.extend(rows.map(|v| Image::from_planes(size, size, &v.repeat(3 / channels))));
    }
    Ok(images)
}

pub(crate) type BoxedSolver = Box<dyn Solver<Batch<4>>>;

/// A plan with about this many network evaluations.
pub(crate) fn plan(
    schedule: Arc<dyn NoiseSchedule>,
    shift: f64,
    evaluations: usize,
) -> Result<(Plan, BoxedSolver), TrainError> {
    let noisiest = schedule.level(schedule.times().max());
    let (spacing, name, steps) = match schedule.times() {
        // At pure noise, a multistep solver has no step size.
        Times::Table { .. } if noisiest.alpha == 0.0 => (Spacing::Trailing, "ddim", evaluations),
        Times::Table { .. } => (Spacing::Trailing, "dpmpp-2m", evaluations),
        _ if noisiest.alpha == 0.0 => (Spacing::Shifted { shift }, "heun", evaluations.div_ceil(2)),
        _ => (Spacing::Karras { rho: 7.0 }, "heun", evaluations.div_ceil(2)),
    };
    let steps = match schedule.times() {
        Times::Table { steps: most } => steps.min(most),
        _ => steps,
    };
    let wrong = |e: &dyn std::fmt::Display| {
        TrainError::config("run.preview_steps", evaluations, format!("a valid number of steps: {e}"))
    };
    let mut levels = spacing.levels(&*schedule, steps).map_err(|e| wrong(&e))?;
    levels.push(Level::CLEAN);
    let plan = Plan::through(schedule, &levels).map_err(|e| wrong(&e))?;
    let solver = solver::solver(name).ok_or_else(|| wrong(&name))?;
    Ok((plan, solver))
}

/// Clamps predicted images to -1..1.
struct Clamped<D>(D);

impl<D: Denoiser<Batch<4>>> Denoiser<Batch<4>> for Clamped<D> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let Prediction { x0, eps, null_eps, variance } = self.0.denoise(x, at)?;
        let clamped = Batch(x0.0.clone().clamp(-1.0, 1.0));
        // eps' = (x - alpha·x0')/sigma, written as a correction, so that it is exact where nothing was clamped.
        let shift = at.alpha / at.sigma;
        let eps = lin![1.0 => &eps, shift => &x0, -shift => &clamped];
        Ok(Prediction { x0: clamped, eps, null_eps, variance })
    }
}
