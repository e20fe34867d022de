//! A model on a device: checks requests and turns them into jobs.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;
use tweedie_core::solver;
use tweedie_data::{Image, ImageFacts, image_facts, open_sized};
use tweedie_hub::{
    Extras, HubError, Lora, Model, OriginalCheckpoint, Recipe, SafetensorsFile, SchedulerConfig,
    scheduler_config::{TUNED, tokens},
};
use tweedie_models::{Autoencoder, HostTensor, Network, TensorSource};

use crate::{
    Classes, PipelineError, Request,
    coding::{decoding_bytes, samples_of},
    conditions,
    file::{LoraFile, RecordedFile},
    guidance::{self, Guidance, UNGUIDED, check_unused, checked_scale},
    job::{Job, NoiseOfRows, SeededRows},
    memory::Needed,
    request::CHUNK,
    run::{Event, Output},
};

/// A model on a device, ready to sample: pixels, latents or other media, unconditional, by class or by text.
pub struct Pipeline {
    model: Arc<Model>,
    device: Device,
    loras: Vec<LoraFile>,
}

/// Inputs of a request that are in memory instead of in files.
#[derive(Clone, Default)]
pub struct Inputs {
    /// The initial image, of the size of the result.
    pub image: Option<Image>,
    /// The initial noise, `[count, C, …]` with a standard deviation of 1.
    pub noise: Option<HostTensor>,
    /// Another source of fresh noise than the request's seed.
    pub draws: Option<Arc<dyn NoiseOfRows>>,
}

/// How a model is loaded from files.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions<'a> {
    /// The variant of the weights in a folder, for example `fp16`.
    pub variant: Option<&'a str>,
    /// LoRAs to merge, with their scales.
    pub loras: &'a [LoraFile],
    /// The folder of the tokenizer of a single-file checkpoint; by default beside it.
    pub tokenizer: Option<&'a Path>,
    /// What the network of a single-file checkpoint predicts; by default as its file says.
    pub prediction: Option<tweedie_hub::Prediction>,
}

impl Pipeline {
    /// Loads the model at `path`, a folder or a single-file checkpoint, onto `device`.
    ///
    /// # Errors
    /// If a file is missing, damaged or not supported, or the folder has no scheduler.
    pub fn load(path: &Path, device: &Device) -> Result<Self, PipelineError> {
        Self::load_with(path, &LoadOptions::default(), device)
    }

    /// The same with options.
    ///
    /// # Errors
    /// Those of [`Self::load`], and if an option does not suit the model.
    pub fn load_with(path: &Path, options: &LoadOptions<'_>, device: &Device) -> Result<Self, PipelineError> {
        options.loras.iter().try_for_each(|lora| lora.file.check())?;
        let loras: Vec<Lora> = (options.loras.iter())
            .map(|lora| Lora::open(&lora.file.path, lora.scale))
            .collect::<Result<_, HubError>>()?;
        let unsuitable = |reason: &str| HubError::Format { path: path.into(), reason: reason.into() };
        let mut model = if path.is_file() {
            if options.variant.is_some() {
                return Err(unsuitable("a single-file checkpoint has no variants").into());
            }
            let checkpoint = OriginalCheckpoint::open(path, options.prediction)?;
            Model::load_original(&checkpoint, options.tokenizer, &loras, device)?
        } else {
            if options.tokenizer.is_some() || options.prediction.is_some() {
                let reason = "a folder contains its tokenizer and says what the network predicts; these options are \
                              only supported for single-file checkpoints";
                return Err(unsuitable(reason).into());
            }
            Model::load_variant(path, options.variant, &loras, device)?
        };
        for lora in &loras {
            let remarks = lora.remarks().iter().map(|remark| format!("{}: {remark}", lora.path().display()));
            model.remarks.extend(remarks);
        }
        Ok(Self { loras: options.loras.to_vec(), ..Self::of(model, device) })
    }

    /// The pipeline of a model that is already on `device`.
    pub fn of(model: Model, device: &Device) -> Self {
        Self { model: Arc::new(model), device: device.clone(), loras: Vec::new() }
    }

    /// The pipeline of a network without autoencoder and text encoders; it must be on `device`.
    pub fn of_network(
        network: impl Network + 'static,
        scheduler: SchedulerConfig,
        extras: Extras,
        device: &Device,
    ) -> Self {
        Self::of(Model::of_network(Box::new(network), scheduler, extras), device)
    }

