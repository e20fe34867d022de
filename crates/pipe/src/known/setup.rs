//! From a request about an existing image to what its job needs.

use std::sync::Arc;

use tweedie_core::{Level, Move, solver};
use tweedie_hub::{Recipe, Sampling};
use tweedie_ops::SampleShape;

use super::{
    Canvas, Known, Sizes,
    restoration::{Restoration, Work},
};
use crate::{
    Job, Pipeline, PipelineError, Request,
    operators::{Mask, Operator},
    posterior::{Measurement, Method, Needs, Posterior, Replacement, Rows},
};

/// The default method for masks.
const MASKED: Method = Method::Repaint { jump: 5, times: 3 };
/// That for other linear measurements: the best of docs/editing.md's table.
const LINEAR: Method = Method::PiGdm { eta: 1.0 };

impl Known {
    /// The standard deviation of the noise of the image, relative to values in `-1..=1`.
    pub(super) fn sigma(&self) -> Result<f64, PipelineError> {
        match self.noise {
            noise if (0.0..=255.0).contains(&noise) => Ok(noise / 127.5),
            noise => Err(PipelineError::request("noise", format!("{noise}: expected a value in 0..=255"))),
        }
    }

    /// The method of the request, or the default for its measurement.
    pub(crate) fn method(&self, work: &Work) -> Result<Method, PipelineError> {
        let fail = |reason: String| PipelineError::request("method", reason);
        let Some(Measurement { operator, sigma, .. }) = work.measurement() else {
            return Ok(self.method.unwrap_or(MASKED));
        };
        let linear = operator.as_linear();
        let decomposed = linear.is_some_and(|linear| linear.singular_values().is_some());
        let default = match linear {
            Some(_) => LINEAR,
            None if *sigma > 0.0 => Method::Dps { zeta: 0.5 },
            None => Method::Ddnm,
        };
        let method = self.method.unwrap_or(default);
        let suits = match method.needs() {
            Needs::Mask => false,
            Needs::Projection => decomposed || *sigma == 0.0,
            Needs::Decomposition => decomposed,
            Needs::Linear => linear.is_some(),
            Needs::Any => true,
        };
        match suits {
            true => Ok(method),
            false => Err(fail(format!(
                "`{}` {}; the default here is `{}`",
                method.name(),
                match method.needs() {
                    Needs::Mask => "only fills masks",
                    Needs::Projection =>
                        "with noise needs a blur by a Gaussian, an enlargement, a colouring or a bandwidth",
                    Needs::Decomposition =>
                        "needs a blur by a Gaussian, an enlargement, a colouring or a bandwidth, without a mask",
                    _ => "does not support JPEG or clipping",
                },
                default.name()
            ))),
        }
    }
}

impl Pipeline {
    /// What a request about an existing image works on.
    pub(crate) fn work(&self, request: &Request, known: &Known) -> Result<Work, PipelineError> {
        let fail = |field, reason: &str| Err(PipelineError::request(field, reason));
        let spec = self.model.network.spec();
        if self.axes() == 1 {
            return Ok(Work::Sound(self.sound_work(request, known)?));
        }
        let channels = if self.codec().is_some() { 3 } else { spec.outputs.min(spec.inputs) };
        if !matches!(spec.axes, 2 | 3) || !matches!(channels, 1 | 3) {
            return fail("known", "this model makes neither images nor clips nor sounds");
        }
        if request.image.is_some() {
            return fail("image", "has no effect with `known`, which has an image of its own; remove it");
        }
        let size = match request.size.as_deref() {
            None => None,
            Some(&[height, width]) => Some([height, width]),
            Some(other) => return fail("size", &format!("{other:?}: expected height and width")),
        };
        let native = self.native_size().as_deref().and_then(<[usize]>::last_chunk::<2>).copied();
        let Some(native) = native.or(size) else {
            return fail("size", "the model has no default size, so the request needs one");
        };
        let sizes = Sizes { native, fixed: spec.fixed, unit: self.stride() * spec.multiple };
        if spec.axes == 3 {
            return Ok(Work::Clip(self.clip_work(request, known, sizes, size, channels)?));
        }
        if !known.degradations.is_empty() {
            if self.codec().is_some() {
                return fail(
                    "degradations",
                    "restoring needs a model in pixels, but this model has latents; masks work with both",
                );
            }
            if request.strength.is_some() || size.is_some() {
                let field = if size.is_some() { "size" } else { "strength" };
                return fail(field, "has no effect with degradations; remove it");
            }
            return Ok(Work::Whole(Restoration::open(known, sizes, channels)?));
        }
        let canvas = Canvas::open(known, sizes, size, channels)?;
        if canvas.is_all_changed() && request.strength.is_none_or(|strength| strength >= 1.0) {
            return fail(
                "mask",
                "nothing of the image is known: expected a mask that keeps some pixels, or a `strength` below 1",
            );
        }
        Ok(Work::Part(canvas))
    }
}

/// The sampler settings for a method: what it adds to the plan, or replaces, the plan itself does not have.
pub(crate) fn sampling_for(
    method: Method,
    request: &Request,
    sampling: Sampling,
) -> Result<Sampling, PipelineError> {
    let fail = |field, reason: String| Err(PipelineError::request(field, reason));
    if let Some(eta) = request.eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
        return fail("eta", format!("{eta}: expected a value in 0..=1"));
    }
    match method {
        Method::Replacement => Ok(sampling),
        // The noise that RePaint adds comes after its repetitions.
        Method::Repaint { .. } => {
            let name = request.solver.as_deref().unwrap_or("ddim");
            let eta = solver::find(name).and_then(|entry| entry.noise_of(0.0)).map(|_| 0.0);
            Ok(Sampling { solver: Some(name.into()), eta, ..sampling })
        }
        method if request.solver.is_some() => fail(
            "solver",
            format!("has no effect: the method `{}` is a solver of its own; remove it", method.name()),
        ),
        method if request.eta.is_some() => {
            let name = method.name();
            fail(
                "eta",
                format!(
                    "has no effect with the method `{name}`; parameters are part of its name: `{method}`"
                ),
            )
        }
        _ => Ok(Sampling { solver: Some("ddim".into()), eta: Some(0.0), ..sampling }),
    }
}

