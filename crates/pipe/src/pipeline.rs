//! The sampling run.

use std::{
    ops::{ControlFlow, Range},
    path::Path,
    sync::atomic::AtomicBool,
};

use burn::tensor::{DType, Device, Tensor, TensorData};
use tweedie_core::{Denoiser, Halt, Level, Move, noise::Noise, sample, solver};
use tweedie_data::Image;
use tweedie_hub::{
    Extras, HubError, ModelDir, Recipe, SchedulerConfig,
    scheduler_config::{PATCH, TUNED, tokens},
};
use tweedie_models::{Condition, HostTensor, Network, UNet2DModel};
use tweedie_ops::{Batch, RowNoise};

use crate::{
    Classes, PipelineError, Request, Resolved,
    denoiser::RowsDenoiser,
    memory::{Needed, unet_row},
    rows::row_seed,
};

/// The draw for an image's initial noise; a trajectory's own draws start at 0.
pub(crate) const INITIAL_DRAW: u64 = u64::MAX;

/// A model on a device, ready to sample.
pub struct Pipeline {
    unet: UNet2DModel,
    scheduler: SchedulerConfig,
    extras: Extras,
    device: Device,
}

/// Progress of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step is finished.
    Step {
        /// Number of finished steps, over all images.
        index: usize,
        /// Number of all steps.
        of: usize,
        /// Network evaluations so far.
        evals: usize,
        /// The images that took this step.
        rows: Range<usize>,
        /// The step of the plan, counted from 1.
        step: usize,
        /// The noise level after the step.
        level: Level,
        /// The current samples.
        preview: Preview<'a>,
    },
}

/// The samples during a run, only read from the device when needed.
#[derive(Debug)]
pub struct Preview<'a> {
    x: &'a Batch<4>,
    x0: &'a Batch<4>,
    level: Level,
}