    /// The components.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The pipeline's device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The network that denoises.
    pub fn network(&self) -> &dyn Network {
        &*self.model.network
    }

    /// The scheduler's configuration.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.model.scheduler
    }

    /// Class names and defaults.
    pub fn extras(&self) -> &Extras {
        &self.model.extras
    }

    /// The classes that requests can select.
    pub fn classes(&self) -> Classes<'_> {
        conditions::classes(&self.model)
    }

    /// Whether requests need a prompt.
    pub fn reads_texts(&self) -> bool {
        self.model.reads_texts()
    }

    fn autoencoder(&self) -> Option<&Autoencoder> {
        self.model.autoencoder.as_ref()
    }

    /// Pixels per latent, along an axis.
    fn stride(&self) -> usize {
        self.autoencoder().map_or(1, Autoencoder::stride)
    }

    /// The size of the media that the model was made for.
    pub fn native_size(&self) -> Option<Vec<usize>> {
        let native = self.model.network.spec().native?;
        Some(native.iter().map(|n| n.saturating_mul(self.stride())).collect())
    }

    /// A size with the model's own area and about the aspect ratio of an image of the given size, height first, whose sides
    /// the networks support. `None` if the model has no own size or only supports one.
    pub fn size_like(&self, [height, width]: [usize; 2]) -> Option<Vec<usize>> {
        let spec = self.model.network.spec();
        let own = self.native_size()?;
        let &[own_height, own_width] = &*own else { return None };
        if spec.fixed {
            return None;
        }
        if height * own_width == width * own_height {
            return Some(own);
        }
        let unit = (self.stride() * spec.multiple) as f64;
        let aspect = (height.max(1) as f64 / width.max(1) as f64).clamp(1.0 / 16.0, 16.0);
        let side = (own_height as f64 * own_width as f64).sqrt();
        let round = |n: f64| ((n / unit).round().max(1.0) * unit) as usize;
        Some(vec![round(side * aspect.sqrt()), round(side / aspect.sqrt())])
    }

    fn size(&self, request: &Request, image: Option<&RecordedFile>) -> Result<Vec<usize>, PipelineError> {
        let fail = |reason: String| PipelineError::request("size", reason);
        let like = match (image, &request.size) {
            (Some(file), None) => {
                let ImageFacts { width, height, .. } =
                    image_facts(&file.path).map_err(|e| PipelineError::request("image", e.to_string()))?;
                self.size_like([height, width])
            }
            _ => None,
        };
        let size = request.size.clone().or(like).or_else(|| self.native_size());
        let size =
            size.ok_or_else(|| fail("the model has no default size, so the request needs one".into()))?;
        let axes = self.model.network.spec().axes;
        if size.len() != axes {
            return Err(fail(format!("{size:?}: expected {axes} numbers, one for each axis of a sample")));
        }
        request.check_size(&size)?;
        let stride = self.stride();
        if size.iter().any(|n| !n.is_multiple_of(stride)) {
            let sides: Vec<_> = size.iter().map(usize::to_string).collect();
            return Err(fail(format!(
                "{} pixels: expected multiples of {stride}, the downsampling factor of the model",
                sides.join("×")
            )));
        }
        Ok(size)
    }

    /// Checks a request, reads its files and encodes its prompts: everything but the sampling.
    ///
    /// # Errors
    /// [`PipelineError::Request`] naming the field, an error of the plan, or of a file.
    pub fn prepare(&self, request: &Request) -> Result<Job, PipelineError> {
        self.prepare_with(request, Inputs::default())
    }

    /// The same with inputs in memory.
    ///
    /// # Errors
    /// Those of [`Self::prepare`], and if an input does not suit the request.
    pub fn prepare_with(&self, request: &Request, inputs: Inputs) -> Result<Job, PipelineError> {
        self.prepared(request, inputs, false)
    }

    /// With `studied`, unconditional predictions are prepared even if the request's own solver does not need them.
    pub(crate) fn prepared(
        &self,
        request: &Request,
        inputs: Inputs,
        studied: bool,
    ) -> Result<Job, PipelineError> {
        let fail = |field, reason: &str| PipelineError::request(field, reason);
        let spec = self.model.network.spec();
        let count = request.checked_count()?;
        self.check_loras(request)?;
        let size = self.size(request, request.image.as_ref())?;
        let own = &self.model.extras.sampling;
        let sampling = request.sampling(own);
        let solver = sampling.solver.as_deref().unwrap_or_default();

        let null = self.reads_texts() || spec.classes.count.is_some() && self.model.null_class().is_some();
        let conditional = null || spec.classes.count.is_some() || spec.takes_guidance;
        let wanted = request.guidance.or(own.guidance.filter(|_| conditional));
        let guidance = wanted.unwrap_or(self.model.kind.guidance);
        let scale = checked_scale(solver, guidance, request.guidance.is_none())?;
        if scale != 1.0 && !null && !spec.takes_guidance {
            let reason =
                "needs a model with prompts, or with classes and a null class; this model has neither";
            return Err(fail("guidance", reason));
        }
        request.check_guidance()?;
        let guided = scale != 1.0 && !spec.takes_guidance;
        if !guided {
            let taken = "has no effect: this network takes the guidance scale as an input";
            let negative = request.negative_prompt.as_deref().is_some_and(|text| !text.is_empty());
            let fields = [
                ("negative_prompt", negative),
                ("guidance_interval", request.guidance_interval.is_some()),
                ("guidance_rescale", request.guidance_rescale.is_some_and(|rescale| rescale > 0.0)),
                ("dynamic_threshold", request.dynamic_threshold.is_some()),
            ];
            check_unused(if spec.takes_guidance { taken } else { UNGUIDED }, &fields)?;
        }
        let precision = request.precision.unwrap_or_default();
        precision.check(&self.device).map_err(|e| fail("precision", &e))?;

        let channels = if spec.outputs.is_multiple_of(2) && 2 * spec.inputs == spec.outputs {
            spec.inputs
        } else {
            spec.outputs
        };
        let shape = samples_of(self.autoencoder(), channels, &size);
        let scheduler = self.shifted(request, tokens(shape.axes(), spec.patch))?;
        let tuned = self.tuned(request, sampling.steps, guidance)?;
        let mut recipe = match tuned {
            Some(tuned) => scheduler.resolve_bespoke(tuned)?,
            None => scheduler.resolve_with(&sampling)?,
        };
        check_variance(&recipe, spec.outputs, channels)?;
        match (request.strength, request.image.is_some() || inputs.image.is_some()) {
            (Some(_), false) => return Err(fail("strength", "needs an initial image")),
            (strength, true) => recipe = shortened(recipe, strength.unwrap_or(0.8), sampling.steps)?,
            (None, false) => {}
        }
        let prepare_null = guided || studied && null && !spec.takes_guidance;
        let mut conditions = conditions::prepare(&self.model, request, &size, prepare_null)?;
        conditions.scale = spec.takes_guidance.then_some(guidance.max(1.0) as f32);
        let time = recipe.parameterization.scalings(recipe.plan.start).c_noise as f32;
        (self.model.network)
            .check(1, &shape, &[time], &conditions.rows(0..1).0)
            .map_err(|e| fail("size", &e.to_string()))?;

        // A trajectory shares its adaptive steps and the length of its texts. Images alone do not depend on each other; they
        // still share calls of the network.
        let adaptive = solver::find(recipe.solver.name()).is_some_and(|entry| entry.adaptive);
        let most = request.chunk.map_or(CHUNK, std::num::NonZeroUsize::get);
        let most = if guided { (most / 2).max(1) } else { most };
        let (chunk, side_by_side) = if adaptive || conditions.is_ragged() { (1, most) } else { (most, 1) };
        let rows = most.min(count) * if guided { 2 } else { 1 };
        let row = self.model.network.row_bytes(&shape, precision);
        let decoding = self.autoencoder().map_or(0, |vae| decoding_bytes(vae, request, &size, precision));
        let pixels = size.iter().product();
        let sides = if let &[h, w] = &*size { [h, w] } else { [1, pixels] };
        Needed { count, rows, size: sides, row, decoding }.check()?;

        let noise = match (inputs.noise, &request.noise) {
            (Some(noise), _) => Some(noise),
            (None, Some(file)) => Some(noise_in(file)?),
            (None, None) => None,
        };
        let expected: Vec<usize> = [&[count], shape.dims()].concat();
        if let Some(noise) = &noise
            && (noise.shape != expected || noise.values.len() != expected.iter().product::<usize>())
        {
            let reason = format!("has shape {:?}, expected {expected:?}", noise.shape);
            return Err(fail("noise", &reason));
        }
        let draws = inputs.draws.unwrap_or_else(|| Arc::new(SeededRows::new(request.seed, count)));
        let mut job = Job {
            request: request.clone(),
            size,
            shape,
            scheduler,
            guidance: Guidance {
                scale: guidance,
                rescale: request.guidance_rescale.unwrap_or(0.0),
                interval: request.guidance_interval,
                threshold: request.dynamic_threshold,
            },
            sampling,
            recipe: Arc::new(recipe),
            chunk,
            side_by_side,
            precision,
            conditions,
            network: self.model.network.in_precision(precision),
            autoencoder: self.autoencoder().map(|vae| vae.clone().with_precision(precision)),
            noise,
            begin: None,
            draws,
            model: self.model.clone(),
            device: self.device.clone(),
        };
        let image = match (inputs.image, &request.image) {
            (Some(image), _) => Some(image),
            (None, Some(file)) => Some(image_in(file, &job.size)?),
            (None, None) => None,
        };
        job.begin = image.map(|image| job.encode(&image)).transpose()?;
        Ok(job)
    }

    /// The LoRAs of a request must be those with which the model was loaded.
    fn check_loras(&self, request: &Request) -> Result<(), PipelineError> {
        let same = |(a, b): (&LoraFile, &LoraFile)| a.scale == b.scale && a.file.sha256 == b.file.sha256;
        let loaded =
            request.loras.len() == self.loras.len() && request.loras.iter().zip(&self.loras).all(same);
        if request.loras.is_empty() || loaded {
            return Ok(());
        }
        Err(PipelineError::request("loras", "the model was loaded with other LoRAs; load it with these"))
    }

    /// The learned sampler for this request, if the request does not choose a solver or chooses it.
    fn tuned(
        &self,
        request: &Request,
        steps: usize,
        guidance: f64,
    ) -> Result<Option<&solver::Bespoke>, PipelineError> {
        let named = request.solver.as_deref() == Some(TUNED);
        let open = request.solver.is_none()
            && request.spacing.is_none()
            && request.eta.is_none()
            && request.image.is_none()
            && request.strength.is_none();
        if !(open && !request.untuned || named) {
            return Ok(None);
        }
        let scale = guidance::scale_for(TUNED, guidance);
        let found = self.extras().tuned(steps, scale).filter(|_| request.guidance_interval.is_none());
        if named && found.is_none() {
            let known: Vec<_> = (self.extras().tuned.iter())
                .map(|t| format!("{} at guidance {}", t.sampler.evaluations(), t.guidance))
                .collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let reason = format!(
                "this model has no learned sampler (`{TUNED}`) for {steps} evaluations at guidance {scale} on all noise \
                 levels; available: {known}"
            );
            return Err(PipelineError::request("solver", reason));
        }
        Ok(found.map(|tuned| &tuned.sampler))
    }

    /// The scheduler with the shift for this number of tokens, or the requested shift.
    fn shifted(&self, request: &Request, tokens: usize) -> Result<SchedulerConfig, PipelineError> {
        let scheduler = self.scheduler();
        let shifted = match request.mu {
            Some(mu) => {
                let shifted = scheduler.again()?.with_mu(mu);
                Some(shifted.map_err(|e| PipelineError::request("mu", e.to_string()))?)
            }
            None => scheduler.of_tokens(tokens)?,
        };
        Ok(shifted.map_or_else(|| scheduler.again(), Ok)?)
    }

    /// Prepares and runs a request. `on` receives every step and may stop the run.
    ///
    /// # Errors
    /// Those of [`Self::prepare`] and [`Job::run`].
    pub fn run(
        &self,
        request: &Request,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        self.prepare(request)?.run(&AtomicBool::new(false), on)
    }
}

/// Checks whether the network predicts the variance that the solver needs.
fn check_variance(recipe: &Recipe, outputs: usize, channels: usize) -> Result<(), PipelineError> {
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

/// The initial image, cropped and resized to the size of the result.
fn image_in(file: &RecordedFile, size: &[usize]) -> Result<Image, PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let &[height, width] = size else { return Err(fail("this model does not make images".into())) };
    file.check()?;
    open_sized(&file.path, [height, width]).map_err(|e| fail(e.to_string()))
}

fn noise_in(file: &RecordedFile) -> Result<HostTensor, PipelineError> {
    file.check()?;
    let source = SafetensorsFile::open(&file.path)?;
    let names = source.names();
    let wrong = |reason: String| HubError::Format { path: file.path.clone(), reason };
    match &*names {
        [name] if name == "noise" => Ok(source.read(name).map_err(wrong)?),
        names => {
            Err(wrong(format!("contains {}; expected only the tensor `noise`", names.join(", "))).into())
        }
    }
}