/// The sampler with RePaint's repetitions and fresh noise, `eta` of it (by default 1), if this is the method.
pub(crate) fn recipe_for(
    method: Method,
    mut recipe: Recipe,
    eta: Option<f64>,
) -> Result<Recipe, PipelineError> {
    if let Method::Repaint { jump, times } = method {
        let name = recipe.solver.name();
        let plan = recipe.plan.resampled(jump, times).map_err(|e| {
            PipelineError::request("solver", format!("`{name}` cannot be used with `repaint`: {e}"))
        })?;
        recipe.plan = plan.ancestral(eta.unwrap_or(1.0));
    }
    Ok(recipe)
}

impl Job {
    /// Puts in what is known.
    pub(crate) fn know(&mut self, method: Method) -> Result<(), PipelineError> {
        let fail = |field, reason: String| Err(PipelineError::request(field, reason));
        let Some(work) = &self.work else { return Ok(()) };
        if let Some(measurement) = work.measurement() {
            self.posterior = Some(Posterior { measurement: measurement.clone(), method });
            return Ok(());
        }
        let (change, planes) = match work {
            Work::Part(canvas) => (canvas.change(), canvas.planes()),
            Work::Sound(sound) => (sound.change(), sound.planes()),
            Work::Clip(footage) => (footage.change(), footage.planes()),
            Work::Whole(_) => return Ok(()),
        };
        let recipe = self.recipe_with(&self.sampling)?;
        let solves = recipe.plan.steps().filter(|(_, step)| matches!(step, Move::Solve(_)));
        let levels: Vec<Level> = solves.map(|(from, _)| from).collect();
        let strength = self.request.strength.unwrap_or(1.0);
        let until =
            until(&change, &self.size, &self.shape, |m| known_until(f64::from(m) * strength, &levels));
        let sample = self.sample_of_planes(planes)?;
        if method.needs() == Needs::Mask {
            self.replacement = Some(Replacement::new(sample, until));
            return Ok(());
        }
        if change.iter().any(|m| *m > 0.0 && *m < 1.0) {
            let name = method.name();
            return fail(
                "mask",
                format!("it has grey pixels, which need the method `replacement` or `repaint`, not `{name}`"),
            );
        }
        let known: Vec<bool> = until.iter().map(|until| *until < 0.0).collect();
        if !known.contains(&true) {
            return fail("method", format!("`{}` needs a mask that keeps some pixels", method.name()));
        }
        let operator = Mask::new(&known);
        let values = Rows::rows(&sample).pop().unwrap_or_default();
        let sigma = self.request.known.as_ref().map_or(Ok(0.0), Known::sigma)?;
        let measurement = Measurement { y: operator.apply(&values), operator: Arc::new(operator), sigma };
        self.posterior = Some(Posterior { measurement, method });
        // Below a strength of 1 it begins at the image.
        self.replacement = None;
        self.begin_at = (strength < 1.0).then_some(sample);
        Ok(())
    }
}

/// The noise level `sigma/alpha` down to which a pixel is known that is changed with `strength`: infinite for all, negative
/// for none of the steps, which begin at `levels`.
fn known_until(strength: f64, levels: &[Level]) -> f64 {
    let kept = (levels.len() as f64 * strength) as usize;
    match levels.len().saturating_sub(kept) {
        0 => f64::INFINITY,
        // Just above it, since the level itself is free.
        first => levels.get(first).map_or(-1.0, |level| level.nsr() * (1.0 + 1e-9)),
    }
}

/// The level of each value of a sample, from the change of each pixel: the largest of the pixels that a value stands for.
fn until(change: &[f32], size: &[usize], shape: &SampleShape, level: impl Fn(f32) -> f64) -> Vec<f64> {
    if let &[length] = size {
        // Of a sound, each latent along the time stands for its values and, by the windows of a spectrogram, for those beside.
        let columns = shape.axes().last().copied().unwrap_or(1);
        let (each, rows) = (length / columns, shape.len() / columns);
        let beside = if each > 1 { each } else { 0 };
        let column = |i: usize| {
            let part = (i * each).saturating_sub(beside)..((i + 1) * each + beside).min(length);
            level(change[part].iter().copied().fold(0.0, f32::max))
        };
        return (0..columns).map(column).collect::<Vec<f64>>().repeat(rows);
    }
    let (&[.., height, width], &[.., rows, columns]) = (size, shape.axes()) else { return Vec::new() };
    let (tall, wide) = (height / rows, width / columns);
    let value = |frame: &[f32], i: usize| {
        let (top, left) = (i / columns * tall, i % columns * wide);
        let pixels = (top..top + tall).flat_map(|y| frame[y * width + left..][..wide].iter().copied());
        level(pixels.fold(0.0, f32::max))
    };
    // One frame after another of a clip.
    let frames = change.chunks_exact(height * width);
    let plane: Vec<f64> =
        frames.flat_map(|frame| (0..rows * columns).map(|i| value(frame, i)).collect::<Vec<_>>()).collect();
    plane.repeat(shape.channels())
}
