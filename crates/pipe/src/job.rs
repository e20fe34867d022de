//! A job: a request that was checked against a model, with everything that sampling needs.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::tensor::Device;
use tweedie_core::{
    Denoiser, Halt, Level, Move, Prediction, Solver, lin,
    schedule::Axis,
    solver::{self, Bespoke},
};
use tweedie_data::{Image, Video};
use tweedie_hub::{Model, Recipe, Sampling, SchedulerConfig};
use tweedie_models::{Codec, Conditions, Encoded, HostTensor, Network, Precision};
use tweedie_ops::{Batch, FiniteWatch, RowNoise, SampleShape};

use crate::{
    Pipeline, PipelineError,
    clamp::clamped,
    conditions::Prepared,
    control::Strengths,
    guidance::{Guidance, Guided, scale_for},
    known::{Edited, Mended, Seam, Work},
    media::Medium,
    posterior::{Posterior, Replacement, Rows},
    request::Request,
    rows::row_seed,
    speech::Spoken,
};

/// The draw for an image's initial noise; a trajectory's own draws start at 0.
pub(crate) const INITIAL_DRAW: u64 = u64::MAX;
/// The draw for an image's noise on the latents of the initial image.
const ENCODING_DRAW: u64 = u64::MAX - 1;
/// The draw for the last noise of a measurement's path; earlier ones count down.
const PATH_DRAW: u64 = u64::MAX - 2;

/// A request that was checked against a model. It holds everything that sampling needs, so it can be run apart from its
/// pipeline, in parts, or together with others.
pub struct Job {
    /// With one prompt for each unit if the model speaks.
    pub(crate) request: Request,
    /// How the units of spoken texts are joined.
    pub(crate) spoken: Option<Spoken>,
    /// The axes of the media.
    pub(crate) size: Vec<usize>,
    /// The part of the media that is the result, along each axis, if they are larger than it.
    pub(crate) crop: Option<Vec<Range<usize>>>,
    /// The shape of a sample of the network.
    pub(crate) shape: SampleShape,
    /// Values per second of a sound, or frames of a clip, if the model says it.
    pub(crate) rate: Option<u32>,
    /// The scheduler with the shift for this size, unless it is the model's.
    pub(crate) shifted: Option<SchedulerConfig>,
    pub(crate) sampling: Sampling,
    pub(crate) recipe: Arc<Recipe>,
    /// Its scale is that of the request; the effective one depends on the solver.
    pub(crate) guidance: Guidance,
    pub(crate) chunk: usize,
    /// Number of chunks that are driven together, because their rows have step sizes or texts of their own.
    pub(crate) side_by_side: usize,
    pub(crate) precision: Precision,
    pub(crate) conditions: Prepared,
    /// When and how strongly ControlNets act.
    pub(crate) control: Option<Arc<Strengths>>,
    /// What was done to its inputs, one sentence each.
    pub(crate) notes: Vec<String>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) codec: Option<Arc<dyn Codec>>,
    pub(crate) noise: Option<HostTensor>,
    /// The model's own enlarger, for the results.
    pub(crate) enlarger: Option<Pipeline>,
    /// The initial image as a sample, unscaled.
    pub(crate) begin: Option<Encoded>,
    /// The existing image or sound that is changed or restored.
    pub(crate) work: Option<Work>,
    /// The first frames of each clip, which stay as they are.
    pub(crate) kept: Vec<Image>,
    /// The sample at which it begins instead of at noise, one row.
    pub(crate) begin_at: Option<Batch>,
    /// Samples at the first level, all rows, if another job has begun them.
    pub(crate) midway: Option<HostTensor>,
    /// The number of steps after which it stops, if another job goes on.
    pub(crate) stop: Option<usize>,
    /// The values of the samples that are known.
    pub(crate) replacement: Option<Replacement>,
    /// What is known of the samples, and the method that follows it.
    pub(crate) posterior: Option<Posterior>,
    pub(crate) draws: Arc<dyn NoiseOfRows>,
    pub(crate) model: Arc<Model>,
    pub(crate) device: Device,
}

/// Fresh noise for images of a request.
pub trait NoiseOfRows: Send + Sync {
    /// A standard normal sample of `shape` for draw number `draw` of each of these images.
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch;
}

/// Noise from one seed per image.
pub(crate) struct SeededRows(RowNoise);

impl SeededRows {
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        Self(RowNoise((0..count as u64).map(|row| row_seed(seed, row)).collect()))
    }
}

impl NoiseOfRows for SeededRows {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        RowNoise(self.0.0[rows].to_vec()).batch(shape, draw, device)
    }
}

