//! Latent diffusion pipelines: from a prompt, a class or noise alone to an image, optionally starting from another image.

mod coding;
mod conditions;
mod guided;
pub mod prompt;
mod weighting;

use std::{
    ops::{ControlFlow, Range},
    path::Path,
    sync::atomic::AtomicBool,
};

use burn::tensor::{Device, Tensor};
use tweedie_core::solver;
use tweedie_data::Image;
use tweedie_hub::{
    LatentClass, LatentModel, LatentNetwork, Lora, Recipe,
    scheduler_config::{PATCH, tokens},
};
use tweedie_models::{Autoencoder, Condition, HostTensor, Network, Precision, params::non_finite};
use tweedie_ops::{Batch, RowNoise, from_host};

use crate::{
    Classes, Event, NoiseOfRows, Output, PipelineError, Request,
    denoiser::Watched,
    guidance::{UNGUIDED, check_unused, checked_scale},
    memory::{self, Needed},
    pipeline::{INITIAL_DRAW, Progress, SeededRows, follow, images, learned_variance, shifted},
    request::CHUNK,
    rows::row_seed,
};
use conditions::Conditions;
use guided::Guided;

/// The draw for an image's noise on the latents of the initial image.
const ENCODING_DRAW: u64 = u64::MAX - 1;

/// The default guidance scale, as in diffusers.
fn default_guidance(class: LatentClass) -> f64 {
    match class {
        LatentClass::StableDiffusion => 7.5,
        LatentClass::StableDiffusionXl => 5.0,
        LatentClass::Dit => 4.0,
        LatentClass::Unconditional => 1.0,
    }
}

/// A latent model on a device, ready to sample.
pub struct LatentPipeline {
    model: LatentModel,
    device: Device,
}

/// A request that has been checked against the model.
pub struct LatentPlan {
    /// Height and width of the images.
    pub size: [usize; 2],
    /// The sampler.
    pub recipe: Recipe,
    guidance: f64,
    rescale: f64,
    chunk: usize,
    conditions: Conditions,
    precision: Precision,
}

impl LatentPlan {
    /// The condition of the network for these images, without guidance.
    pub fn condition(&self, rows: Range<usize>) -> Condition {
        self.conditions.rows(rows).0
    }
}

impl LatentPipeline {
    /// Loads the model in `dir` onto `device`.
    ///
    /// # Errors
    /// Those of [`LatentModel::load`].
    pub fn load(dir: &Path, device: &Device) -> Result<Self, PipelineError> {
        Self::load_with(dir, &[], device)
    }

    /// The same with LoRAs merged into its networks.
    ///
    /// # Errors
    /// Those of [`LatentModel::load_with`].
    pub fn load_with(dir: &Path, loras: &[Lora], device: &Device) -> Result<Self, PipelineError> {
        Ok(Self::of(LatentModel::load_with(dir, loras, device)?, device))
    }

    /// The pipeline of a model that is already on `device`.
    pub fn of(model: LatentModel, device: &Device) -> Self {
        Self { model, device: device.clone() }
    }

    /// The networks.
    pub fn model(&self) -> &LatentModel {
        &self.model
    }

