//! Turns a request into a job: checks every field, reads files and encodes prompts.

use std::{num::NonZeroUsize, ops::Range, sync::Arc};

use tweedie_core::solver;
use tweedie_data::{Image, ImageFacts, image_facts, open_sized};
use tweedie_hub::{
    HubError, Recipe, SafetensorsFile, Sampling, SchedulerConfig,
    scheduler_config::{TUNED, tokens},
};
use tweedie_models::{Controlled, HostTensor, IoSpec, Network, Precision, TensorSource, Windows, denoiser};
use tweedie_ops::SampleShape;

use crate::{
    Inputs, Job, Pipeline, PipelineError, Request, cascade,
    coding::{decoding_bytes, samples_of},
    conditions::{self, Asked},
    continued::CONTINUED,
    control::Strengths,
    file::{LoraFile, RecordedFile},
    guidance::{self, Guidance, UNGUIDED, check_unused, checked_scale},
    job::SeededRows,
    known::{Work, initial, length, recipe_for, sampling_for},
    memory::Needed,
    posterior::Method,
    request::CHUNK,
    speech::Spoken,
};

/// Loudness that can be asked for, in LUFS.
const LOUDNESS: std::ops::RangeInclusive<f64> = -70.0..=0.0;

/// The guidance of a request.
struct AskedGuidance {
    /// The scale of the request or the model.
    guidance: f64,
    /// Whether predictions are guided.
    guided: bool,
    /// Whether there are unconditional predictions.
    null: bool,
}