impl Preview<'_> {
    /// The clean samples predicted in this step, `[rows, C, H, W]`.
    pub fn x0(&self) -> HostTensor {
        host(self.x0.0.clone())
    }

    /// The noisy samples, `[rows, C, H, W]`.
    pub fn x(&self) -> HostTensor {
        host(self.x.0.clone())
    }

    /// The predicted clean samples as images. Empty if the number of channels does not suit images.
    pub fn x0_images(&self) -> Vec<Image> {
        images(&self.x0()).unwrap_or_default()
    }

    /// The noisy samples; those of variance-exploding processes are scaled into range.
    pub fn x_in_range(&self) -> HostTensor {
        let scale = 1.0 / self.level.alpha.hypot(self.level.sigma).max(1.0);
        let mut x = self.x();
        x.values.iter_mut().for_each(|v| *v *= scale as f32);
        x
    }

    /// [`Self::x_in_range`] as images.
    pub fn x_images(&self) -> Vec<Image> {
        images(&self.x_in_range()).unwrap_or_default()
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Output {
    /// The samples, `[count, C, H, W]`, nominally in `-1..=1` but not clamped.
    pub tensors: HostTensor,
    /// The samples as images. Empty if the number of channels does not suit images.
    pub images: Vec<Image>,
    /// The class of each image, if the model has classes.
    pub classes: Option<Vec<usize>>,
    /// Network evaluations, summed over chunks.
    pub evals: usize,
}

impl Pipeline {
    /// Loads the model in `dir` onto `device`.
    ///
    /// # Errors
    /// If a file is missing, damaged or not supported, or the folder has no scheduler.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, PipelineError> {
        Self::load_variant(dir, None, device)
    }

    /// The same with one variant of the weights, for example `fp16`.
    ///
    /// # Errors
    /// Those of [`Self::load`], and if there is no such variant.
    pub fn load_variant(dir: &Path, variant: Option<&str>, device: &Device) -> Result<Self, PipelineError> {
        let mut folder = ModelDir::open(dir)?;
        folder.variant = variant.map(str::to_owned);
        let scheduler = folder.scheduler.take().ok_or_else(|| HubError::Format {
            path: dir.into(),
            reason: "scheduler_config.json is missing".into(),
        })?;
        let unet = folder.load_unet(device)?;
        Ok(Self::from_parts(unet, scheduler, folder.extras, device))
    }

    /// A pipeline of parts in memory; `unet` must be on `device`.
    pub fn from_parts(
        unet: UNet2DModel,
        scheduler: SchedulerConfig,
        extras: Extras,
        device: &Device,
    ) -> Self {
        Self { unet, scheduler, extras, device: device.clone() }
    }

    /// The pipeline's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The network.
    pub fn unet(&self) -> &UNet2DModel {
        &self.unet
    }

    /// The scheduler's configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Class names and defaults.
    pub fn extras(&self) -> &Extras {
        &self.extras
    }

    /// The classes that requests can select.
    pub fn classes(&self) -> Classes<'_> {
        let count = self.unet.config().num_class_embeds.unwrap_or(0);
        Classes { count, names: &self.extras.class_names, listed: false }
    }

    /// Checks a request without running it, and returns its resolved settings and the sampler.
    ///
    /// # Errors
    /// [`PipelineError::Request`] naming the field, or an error of the plan.
    pub fn resolve(&self, request: &Request) -> Result<(Resolved, Recipe), PipelineError> {
        let resolved = request.resolve(self.unet.config(), &self.extras)?;
        resolved.precision.check(&self.device).map_err(|e| PipelineError::request("precision", e))?;
        let recipe = self.recipe(request, &resolved)?;
        learned_variance(&recipe, self.unet.config().out_channels, resolved.shape[0])?;
        let [c, h, w] = resolved.shape;
        let time = recipe.parameterization.scalings(recipe.plan.start).c_noise as f32;
        let condition = match &resolved.classes {
            Some(classes) => Condition::classes(classes[..1].to_vec()),
            None => Condition::default(),
        };
        self.unet
            .check([1, c, h, w], &[time], &condition)
            .map_err(|e| PipelineError::request("size", e.to_string()))?;
        let config = self.unet.config();
        let layers = |_| config.layers_per_block;
        let row = unet_row(&config.block_out_channels, layers, false, resolved.shape, resolved.precision);
        let guided = if resolved.scale_for(recipe.solver.name()) == 1.0 { 1 } else { 2 };
        let rows = resolved.chunk.min(resolved.count.saturating_mul(guided));
        Needed { count: resolved.count, rows, size: [h, w], row, decoding: 0 }.check()?;
        Ok((resolved, recipe))
    }

    /// The learned sampler for this request, if the request does not choose a solver or chooses it; otherwise the requested
    /// sampler.
    fn recipe(&self, request: &Request, resolved: &Resolved) -> Result<Recipe, PipelineError> {
        let shifted = self.shifted(request, resolved)?;
        let scheduler = shifted.as_ref().unwrap_or(&self.scheduler);
        let steps = resolved.sampling.steps;
        let named = request.solver.as_deref() == Some(TUNED);
        let open = request.solver.is_none() && request.spacing.is_none() && request.eta.is_none();
        let tuned = (open && !request.untuned || named)
            .then(|| self.extras.tuned(steps, resolved.scale_for(TUNED)))
            .flatten()
            .filter(|_| resolved.guidance_interval.is_none());
        match tuned {
            Some(tuned) => Ok(scheduler.resolve_bespoke(&tuned.sampler)?),
            None if named => Err(PipelineError::request("solver", self.no_tuned(resolved))),
            None => Ok(scheduler.resolve_with(&resolved.sampling)?),
        }
    }

    /// The scheduler with the shift for the request's size, or the requested shift; `None` if it has none.
    pub(crate) fn shifted(
        &self,
        request: &Request,
        resolved: &Resolved,
    ) -> Result<Option<SchedulerConfig>, PipelineError> {
        let [_, height, width] = resolved.shape;
        shifted(&self.scheduler, request.mu, tokens([height, width], PATCH))
    }

    fn no_tuned(&self, resolved: &Resolved) -> String {
        let all = self.extras.tuned.iter();
        let known: Vec<_> =
            all.map(|t| format!("{} at guidance {}", t.sampler.evaluations(), t.guidance)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!(
            "this model has no learned sampler (`{TUNED}`) for {} evaluations at guidance {} on all noise levels; available: {known}",
            resolved.sampling.steps,
            resolved.scale_for(TUNED)
        )
    }

    /// Runs a request. `on` receives every step and may stop the run.
    ///
    /// # Errors
    /// For a request that does not suit the model, a network whose output is not finite, or [`PipelineError::Cancelled`] if
    /// `on` stops the run.
    pub fn run(
        &self,
        request: &Request,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        self.run_from(request, None, &AtomicBool::new(false), on)
    }

    /// Like [`Self::run`], optionally from given initial noise `[count, C, H, W]` of standard deviation 1, and stopping within
    /// a step once `cancelled` is set.
    ///
    /// # Errors
    /// Those of [`Self::run`], and if the noise has another shape.
    pub fn run_from(
        &self,
        request: &Request,
        noise: Option<&HostTensor>,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        let (resolved, _) = self.resolve(request)?;
        let seeds = (0..resolved.count as u64).map(|i| row_seed(resolved.seed, i)).collect();
        self.run_with(request, noise, &mut SeededRows(RowNoise(seeds)), cancelled, on)
    }

    /// Like [`Self::run_from`], with a custom source of noise: `rows` returns the fresh noise of a range of images.
    ///
    /// # Errors
    /// Those of [`Self::run_from`].
    pub fn run_with(
        &self,
        request: &Request,
        noise: Option<&HostTensor>,
        rows: &mut dyn NoiseOfRows,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        let (resolved, recipe) = self.resolve(request)?;
        let [c, h, w] = resolved.shape;
        let shape = [resolved.count, c, h, w];
        if let Some(noise) = noise
            && (noise.shape != shape || noise.values.len() != shape.iter().product::<usize>())
        {
            let reason = format!("has shape {:?}, expected {shape:?}", noise.shape);
            return Err(PipelineError::request("noise", reason));
        }
        let guided = resolved.scale_for(recipe.solver.name()) != 1.0;
        // Batches share adaptive steps; alone, a sample does not depend on the others.
        let adaptive = solver::find(recipe.solver.name()).is_some_and(|entry| entry.adaptive);
        let chunk = match resolved.chunk {
            _ if adaptive => 1,
            chunk if guided => (chunk / 2).max(1),
            chunk => chunk,
        };
        let mut progress = Progress {
            done: 0,
            evals: 0,
            steps: recipe.plan.solves(),
            of: recipe.plan.solves() * resolved.count.div_ceil(chunk),
        };
        let mut values = Vec::with_capacity(shape.iter().product());
        for start in (0..resolved.count).step_by(chunk) {
            let range = start..(start + chunk).min(resolved.count);
            let x = self.run_rows(&resolved, &recipe, range, noise, rows, cancelled, &mut progress, on)?;
            values.extend(host(x.0).values);
        }
        let tensors = HostTensor { shape: shape.to_vec(), values };
        let images = images(&tensors).unwrap_or_default();
        Ok(Output { tensors, images, classes: resolved.classes, evals: progress.evals })
    }

    #[allow(clippy::too_many_arguments)]
    fn run_rows(
        &self,
        resolved: &Resolved,
        recipe: &Recipe,
        rows: Range<usize>,
        noise: Option<&HostTensor>,
        source: &mut dyn NoiseOfRows,
        cancelled: &AtomicBool,
        progress: &mut Progress,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Batch<4>, PipelineError> {
        let [c, h, w] = resolved.shape;
        let shape = [rows.len(), c, h, w];
        let start = match noise {
            Some(noise) => {
                let values = noise.values[rows.start * c * h * w..rows.end * c * h * w].to_vec();
                Tensor::from_data(TensorData::new(values, shape), (&self.device, DType::F32))
            }
            None => source.normal(rows.clone(), shape, INITIAL_DRAW, &self.device),
        };
        let start = Batch(start.mul_scalar(recipe.plan.start_std as f32));

        let denoiser = RowsDenoiser::new(&self.unet, resolved, recipe, rows.clone(), cancelled);
        follow(recipe, &denoiser, start, rows, source, progress, on)
    }
}

/// The scheduler with the shift for this number of tokens, or the requested shift; `None` if it has none.
pub(crate) fn shifted(
    scheduler: &SchedulerConfig,
    mu: Option<f64>,
    tokens: usize,
) -> Result<Option<SchedulerConfig>, PipelineError> {
    match mu {
        Some(mu) => {
            let shifted = scheduler.again()?.with_mu(mu);
            shifted.map(Some).map_err(|e| PipelineError::request("mu", e.to_string()))
        }
        None => Ok(scheduler.of_tokens(tokens)?),
    }
}

/// Checks whether the network predicts the variance that the solver needs.
pub(crate) fn learned_variance(
    recipe: &Recipe,
    outputs: usize,
    channels: usize,
) -> Result<(), PipelineError> {
    if recipe.solver.name() != "ddpm-learned" || outputs == 2 * channels {
        return Ok(());
    }
    let reason = format!(
        "`ddpm-learned` needs a network with a learned variance ({} output channels for {channels} input channels); this \
         network has {outputs}. Use `ddpm` instead",
        2 * channels
    );
    Err(PipelineError::request("solver", reason))
}

/// Runs a trajectory of some images from `start`.
pub(crate) fn follow(
    recipe: &Recipe,
    denoiser: &dyn Denoiser<Batch<4>>,
    start: Batch<4>,
    rows: Range<usize>,
    source: &mut dyn NoiseOfRows,
    progress: &mut Progress,
    on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Batch<4>, PipelineError> {
    let mut fresh = |like: &Batch<4>, draw: u64| {
        Batch(source.normal(rows.clone(), like.0.dims(), draw, &like.0.device()))
    };
    let solver = recipe.solver.build::<Batch<4>>();
    let mut x = start.clone();
    let mut x0 = None;
    let (mut step, mut evals) = (0, 0);
    let fresh: &mut dyn Noise<Batch<4>> = &mut fresh;
    let mut trajectory = sample(&recipe.plan, &*solver, denoiser, start, fresh);
    let moves = &recipe.plan.moves;
    for (i, this) in moves.iter().enumerate() {
        let Some(moment) = trajectory.next() else { break };
        let moment = moment.map_err(|halt| match halt {
            Halt::Cancelled => PipelineError::Cancelled,
            halt => PipelineError::Step { step: step + 1, of: progress.steps, reason: halt.to_string() },
        })?;
        step += usize::from(matches!(this, Move::Solve(_)));
        progress.evals += moment.evals - evals;
        evals = moment.evals;
        x0 = moment.x0.or(x0);
        x = moment.x;
        // Fresh noise and relabelling after a solver's move belong to the same step.
        if let (Some(x0), None | Some(Move::Solve(_))) = (&x0, moves.get(i + 1)) {
            progress.done += 1;
            let event = Event::Step {
                index: progress.done,
                of: progress.of,
                evals: progress.evals,
                rows: rows.clone(),
                step,
                level: moment.level,
                preview: Preview { x: &x, x0, level: moment.level },
            };
            if on(event).is_break() {
                return Err(PipelineError::Cancelled);
            }
        }
    }
    Ok(x)
}

pub(crate) struct Progress {
    pub(crate) done: usize,
    pub(crate) evals: usize,
    pub(crate) steps: usize,
    pub(crate) of: usize,
}

/// Fresh noise for images of a request.
pub trait NoiseOfRows {
    /// A standard normal of `shape = [rows, C, H, W]` for draw number `draw` of each of these images.
    fn normal(&mut self, rows: Range<usize>, shape: [usize; 4], draw: u64, device: &Device) -> Tensor<4>;
}

pub(crate) struct SeededRows(pub(crate) RowNoise);

impl NoiseOfRows for SeededRows {
    fn normal(&mut self, rows: Range<usize>, shape: [usize; 4], draw: u64, device: &Device) -> Tensor<4> {
        RowNoise(self.0.0[rows].to_vec()).tensor(shape, draw, device)
    }
}

pub(crate) fn host(x: Tensor<4>) -> HostTensor {
    let shape = x.dims().to_vec();
    HostTensor { shape, values: x.into_data().iter::<f32>().collect() }
}

/// Converts `[B, 3, H, W]` or, for grey images, `[B, 1, H, W]` to images; `None` for other channels.
pub(crate) fn images(x: &HostTensor) -> Option<Vec<Image>> {
    let &[_, channels, height, width] = &*x.shape else { return None };
    let repeated = match channels {
        3 => 1,
        1 => 3,
        _ => return None,
    };
    let rows = x.values.chunks_exact((channels * height * width).max(1));
    Some(rows.map(|row| Image::from_planes(width, height, &row.repeat(repeated))).collect())
}