impl Job {
    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.request.count.get()
    }

    /// Number of results: images, or sounds, of which each may be joined from several samples.
    pub fn results(&self) -> usize {
        self.spoken.as_ref().map_or(self.count(), Spoken::count)
    }

    /// The results that the samples of the images `rows` make: theirs, or all if a model speaks, whose samples are parts of texts
    /// and must all be there.
    pub fn results_of(&self, rows: Range<usize>) -> Range<usize> {
        if self.spoken.is_some() { 0..self.results() } else { rows }
    }

    /// Whether all samples are needed for a result, because they are parts of texts.
    pub fn is_joined(&self) -> bool {
        self.spoken.is_some()
    }

    /// The axes of the media: height and width of images.
    pub fn size(&self) -> &[usize] {
        &self.size
    }

    /// The axes of the results: those of the media, or larger if the model has an enlarger of its own.
    pub fn result_size(&self) -> Vec<usize> {
        let factor = self.enlarger.as_ref().and_then(|enlarger| enlarger.model.small.as_ref());
        let factor = factor.map_or(1, |small| small.factor);
        self.size.iter().map(|n| n.saturating_mul(factor)).collect()
    }

    /// The shape of a sample of the network: that of the latents, or of the media.
    pub fn shape(&self) -> &SampleShape {
        &self.shape
    }

    /// What the results are.
    pub fn medium(&self) -> Medium {
        Medium::of(self.channels(), self.size.len())
    }

    /// Channels of the media.
    pub(crate) fn channels(&self) -> usize {
        self.codec.as_ref().map_or(self.shape.channels(), |codec| codec.spec().media)
    }

    /// What was done to its inputs that the request does not say, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How it is sampled.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// A warning about the sampler. A Runge–Kutta step that starts almost at pure noise extrapolates over a huge interval of
    /// `sigma/alpha`, and the result is noise.
    pub fn remark(&self) -> Option<String> {
        /// Schedules for images start below 200, squared-cosine ones at 20,000.
        const FAR: f64 = 1000.0;
        const WIDE: f64 = 5.0;
        let Recipe { plan, solver, schedule, .. } = &*self.recipe;
        let entry = solver::find(solver.name()).filter(|entry| entry.evaluations > 1 && !entry.adaptive)?;
        let from = plan.start.nsr();
        let to = plan
            .steps()
            .find_map(|(_, step)| if let Move::Solve(to) = step { Some(to.nsr()) } else { None })?;
        (schedule.axis() == Axis::Nsr && from > FAR && to < from / WIDE).then(|| {
            format!(
                "the solver `{}` starts at sigma/alpha = {from:.0}, almost pure noise, which it cannot follow in steps of \
                 this size; expect noise. The spacing `karras`, or the solver `dpmpp-2m`, avoids it",
                entry.name
            )
        })
    }

    /// The number of solver steps that it makes.
    pub fn steps(&self) -> usize {
        self.stop.unwrap_or_else(|| self.recipe.plan.solves())
    }

    /// The settings of the sampler, of the request or the model.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    fn scheduler(&self) -> &SchedulerConfig {
        self.shifted.as_ref().unwrap_or(&self.model.scheduler)
    }

    /// The sampler for other settings, with the same schedule.
    ///
    /// # Errors
    /// Those of [`SchedulerConfig::resolve_with`].
    pub fn recipe_with(&self, ask: &Sampling) -> Result<Recipe, PipelineError> {
        Ok(self.scheduler().resolve_with(ask)?)
    }

    /// A learned sampler with the same schedule.
    ///
    /// # Errors
    /// If its levels and weights are invalid.
    pub fn bespoke(&self, sampler: &Bespoke) -> Result<Recipe, PipelineError> {
        Ok(self.scheduler().resolve_bespoke(sampler)?)
    }

    /// The guidance scale of the request or the model. The effective one depends on the solver: [`Self::scale_for`].
    pub fn guidance(&self) -> f64 {
        self.guidance.scale
    }

    /// The effective guidance scale with this solver; 1 means no guidance.
    pub fn scale_for(&self, solver: &str) -> f64 {
        scale_for(solver, self.guidance.scale)
    }

    /// Whether predictions can be guided.
    pub fn can_be_guided(&self) -> bool {
        self.conditions.rows(0..1).1.is_some()
    }

    /// The class of each image, if the model has classes.
    pub fn classes(&self) -> Option<Vec<usize>> {
        self.model.network.spec().classes.count.filter(|_| self.model.small.is_none())?;
        self.conditions.classes(self.count())
    }

    /// The conditions of some images.
    pub fn conditions(&self, rows: Range<usize>) -> Conditions {
        self.conditions.rows(rows).0
    }

    /// The network in the precision of the request.
    pub fn network(&self) -> &dyn Network {
        &*self.network
    }

    /// Number of images in one call of the network.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The device that it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All images, in chunks.
    pub fn chunks(&self) -> Vec<Range<usize>> {
        self.chunks_of(0..self.count())
    }

    /// Some images, in chunks.
    pub(crate) fn chunks_of(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let end = rows.end;
        rows.step_by(self.chunk).map(|start| start..(start + self.chunk).min(end)).collect()
    }

    /// Whether both jobs can share calls of the network.
    pub fn shares_network_with(&self, other: &Self) -> bool {
        // A graph for gradients belongs to one call.
        let pulled = self.is_pulled() || other.is_pulled();
        Arc::ptr_eq(&self.model, &other.model) && self.precision == other.precision && !pulled
    }

    /// The initial noise of some images, with a standard deviation of 1.
    pub fn initial_noise(&self, rows: Range<usize>) -> Batch {
        match &self.noise {
            Some(noise) => {
                let each = self.shape.len();
                let values = noise.values[rows.start * each..rows.end * each].to_vec();
                Batch::from_host(values, rows.len(), &self.shape, &self.device)
            }
            None => self.draws.normal(rows, &self.shape, INITIAL_DRAW, &self.device),
        }
    }

    /// Fresh noise for some images.
    pub(crate) fn fresh(&self, rows: Range<usize>) -> impl FnMut(&Batch, u64) -> Batch + Send + 'static {
        let draws = self.draws.clone();
        move |like: &Batch, draw| draws.normal(rows.clone(), like.shape(), draw, &like.device())
    }

    /// The samples of some images at the plan's first level.
    pub(crate) fn start(&self, rows: Range<usize>) -> Batch {
        if let Some(HostTensor { values, .. }) = &self.midway {
            let each = self.shape.len();
            let own = values[rows.start * each..rows.end * each].to_vec();
            return Batch::from_host(own, rows.len(), &self.shape, &self.device);
        }
        let eps = self.initial_noise(rows.clone());
        let Some(Encoded { mean, logvar }) = &self.begin else {
            let start_std = self.recipe.plan.start_std as f32;
            let noise = eps.with_rows(eps.rows().clone().mul_scalar(start_std));
            let level = self.recipe.plan.start;
            return match (&self.replacement, &self.begin_at) {
                (Some(known), _) => known.start(&eps, &noise, level),
                (None, Some(sample)) => {
                    let x0 = Batch::cat(&vec![sample.clone(); rows.len()]);
                    lin![level.alpha => &x0, level.sigma => &eps]
                }
                (None, None) => noise,
            };
        };
        let repeat = |x: &Batch| Batch::cat(&vec![x.clone(); rows.len()]);
        let mut x0 = repeat(mean);
        if let Some(logvar) = logvar {
            let draw = self.draws.normal(rows.clone(), &self.shape, ENCODING_DRAW, &self.device);
            let std = repeat(logvar).rows().clone().mul_scalar(0.5f32).exp();
            x0 = x0.with_rows(x0.rows().clone() + std * draw.rows().clone());
        }
        if let Some(codec) = &self.codec {
            x0 = codec.scaled(&x0);
        }
        let level = self.recipe.plan.start;
        lin![level.alpha => &x0, level.sigma => &eps]
    }

    /// The solver: that of the recipe, or of the method that follows what is known.
    pub(crate) fn solver(&self) -> Box<dyn Solver<Batch>> {
        let own = self.posterior.as_ref().and_then(|posterior| {
            // One path for all rows, from the noise of the first.
            posterior.method.solver(&posterior.measurement, &self.recipe.plan, |i| {
                let draw = PATH_DRAW - i as u64;
                let noise = self.draws.normal(0..1, &self.shape, draw, &self.device);
                Rows::rows(&noise).pop().unwrap_or_default()
            })
        });
        own.unwrap_or_else(|| self.recipe.solver.build())
    }

    /// Whether predictions need gradients through the network.
    pub(crate) fn is_pulled(&self) -> bool {
        self.posterior.as_ref().is_some_and(|posterior| posterior.method.is_pulled())
    }

    /// The samples at the end of a trajectory.
    pub(crate) fn finished(&self, x: Batch) -> Batch {
        match &self.posterior {
            Some(posterior) => posterior.finished(x),
            None => x,
        }
    }

    /// The conditions and guidance of some images with this sampler.
    pub(crate) fn guided(&self, recipe: &Recipe, rows: Range<usize>) -> Guided {
        let (given, null) = self.conditions.rows(rows);
        let guidance = Guidance { scale: self.scale_for(recipe.solver.name()), ..self.guidance };
        let control = self.control.clone();
        Guided { parameterization: recipe.parameterization, given, null, guidance, control }
    }

    /// Reads the network's output for a call of `guided`: checks that it is finite, clamps, and puts in what is known.
    pub(crate) fn read(
        &self,
        guided: &Guided,
        recipe: &Recipe,
        x: &Batch,
        at: Level,
        raw: Batch,
        watch: &mut FiniteWatch<f64>,
    ) -> Result<Prediction<Batch>, Halt> {
        let prediction = guided.read(x, at, raw)?;
        if let Err(t) = watch.look(&prediction.x0, at.t) {
            // An earlier call, whose samples are gone.
            let known = t == at.t && !x.is_finite();
            return Err(not_finite(if known { "got" } else { "returned" }, t));
        }
        let prediction = match recipe.clamp {
            Some(clamp) => clamped(prediction, x, at, clamp),
            None => prediction,
        };
        let prediction = match &self.replacement {
            Some(known) => known.apply(prediction, x, at),
            None => prediction,
        };
        Ok(match &self.posterior {
            Some(posterior) if posterior.method.is_pulled() => posterior.pulled(prediction, x, at),
            _ => prediction,
        })
    }

    /// The denoiser of some images with any sampler of this job's schedule; it stops once `cancelled` is set.
    pub fn denoiser<'a>(
        &'a self,
        recipe: &'a Recipe,
        rows: Range<usize>,
        cancelled: &'a AtomicBool,
    ) -> RowsDenoiser<'a> {
        RowsDenoiser { job: self, recipe, guided: self.guided(recipe, rows), cancelled }
    }

    /// The existing image with each of these results, `[count, C, …]` from [`Self::decode`], in its place; none if the request
    /// has no known image.
    pub fn edited(&self, results: &HostTensor) -> Vec<Edited> {
        let Some(work) = &self.work else { return Vec::new() };
        let each: usize = results.shape.iter().skip(1).product();
        let latents = self.codec.is_some();
        results.values.chunks_exact(each.max(1)).filter_map(|values| work.compose(values, latents)).collect()
    }

    /// The existing clip with each of these results in its place, and how visible the border of the mask is; none if the request
    /// has no known clip.
    pub fn recut(&self, results: &HostTensor) -> Vec<(Video, Option<Seam>)> {
        let Some(work) = &self.work else { return Vec::new() };
        let each: usize = results.shape.iter().skip(1).product();
        let latents = self.codec.is_some();
        results.values.chunks_exact(each.max(1)).filter_map(|values| work.recut(values, latents)).collect()
    }

    /// The existing sound with each of these results in its place; none if the request has no known sound.
    pub fn mended(&self, results: &HostTensor) -> Vec<Mended> {
        let Some(work) = &self.work else { return Vec::new() };
        let each: usize = results.shape.iter().skip(1).product();
        results.values.chunks_exact(each.max(1)).filter_map(|values| work.mend(values)).collect()
    }

    /// Shows the part of an edited image that the network works on, on a white background. It outlives the job.
    pub fn closeup(&self) -> impl Fn(&Edited) -> Option<Image> + use<> {
        let work = self.work.clone();
        move |edited| work.as_ref().map(|work| work.seen(&edited.picture))
    }

    /// The images of an edit for people to look at: what the network sees of the existing image, and the part to change in
    /// white.
    pub fn before(&self) -> Option<[Image; 2]> {
        self.work.as_ref().and_then(Work::shown)
    }

    /// Adds the cause to a failure if a weight is not finite.
    pub(crate) fn explained(&self, reason: String) -> String {
        match reason.contains("not finite").then(|| self.network.non_finite()).flatten() {
            Some(name) => format!("{reason}: weight `{name}` is not finite"),
            None => reason,
        }
    }
}

/// The model for some images of a job: with guidance, cancellation, a check for values that are not finite, and clamping.
pub struct RowsDenoiser<'a> {
    job: &'a Job,
    recipe: &'a Recipe,
    guided: Guided,
    cancelled: &'a AtomicBool,
}

impl Denoiser<Batch> for RowsDenoiser<'_> {
    fn denoise(&self, x: &Batch, at: Level) -> Result<Prediction<Batch>, Halt> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Halt::Cancelled);
        }
        let raw = self.guided.call(x, at).forward(&*self.job.network)?;
        let mut watch = FiniteWatch::default();
        let prediction = self.job.read(&self.guided, self.recipe, x, at, raw, &mut watch)?;
        watch.finish().map_err(|t| not_finite("returned", t))?;
        Ok(prediction)
    }
}

/// The network `returned` or `got` values that are not finite at time `t`.
pub(crate) fn not_finite(cause: &str, t: f64) -> Halt {
    Halt::Failed(format!("the network {cause} values that are not finite at t = {t:.3}"))
}