impl Pipeline {
    /// With `studied`, unconditional predictions are prepared even if the request's own solver does not need them.
    pub(crate) fn prepared(
        &self,
        request: &Request,
        inputs: Inputs,
        studied: bool,
    ) -> Result<Job, PipelineError> {
        let fail = |field, reason: &str| PipelineError::request(field, reason);
        let spoken = Spoken::of(request, &self.model.extras)?;
        let expanded = spoken.as_ref().map(|spoken| spoken.expanded(request)).transpose()?;
        let request = expanded.as_ref().unwrap_or(request);
        let spec = self.model.network.spec();
        if !inputs.frames.is_empty() && spec.axes != 3 {
            return Err(fail("continue", "this model does not make clips"));
        }
        let count = request.checked_count()?;
        self.check_loras(request)?;
        if request.enlarge.is_some() {
            return Err(fail("enlarge", "another model enlarges the results; a job of this model does not"));
        }
        if request.refiner.is_some() || request.refine_from.is_some() {
            let field = if request.refiner.is_some() { "refiner" } else { "refine_from" };
            return Err(fail(field, "another model makes the last steps; a job of this model does not"));
        }
        if request.continued.is_some() || request.keep.is_some() {
            let reason = "the program that runs the request continues the clip; a job makes one window of it";
            return Err(fail("continue", reason));
        }
        let enlarging = self.model.small.as_ref();
        let varies = conditions::varies(&self.model, request, &inputs);
        if self.model.unclip.is_none() || varies {
            let prior = [
                ("prior_steps", request.prior_steps.is_some()),
                ("prior_guidance", request.prior_guidance.is_some()),
            ];
            let reason = match self.model.unclip.as_ref().and_then(|unclip| unclip.prior.as_ref()) {
                Some(_) => "variations of an image need no prior",
                None => "this model has no prior",
            };
            check_unused(reason, &prior)?;
        }
        if varies && self.reads_texts() && !request.prompts.is_empty() {
            return Err(fail(
                "prompt",
                "this model makes images for a text or variations of an image; expected one of both",
            ));
        }
        if inputs.embeddings.is_some() && self.model.unclip.is_none() {
            return Err(fail("image", "this model does not make variations of an image"));
        }
        let fills = conditions::fills(&self.model);
        if let (Some(_), Some(_)) = (enlarging, &request.known) {
            return Err(fail("known", "this model enlarges images; it does not edit them"));
        }
        if let (Some(_), Some(_)) = (&self.model.unclip, &request.known) {
            return Err(fail("known", "this model enlarges what it makes; it does not edit images"));
        }
        let work = request.known.as_ref().map(|known| self.work(request, known)).transpose()?;
        let method = match (&request.known, &work) {
            // A network that fills masks needs no method.
            (Some(known), Some(work)) if !fills => Some(known.method(work)?),
            _ if !inputs.frames.is_empty() => Some(CONTINUED),
            _ => None,
        };
        let canvas = match &work {
            Some(Work::Part(canvas)) => Some(canvas),
            _ => None,
        };
        let mut crop = None;
        let size = match enlarging {
            Some(small) => {
                let result = conditions::small_size(request, inputs.small.as_ref())?;
                let result = result.map(|n| n.saturating_mul(small.factor));
                let size = enlarged_size(request, result, spec.multiple * small.factor)?;
                crop = (*size != result).then(|| result.map(|n| 0..n).to_vec());
                size
            }
            None => {
                let window = work.as_ref().map(Work::size);
                let image = request.image.as_ref().filter(|_| !varies).map(|file| ("image", file));
                let control = request.controls.first().map(|control| ("controls", &control.image));
                if request.seconds.is_some() || request.start.is_some() {
                    let (size, part) = self.lasting(request, spoken.is_some())?;
                    crop = part.map(|part| vec![part]);
                    size
                } else {
                    self.size(request, image.or(control), window)?
                }
            }
        };
        let mut sampling = request.sampling(&self.model.extras.sampling);
        if let Some(method) = method {
            sampling = sampling_for(method, request, sampling)?;
        }
        let AskedGuidance { guidance, guided, null } = self.asked_guidance(request, &spec, &sampling)?;
        if let Some(lufs) = request.loudness {
            if self.axes() != 1 || request.known.is_some() {
                let reason = "is for sounds that the model makes from noise; remove it";
                return Err(fail("loudness", reason));
            }
            if !(LOUDNESS.contains(&lufs)) {
                let [from, to] = [LOUDNESS.start(), LOUDNESS.end()];
                return Err(fail("loudness", &format!("{lufs} LUFS: expected a value from {from} to {to}")));
            }
        }
        let precision = request.precision.unwrap_or_default();
        precision.check(&self.device).map_err(|e| fail("precision", &e))?;
        let pulled = method.filter(|method| method.is_pulled());
        if let Some(method) = pulled.filter(|_| precision != Precision::F32) {
            let reason =
                format!("`{precision}`: the method `{}` needs gradients, and so `f32`", method.name());
            return Err(fail("precision", &reason));
        }

        // Twice as many outputs as inputs include a learned variance; further inputs are maps.
        let channels = if spec.outputs == 2 * spec.inputs { spec.inputs } else { spec.outputs };
        let shape = samples_of(self.codec(), channels, &size);
        let scheduler = self.shifted(request, tokens(shape.axes(), spec.patch))?;
        let image = enlarging.is_none() && !varies && (request.image.is_some() || inputs.image.is_some());
        let begins = match fills {
            true => filled(request)?,
            false => Begins::of(image, work.as_ref(), request.strength),
        };
        let mut recipe = self.sampler(request, &scheduler, &sampling, guidance, begins)?;
        if let Some(method) = method {
            recipe = recipe_for(method, recipe, request.eta)?;
        }
        check_variance(&recipe, spec.outputs, channels)?;
        let (recipe, stop) = inputs.section.of(recipe)?;
        let prepare_null = guided || studied && null && !spec.takes_guidance;
        let draws = inputs.draws.unwrap_or_else(|| Arc::new(SeededRows::new(request.seed, count)));
        let mut conditions = conditions::prepare(&Asked {
            model: &self.model,
            request,
            image: inputs.image.as_ref(),
            small: inputs.small.as_ref(),
            embeddings: inputs.embeddings.as_ref(),
            varies,
            canvas,
            size: &size,
            shape: &shape,
            guided: prepare_null,
            draws: &draws,
            device: &self.device,
            context: &self.context,
        })?;
        conditions.scale = spec.takes_guidance.then_some(guidance.max(1.0) as f32);
        let time = recipe.parameterization.scalings(recipe.plan.start).c_noise as f32;
        let control = match &*self.model.controls {
            [] => None,
            nets => Some(Arc::new(Strengths::of(request, nets, &recipe.plan)?)),
        };
        let network = self.controlled();
        let mut first = conditions.rows(0..1).0;
        if let Some(control) = &control {
            first = control.add(&first, 1, recipe.plan.start, false);
        }
        denoiser::check(&*network, 1, &shape, &[time], &first).map_err(|e| fail("size", &e.to_string()))?;

        // A trajectory shares its adaptive steps and the length of its texts. Images alone do not depend on each other; they
        // still share calls of the network.
        let adaptive = solver::find(recipe.solver.name()).is_some_and(|entry| entry.adaptive);
        let most = request.chunk.map_or(CHUNK, NonZeroUsize::get);
        let most = if guided { (most / 2).max(1) } else { most };
        // The answers of a particle method are one population.
        let most = if method == Some(Method::Particles) { count } else { most };
        let (chunk, side_by_side) = if adaptive || conditions.is_ragged() { (1, most) } else { (most, 1) };
        let rows = most.min(count) * if guided { 2 } else { 1 };
        // A network that enlarges was trained on parts of images.
        let side = enlarging.and(spec.native.as_ref()).and_then(|native| native.iter().max()).map(|n| 2 * n);
        let large = side.filter(|side| shape.axes().iter().any(|n| n > side));
        let seen: Vec<usize> = shape.axes().iter().map(|n| large.map_or(*n, |side| side.min(*n))).collect();
        let row = network.row_bytes(&SampleShape::new(shape.channels(), &seen), precision);
        let decoding = self.codec().map_or(0, |codec| decoding_bytes(codec, request, &size, precision));
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
        let context = self.context.clone().with_precision(precision);
        let network = network.in_context(&context);
        let network: Box<dyn Network> = match large {
            Some(side) => Box::new(Windows::new(network, side)),
            None => network,
        };
        let mut job = Job {
            request: request.clone(),
            spoken,
            size,
            crop,
            shape,
            rate: self.rate(),
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
            control,
            notes: Vec::new(),
            network: match pulled {
                Some(_) => network.differentiable(),
                None => network,
            },
            codec: self.codec().map(|codec| codec.in_context(&context)),
            noise,
            enlarger: (self.model.unclip.as_ref())
                .and_then(|unclip| unclip.enlarger.as_ref())
                .map(|enlarger| cascade::stage(enlarger, &self.device, &self.context)),
            begin: None,
            work,
            begin_at: None,
            midway: None,
            stop,
            kept: inputs.frames,
            replacement: None,
            posterior: None,
            draws,
            model: self.model.clone(),
            device: self.device.clone(),
        };
        job.notes = match &job.work {
            Some(work) => work.notes().to_vec(),
            None => request.controls.iter().filter_map(|c| conditions::remark(c, &job.size)).collect(),
        };
        job.begin = match (inputs.image, &request.image) {
            _ if enlarging.is_some() || varies => None,
            (Some(image), _) => Some(job.encode(&image)?),
            (None, Some(file)) if job.size.len() == 1 => {
                let (values, notes) = initial(file, job.channels(), job.size[0], self.rate())?;
                job.notes.extend(notes);
                Some(job.encode_planes(values)?)
            }
            (None, Some(file)) => Some(job.encode(&image_in(file, &job.size)?)?),
            (None, None) => None,
        };
        if let Some(method) = method {
            job.know(method)?;
        }
        job.keep_frames()?;
        Ok(job)
    }