    /// The classes that requests can select.
    pub fn classes(&self) -> Classes<'_> {
        conditions::classes(&self.model)
    }

    fn network(&self) -> &dyn Network {
        match &self.model.network {
            LatentNetwork::UNet(unet) => &**unet,
            LatentNetwork::TextUNet(unet) => &**unet,
            LatentNetwork::Dit(dit) => &**dit,
        }
    }

    /// The network and the autoencoder with `precision`, which [`Self::resolve`] has checked; parameters are shared.
    pub fn held_in(&self, precision: Precision) -> (Box<dyn Network>, Autoencoder) {
        let network: Box<dyn Network> = match &self.model.network {
            LatentNetwork::UNet(unet) => Box::new(unet.clone().with_precision(precision)),
            LatentNetwork::TextUNet(unet) => Box::new(unet.clone().with_precision(precision)),
            LatentNetwork::Dit(dit) => Box::new(dit.clone().with_precision(precision)),
        };
        (network, self.model.autoencoder.clone().with_precision(precision))
    }

    /// Channels of the network's output.
    fn outputs(&self) -> usize {
        match &self.model.network {
            LatentNetwork::UNet(unet) => unet.config().out_channels,
            LatentNetwork::TextUNet(unet) => unet.config().out_channels,
            LatentNetwork::Dit(dit) => dit.config().outputs(),
        }
    }

    /// Whether the network takes the guidance scale as an input.
    fn distilled(&self) -> bool {
        match &self.model.network {
            LatentNetwork::TextUNet(unet) => unet.config().time_cond_proj_dim.is_some(),
            _ => false,
        }
    }

    /// Height and width of the latents that the network was made for.
    fn own_latents(&self) -> Option<[usize; 2]> {
        match &self.model.network {
            LatentNetwork::UNet(unet) => unet.config().sample_size.map(|size| size.dims()),
            LatentNetwork::TextUNet(unet) => unet.config().sample_size.map(|size| size.dims()),
            LatentNetwork::Dit(dit) => Some([dit.config().sample_size; 2]),
        }
    }

    /// A size with the model's own area and about the aspect ratio of an image of the given size, height first, whose sides
    /// the networks support. `None` if the model has no own size or only supports one.
    pub fn size_like(&self, [height, width]: [usize; 2]) -> Option<[usize; 2]> {
        let levels = match &self.model.network {
            LatentNetwork::UNet(unet) => unet.config().block_out_channels.len(),
            LatentNetwork::TextUNet(unet) => unet.config().block_out_channels.len(),
            LatentNetwork::Dit(_) => return None,
        };
        let stride = self.model.autoencoder.stride();
        let own = self.own_latents()?.map(|n| n.saturating_mul(stride));
        if height * own[1] == width * own[0] {
            return Some(own);
        }
        let unit = (stride << levels.saturating_sub(1)) as f64;
        let aspect = (height.max(1) as f64 / width.max(1) as f64).clamp(1.0 / 16.0, 16.0);
        let side = (own[0] as f64 * own[1] as f64).sqrt();
        let round = |n: f64| ((n / unit).round().max(1.0) * unit) as usize;
        Some([round(side * aspect.sqrt()), round(side / aspect.sqrt())])
    }

    /// Checks a request, encodes its prompts and resolves its settings. `image` says whether there is an initial image.
    ///
    /// # Errors
    /// [`PipelineError::Request`] naming the field, or an error of the plan.
    pub fn resolve(&self, request: &Request, image: bool) -> Result<LatentPlan, PipelineError> {
        let fail = PipelineError::request;
        request.checked_count()?;
        request.check_interval()?;
        let size = self.size(request)?;
        let own = &self.model.extras.sampling;
        let guidance = request.guidance.or(own.guidance).unwrap_or(default_guidance(self.model.class));
        let sampling = request.sampling(own);
        let solver = sampling.solver.as_deref().unwrap_or_default();
        let guidance = checked_scale(solver, guidance, request.guidance.is_none())?;
        if guidance != 1.0 && self.model.class == LatentClass::Unconditional {
            return Err(fail("guidance", "this model is unconditional and does not support guidance".into()));
        }
        let rescale = request.guidance_rescale.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&rescale) {
            return Err(fail("guidance_rescale", format!("{rescale}: expected a value in 0..=1")));
        }
        if request.dynamic_threshold.is_some_and(|ratio| !(ratio > 0.0 && ratio <= 1.0)) {
            let ratio = request.dynamic_threshold.unwrap_or_default();
            return Err(fail("dynamic_threshold", format!("{ratio}: expected a value > 0 and ≤ 1")));
        }
        let distilled = self.distilled();
        let guided = guidance != 1.0 && !distilled;
        if !guided {
            let distilled_note = "has no effect: this network takes the guidance scale as an input";
            let fields = [
                ("negative_prompt", request.negative_prompt.as_deref().is_some_and(|text| !text.is_empty())),
                ("guidance_interval", request.guidance_interval.is_some()),
                ("guidance_rescale", rescale > 0.0),
                ("dynamic_threshold", request.dynamic_threshold.is_some()),
            ];
            check_unused(if distilled { distilled_note } else { UNGUIDED }, &fields)?;
        }
        let precision = request.precision.unwrap_or_default();
        precision.check(&self.device).map_err(|e| fail("precision", e))?;
        let [c, h, w] = self.latents_of(size);
        let patch = match &self.model.network {
            LatentNetwork::Dit(dit) => dit.config().patch_size.max(1),
            _ => PATCH,
        };
        let shifted = shifted(&self.model.scheduler, request.mu, tokens([h, w], patch))?;
        let mut recipe = shifted.as_ref().unwrap_or(&self.model.scheduler).resolve_with(&sampling)?;
        learned_variance(&recipe, self.outputs(), c)?;
        match (request.strength, image) {
            (Some(_), false) => return Err(fail("strength", "needs an initial image".into())),
            (strength, true) => recipe = shortened(recipe, strength.unwrap_or(0.8), sampling.steps)?,
            (None, false) => {}
        }
        let mut conditions = conditions::conditions(&self.model, request, size, guided)?;
        conditions.scale = distilled.then_some(guidance as f32);
        let time = recipe.parameterization.scalings(recipe.plan.start).c_noise as f32;
        self.network()
            .check([1, c, h, w], &[time], &conditions.rows(0..1).0)
            .map_err(|e| fail("size", e.to_string()))?;
        let chunk = request.chunk.map_or(CHUNK, std::num::NonZeroUsize::get);
        // Batches share adaptive steps; alone, a sample does not depend on the others.
        let adaptive = solver::find(recipe.solver.name()).is_some_and(|entry| entry.adaptive);
        let chunk = match chunk {
            _ if adaptive || conditions.is_ragged() => 1,
            chunk if guided => (chunk / 2).max(1),
            chunk => chunk,
        };
        let rows = chunk.min(request.count.get()) * if guided { 2 } else { 1 };
        let row = memory::latent_row(&self.model.network, [c, h, w], precision);
        let decoding = self.decoding(request, size, precision);
        Needed { count: request.count.get(), rows, size, row, decoding }.check()?;
        Ok(LatentPlan { size, recipe, guidance, rescale, chunk, conditions, precision })
    }

    /// Channels, height and width of the latents of an image of this size.
    pub fn latents_of(&self, [h, w]: [usize; 2]) -> [usize; 3] {
        let stride = self.model.autoencoder.stride();
        [self.model.autoencoder.latent_channels(), h / stride, w / stride]
    }

    fn size(&self, request: &Request) -> Result<[usize; 2], PipelineError> {
        let stride = self.model.autoencoder.stride();
        let size = match (request.size, self.own_latents()) {
            (Some(size), _) => size,
            (None, Some(latents)) => latents.map(|n| n.saturating_mul(stride)),
            (None, None) => {
                let reason = "the model has no default size, so the request needs one";
                return Err(PipelineError::request("size", reason));
            }
        };
        request.check_size(size)?;
        if size.iter().any(|n| !n.is_multiple_of(stride)) {
            let [h, w] = size;
            let reason = format!(
                "{h}×{w} pixels: expected multiples of {stride}, the downsampling factor of the model"
            );
            return Err(PipelineError::request("size", reason));
        }
        Ok(size)
    }

    /// Runs a request, optionally from given latents of standard deviation 1 (`[count, C, h, w]`), and from `image` if there
    /// is one. `on` receives every step and may stop the run; once `cancelled` is set, it stops within a step.
    ///
    /// # Errors
    /// For a request that does not suit the model, latents or an image of another size, a network whose output is not finite,
    /// or [`PipelineError::Cancelled`].
    pub fn run_from(
        &self,
        request: &Request,
        noise: Option<&HostTensor>,
        image: Option<&Image>,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        let plan = self.resolve(request, image.is_some())?;
        let count = request.count.get();
        let [c, h, w] = self.latents_of(plan.size);
        let shape = [count, c, h, w];
        if let Some(noise) = noise
            && (noise.shape != shape || noise.values.len() != shape.iter().product::<usize>())
        {
            let reason = format!("has shape {:?}, expected {shape:?}", noise.shape);
            return Err(PipelineError::request("noise", reason));
        }
        let (network, vae) = self.held_in(plan.precision);
        let begin = image.map(|image| self.encode(&vae, image, plan.size, request)).transpose()?;
        let steps = plan.recipe.plan.solves();
        let of = steps * count.div_ceil(plan.chunk);
        let mut progress = Progress { done: 0, evals: 0, steps, of };
        let seeds = (0..count as u64).map(|i| row_seed(request.seed, i)).collect();
        let mut source = SeededRows(RowNoise(seeds));
        let mut values = Vec::new();
        for first in (0..count).step_by(plan.chunk) {
            let rows = first..(first + plan.chunk).min(count);
            let start = self.start(&plan, rows.clone(), noise, begin.as_ref(), &mut source);
            let (given, null) = plan.conditions.rows(rows.clone());
            let denoised = Guided {
                network: &*network,
                parameterization: plan.recipe.parameterization,
                given,
                null,
                scale: plan.guidance,
                rescale: plan.rescale,
                interval: request.guidance_interval,
                threshold: request.dynamic_threshold,
            };
            let recipe = &plan.recipe;
            let denoiser = Watched { inner: &denoised, clamp: recipe.clamp, cancelled };
            let x = follow(recipe, &denoiser, start, rows, &mut source, &mut progress, on);
            let x = x.map_err(|e| self.explained(e))?;
            values.extend(self.decode(&vae, x.0, request)?);
        }
        let channels = values.len() / (count * plan.size[0] * plan.size[1]).max(1);
        let tensors = HostTensor { shape: vec![count, channels, plan.size[0], plan.size[1]], values };
        let images = images(&tensors).unwrap_or_default();
        Ok(Output { tensors, images, classes: plan.conditions.classes(), evals: progress.evals })
    }

    /// Adds the cause to the error if a weight is not finite.
    fn explained(&self, error: PipelineError) -> PipelineError {
        let PipelineError::Step { step, of, reason } = error else { return error };
        let weight = match &self.model.network {
            LatentNetwork::UNet(unet) => non_finite(&**unet),
            LatentNetwork::TextUNet(unet) => non_finite(&**unet),
            LatentNetwork::Dit(dit) => non_finite(&**dit),
        };
        let cause = weight.map_or(String::new(), |name| format!(": weight `{name}` is not finite"));
        PipelineError::Step { step, of, reason: reason + &cause }
    }

    /// The sample at the plan's first level.
    fn start(
        &self,
        plan: &LatentPlan,
        rows: Range<usize>,
        noise: Option<&HostTensor>,
        begin: Option<&(Tensor<4>, Option<Tensor<4>>)>,
        source: &mut dyn NoiseOfRows,
    ) -> Batch<4> {
        let [c, h, w] = self.latents_of(plan.size);
        let shape = [rows.len(), c, h, w];
        let eps = match noise {
            Some(noise) => {
                let values = noise.values[rows.start * c * h * w..rows.end * c * h * w].to_vec();
                from_host(values, shape, &self.device)
            }
            None => source.normal(rows.clone(), shape, INITIAL_DRAW, &self.device),
        };
        let Some((mean, logvar)) = begin else {
            return Batch(eps.mul_scalar(plan.recipe.plan.start_std as f32));
        };
        let repeat = |x: &Tensor<4>| Tensor::cat(vec![x.clone(); rows.len()], 0);
        let mut latents = repeat(mean);
        if let Some(logvar) = logvar {
            let draw = source.normal(rows.clone(), shape, ENCODING_DRAW, &self.device);
            latents = latents + repeat(logvar).mul_scalar(0.5f32).exp() * draw;
        }
        let (x0, eps) = (Batch(self.model.autoencoder.scaled(latents)), Batch(eps));
        let level = plan.recipe.plan.start;
        tweedie_core::lin![level.alpha => &x0, level.sigma => &eps]
    }
}

/// The plan without the steps that the initial image replaces.
fn shortened(recipe: Recipe, strength: f64, steps: usize) -> Result<Recipe, PipelineError> {
    let fail = |reason: String| PipelineError::request("strength", reason);
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(fail(format!("{strength}: expected a value > 0 and ≤ 1")));
    }
    let kept = ((steps as f64 * strength) as usize).min(steps);
    if kept == 0 {
        return Err(fail(format!(
            "{strength}: no step remains of {steps}; increase the strength or the steps"
        )));
    }
    recipe.begun_at(steps - kept).map_err(fail)
}
