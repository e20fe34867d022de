//! Turns a request into a job: checks every field, reads files and encodes prompts.

mod sampler;
mod size;
mod suits;

use std::{num::NonZeroUsize, sync::Arc};

use tweedie_core::solver;
use tweedie_data::{Image, open_sized};
use tweedie_hub::{HubError, SafetensorsFile, scheduler_config::tokens};
use tweedie_models::{HostTensor, Network, Precision, TensorSource, Windows, denoiser};
use tweedie_ops::SampleShape;

use crate::{
    Inputs, Job, Pipeline, PipelineError, Request, cascade,
    coding::{decoding_bytes, samples_of},
    conditions::{self, Asked},
    continued::CONTINUED,
    control::Strengths,
    file::RecordedFile,
    guidance::Guidance,
    job::SeededRows,
    known::{Work, initial, recipe_for, sampling_for},
    memory::Needed,
    parts::Parts,
    posterior::Method,
    request::CHUNK,
    speech::Spoken,
};

use sampler::{Begins, check_variance, filled};
use size::Size;
use suits::AskedGuidance;

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
        let count = request.checked_count()?;
        let enlarging = self.model.small.as_ref();
        let varies = conditions::varies(&self.model, request, &inputs);
        self.check_suits(request, &inputs, varies)?;
        let fills = conditions::fills(&self.model);
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
        let Size { size, crop } =
            self.size_made(request, &inputs, varies, work.as_ref(), spoken.is_some())?;
        let mut sampling = request.sampling(&self.model.extras.sampling);
        if let Some(method) = method {
            sampling = sampling_for(method, request, sampling)?;
        }
        let AskedGuidance { guidance, guided, null } = self.asked_guidance(request, &spec, &sampling)?;
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
        let shifted = self.shifted(request, tokens(shape.axes(), spec.patch))?;
        let scheduler = shifted.as_ref().unwrap_or(self.scheduler());
        let pictured = conditions::reads_picture(&self.model);
        let begins_with_image = enlarging.is_none() && !varies && !pictured;
        let image = begins_with_image && (request.image.is_some() || inputs.image.is_some());
        let begins = match fills {
            true => filled(request)?,
            false => Begins::of(image, work.as_ref(), request.strength),
        };
        let mut recipe = self.sampler(request, scheduler, &sampling, guidance, begins)?;
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
        let Parts { network, codec, .. } = self.parts(precision, pulled.is_some());
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
        let network: Arc<dyn Network> = match large {
            Some(side) => Arc::new(Windows::new(network, side)),
            None => network,
        };
        let mut job = Job {
            request: request.clone(),
            spoken,
            size,
            crop,
            shape,
            rate: self.rate(),
            shifted,
            guidance: Guidance {
                scale: guidance,
                first: conditions::guidance_rises(&self.model).then(|| request.min_guidance.unwrap_or(1.0)),
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
            network,
            codec,
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
        if pictured {
            job.notes.extend(conditions::remark_on_picture(request, &job.size));
        }
        job.begin = match (inputs.image, &request.image) {
            _ if !begins_with_image => None,
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