    /// The network, with its ControlNets.
    fn controlled(&self) -> Box<dyn Network> {
        let network = self.model.network.in_context(&self.context);
        match &*self.model.controls {
            [] => network,
            nets => Box::new(Controlled::new(network, nets.to_vec())),
        }
    }

    fn asked_guidance(
        &self,
        request: &Request,
        spec: &IoSpec,
        sampling: &Sampling,
    ) -> Result<AskedGuidance, PipelineError> {
        let fail = |reason: &str| PipelineError::request("guidance", reason);
        let null = self.reads_texts()
            || self.model.unclip.is_some()
            || spec.classes.count.is_some() && self.model.null_class().is_some();
        let conditional = null || spec.classes.count.is_some() || spec.takes_guidance;
        let own = self.model.extras.sampling.guidance.filter(|_| conditional);
        let guidance = request.guidance.or(own).unwrap_or(self.model.kind.guidance);
        let solver = sampling.solver.as_deref().unwrap_or_default();
        let scale = checked_scale(solver, guidance, request.guidance.is_none())?;
        if scale != 1.0 && !null && !spec.takes_guidance {
            return Err(fail(
                "needs a model with prompts, or with classes and a null class; this model has neither",
            ));
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
        Ok(AskedGuidance { guidance, guided, null })
    }

    /// The sampler, without the steps that an initial image replaces.
    fn sampler(
        &self,
        request: &Request,
        scheduler: &SchedulerConfig,
        sampling: &Sampling,
        guidance: f64,
        begins: Begins,
    ) -> Result<Recipe, PipelineError> {
        let recipe = match self.tuned(request, sampling.steps, guidance, begins != Begins::Noise)? {
            Some(tuned) => scheduler.resolve_bespoke(tuned)?,
            None => scheduler.resolve_with(sampling)?,
        };
        match begins {
            Begins::Noise if request.strength.is_some() => {
                Err(PipelineError::request("strength", "needs an initial image"))
            }
            Begins::Noise => Ok(recipe),
            Begins::Image { strength } => shortened(recipe, strength, sampling.steps),
        }
    }

    /// The LoRAs, learned tokens and ControlNets of a request must be those with which the model was loaded.
    fn check_loras(&self, request: &Request) -> Result<(), PipelineError> {
        if !request.embeddings.is_empty() && request.embeddings != self.embeddings {
            let reason = "the model was loaded with other learned tokens; load it with these";
            return Err(PipelineError::request("embeddings", reason));
        }
        let nets: Vec<_> = request.controls.iter().filter_map(|control| control.net.as_ref()).collect();
        let same = |(a, b): (&&RecordedFile, &RecordedFile)| a.sha256 == b.sha256;
        let as_loaded = nets.len() == self.controls.len() && nets.iter().zip(&self.controls).all(same);
        if !nets.is_empty() && !as_loaded {
            let reason = "the model was loaded with other ControlNets; load it with those of the request";
            return Err(PipelineError::request("controls", reason));
        }
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
        image: bool,
    ) -> Result<Option<&solver::Bespoke>, PipelineError> {
        let named = request.solver.as_deref() == Some(TUNED);
        let open = request.solver.is_none()
            && request.spacing.is_none()
            && request.eta.is_none()
            && !image
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

    /// The length of sounds of these seconds, as the model makes them, and the part of them that is the result.
    fn lasting(
        &self,
        request: &Request,
        speaks: bool,
    ) -> Result<(Vec<usize>, Option<Range<usize>>), PipelineError> {
        let field = if request.seconds.is_some() { "seconds" } else { "start" };
        let fail = |reason: &str| Err(PipelineError::request(field, reason));
        if self.axes() != 1 {
            return fail("is for models of sounds; this model does not make sounds");
        }
        if speaks {
            return fail("has no effect: speech is as long as its text; remove it");
        }
        if request.size.is_some() {
            return fail("`size` also says how long the sound is; expected one of both");
        }
        let fixed = self.network().spec().fixed;
        if request.known.is_some() || request.image.is_some() && !fixed {
            return fail("has no effect: the result is as long as the sound at which it begins; remove it");
        }
        let Some(rate) = self.rate().map(f64::from) else {
            return fail(
                "the model does not say how many values per second its sounds have; use `size` instead",
            );
        };
        if request.start.is_some() && !conditions::reads_start(&self.model) {
            let reason = "this model does not make parts of longer sounds; remove it";
            return Err(PipelineError::request("start", reason));
        }
        let start = request.start.unwrap_or(0.0);
        if !(start >= 0.0 && start.is_finite()) {
            return Err(PipelineError::request("start", format!("{start}: expected 0 or more seconds")));
        }
        // Casts saturate; too large numbers are errors of `check_size`.
        let values = |seconds: f64| (seconds * rate).round() as usize;
        let first = values(start);
        let length = match request.seconds {
            Some(seconds) if seconds.is_finite() && seconds > 0.0 && values(seconds) > 0 => {
                Some(values(seconds))
            }
            Some(seconds) => return fail(&format!("{seconds}: expected a positive number of seconds")),
            None => None,
        };
        let native = self.native_size().and_then(|native| native.first().copied());
        let whole = match (native.filter(|_| fixed || length.is_none()), length) {
            (Some(whole), _) => whole,
            (None, Some(length)) => {
                request.check_size(&[length])?;
                let unit = match self.codec() {
                    Some(codec) => codec.spec().stride,
                    None => self.network().spec().multiple,
                };
                length.next_multiple_of(unit.max(1))
            }
            (None, None) => return fail("the model has no default length, so the request needs `seconds`"),
        };
        let end = length.map_or(whole, |length| first.saturating_add(length));
        if first >= end || end > whole {
            let (found, most) = (end.max(first) as f64 / rate, whole as f64 / rate);
            return fail(&format!(
                "the sound would last until second {found:.2}, but this model's last until {most:.2}"
            ));
        }
        Ok((vec![whole], ([first, end] != [0, whole]).then_some(first..end)))
    }

    /// The result is like the `image` in this field; `window` is that of an existing image.
    fn size(
        &self,
        request: &Request,
        image: Option<(&'static str, &RecordedFile)>,
        window: Option<Vec<usize>>,
    ) -> Result<Vec<usize>, PipelineError> {
        let fail = |reason: String| PipelineError::request("size", reason);
        let like = match (image, &request.size) {
            (Some((_, file)), None) if self.axes() == 1 => Some(vec![length(file, self)?]),
            (Some((field, file)), None) => {
                let ImageFacts { width, height, .. } =
                    image_facts(&file.path).map_err(|e| PipelineError::request(field, e.to_string()))?;
                self.size_like([height, width])
            }
            _ => None,
        };
        let axes = self.axes();
        let native = self.native_size();
        let size = window.or_else(|| request.size.clone()).or(like).or_else(|| native.clone());
        let mut size =
            size.ok_or_else(|| fail("the model has no default size, so the request needs one".into()))?;
        if axes == 3 {
            let own = native.as_ref().and_then(|native| native.first().copied());
            match (request.frames.map(NonZeroUsize::get), size.len()) {
                (Some(frames), 3) => size[0] = frames,
                (frames, 2) => {
                    let frames = frames.or(own);
                    let missing =
                        || fail("the model has no default length, so the request needs `frames`".into());
                    size.insert(0, frames.ok_or_else(missing)?);
                }
                _ => {}
            }
        } else if request.frames.is_some() || request.fps.is_some() {
            return Err(PipelineError::request("frames", "this model does not make clips"));
        }
        if size.len() != axes {
            let numbers = if axes == 1 { "number" } else { "numbers" };
            return Err(fail(format!("{size:?}: expected {axes} {numbers}, one for each axis of a sample")));
        }
        request.check_size(&size)?;
        if let (Some(&[native]), &[found], true) = (native.as_deref(), &*size, self.network().spec().fixed)
            && found != native
        {
            return Err(fail(format!(
                "{found} values: this model only makes sounds of {native}; `seconds` cuts them"
            )));
        }
        let stride = self.stride();
        // The number of frames may be any.
        let sides = if axes == 3 { size.get(1..).unwrap_or_default() } else { &size };
        if sides.iter().any(|n| !n.is_multiple_of(stride)) {
            let sides: Vec<_> = size.iter().map(usize::to_string).collect();
            let unit = if axes == 1 { "values" } else { "pixels" };
            return Err(fail(format!(
                "{} {unit}: expected multiples of {stride}, the downsampling factor of the model",
                sides.join("×")
            )));
        }
        Ok(size)
    }
}

/// Where the sampler of a network that fills masks begins: at noise. It needs no method.
fn filled(request: &Request) -> Result<Begins, PipelineError> {
    let method = request.known.as_ref().is_some_and(|known| known.method.is_some());
    let reason = "has no effect: this model itself fills the mask; remove it";
    check_unused(reason, &[("method", method), ("strength", request.strength.is_some())])?;
    Ok(Begins::Noise)
}

/// The size at which an enlarged image is made: that of the `result`, or the next multiples that the network supports.
fn enlarged_size(
    request: &Request,
    result: [usize; 2],
    multiple: usize,
) -> Result<Vec<usize>, PipelineError> {
    if let Some(size) = request.size.as_ref().filter(|size| **size != result) {
        let reason =
            format!("{size:?}: expected {result:?}, the size of the image times the factor of the model");
        return Err(PipelineError::request("size", reason));
    }
    let size: Vec<usize> = result.iter().map(|n| n.next_multiple_of(multiple.max(1))).collect();
    request.check_size(&size)?;
    Ok(size)
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

/// Where a sampler begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Begins {
    /// At noise.
    Noise,
    /// At an image, of which this much is replaced.
    Image { strength: f64 },
}

impl Begins {
    fn of(image: bool, work: Option<&Work>, strength: Option<f64>) -> Self {
        match work {
            Some(work) if work.measurement().is_some() => Self::Image { strength: 1.0 },
            Some(Work::Whole(_) | Work::Sound(_)) => Self::Image { strength: strength.unwrap_or(1.0) },
            Some(Work::Part(canvas)) => {
                let most = canvas.change().into_iter().fold(0.0f32, f32::max);
                Self::Image { strength: f64::from(most) * strength.unwrap_or(1.0) }
            }
            None if image => Self::Image { strength: strength.unwrap_or(0.8) },
            None => Self::Noise,
        }
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
