//! Encoding images as noise by the inverted probability-flow ODE, and interpolating noise, or the embeddings of images.

use std::{
    num::NonZeroUsize,
    ops::{ControlFlow, Range},
    sync::{Arc, atomic::AtomicBool},
};

use burn::tensor::Device;

use tweedie_core::{Plan, Vector, lin, spacing::Spacing};
use tweedie_data::Image;
use tweedie_hub::{Recipe, Sampling};
use tweedie_models::HostTensor;
use tweedie_ops::{Batch, SampleShape};

use crate::{
    Event, Inputs, NoiseOfRows, Pipeline, PipelineError, Request,
    job::SeededRows,
    study::{Study, distance},
};

/// A deterministic sampler and its inverse.
pub struct Inversion {
    /// From noise to a clean sample.
    pub down: Recipe,
    /// From the cleanest noise level to noise.
    pub up: Plan,
}

impl Inversion {
    /// Creates both with `steps` steps of a deterministic solver, evenly spaced in the angle `arctan(sigma/alpha)`.
    ///
    /// # Errors
    /// For a solver that is unknown or stochastic, or more steps than the schedule allows.
    pub fn new(study: &Study<'_>, solver: &str, steps: usize) -> Result<Self, PipelineError> {
        let (name, spacing) = (Some(solver.to_owned()), Some(Spacing::KlOptimal));
        let down = study.job().recipe_with(&Sampling { steps, solver: name, spacing, eta: None })?;
        let fail = |reason: String| PipelineError::request("solver", reason);
        let known = tweedie_core::solver::find(solver);
        if known.is_some_and(|entry| !entry.is_deterministic() || entry.is_cfgpp()) {
            return Err(fail(format!(
                "the solver `{solver}` cannot be inverted; expected a deterministic solver"
            )));
        }
        // A network needs a noise level, but a clean image has none: it counts as one at the cleanest level.
        let mut noisy = down.plan.clone();
        noisy.moves.pop();
        let up = noisy.inverted().map_err(|e| fail(e.to_string()))?;
        Ok(Self { down, up })
    }

    /// The noise that the rows of `x0` come from, with a nominal standard deviation of 1. The rows are the first
    /// ones of the study.
    ///
    /// # Errors
    /// If the model fails.
    pub fn encode(&self, study: &Study<'_>, x0: &Batch) -> Result<Batch, PipelineError> {
        let rows = 0..x0.len();
        let start = lin![self.up.start.alpha => x0];
        let noise = study.run(&self.up, &self.down, &rows, start)?;
        Ok(lin![1.0 / self.down.plan.start_std => &noise])
    }

    /// The images that come from `noise`.
    ///
    /// # Errors
    /// If the model fails.
    pub fn decode(&self, study: &Study<'_>, noise: &Batch) -> Result<Batch, PipelineError> {
        study.end(&self.down, &(0..noise.len()), noise)
    }
}

/// Where an interpolation starts or ends.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// The noise of this seed.
    Seed(u64),
    /// The noise that this image comes from; of the size of the model's images.
    Image(Image),
}

/// One end of an interpolation.
#[derive(Clone, Debug)]
pub struct End {
    /// Its noise.
    pub noise: Batch,
    /// The root mean square of the noise; far from 1 if the model does not know such an image.
    pub noise_rms: f64,
    /// For an image, the root mean square difference between its sample and that of its reconstruction.
    pub round_trip: Option<f64>,
}

/// Images from one end to the other.
#[derive(Clone, Debug)]
pub struct Interpolation {
    /// The images, the ends included. Empty if the model's samples are not images.
    pub frames: Vec<Image>,
    /// Both ends.
    pub ends: [End; 2],
}

/// Interpolates in `frames` images between two endpoints, with the classes, prompts and guidance of `request`.
///
/// # Errors
/// If the request or the solver does not suit the model, an image has another size, or the model fails.
pub fn interpolate(
    pipeline: &Pipeline,
    request: &Request,
    endpoints: [&Endpoint; 2],
    frames: usize,
    solver: &str,
    steps: usize,
    cancelled: &AtomicBool,
) -> Result<Interpolation, PipelineError> {
    let request = |seed: u64| Request { count: NonZeroUsize::MIN, seed, untuned: true, ..request.clone() };
    let study = Study::new(pipeline, &request(0), cancelled)?;
    let inversion = Inversion::new(&study, solver, steps)?;
    let end = |endpoint: &Endpoint| -> Result<End, PipelineError> {
        let (noise, round_trip) = match endpoint {
            Endpoint::Seed(seed) => (pipeline.prepare(&request(*seed))?.initial_noise(0..1), None),
            Endpoint::Image(image) => {
                let x0 = study.job().sample_of(image)?;
                let noise = inversion.encode(&study, &x0)?;
                let again = inversion.decode(&study, &noise)?;
                (noise, Some(distance(&again, &x0)))
            }
        };
        Ok(End { noise_rms: noise.rms(), noise, round_trip })
    };
    let ends = [end(endpoints[0])?, end(endpoints[1])?];
    let last = frames.saturating_sub(1).max(1) as f64;
    let mut made = Vec::new();
    for index in 0..frames {
        let noise = slerp(&ends[0].noise, &ends[1].noise, index as f64 / last);
        made.extend(study.job().results_for(0..1, &inversion.decode(&study, &noise)?)?);
    }
    Ok(Interpolation { frames: made, ends })
}

/// Images between two images for a model that reads embeddings of images: those of the spherical interpolation of the
/// embeddings, all from the same noise (Ramesh et al. 2022, arXiv:2204.06125, section 3.2). `request` says how they are
/// sampled. `on` receives every step.
///
/// # Errors
/// If the model has no encoder of images, the request does not suit it, or a network fails.
pub fn between(
    pipeline: &Pipeline,
    request: &Request,
    images: [&Image; 2],
    frames: NonZeroUsize,
    cancelled: &AtomicBool,
    on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Vec<Image>, PipelineError> {
    let embedded = |image: &Image| -> Result<Vec<f64>, PipelineError> {
        Ok(pipeline.embedding(image)?.values.into_iter().map(f64::from).collect())
    };
    let [a, b] = [embedded(images[0])?, embedded(images[1])?];
    let last = frames.get().saturating_sub(1).max(1) as f64;
    let between = (0..frames.get()).flat_map(|index| slerp(&a, &b, index as f64 / last));
    let values: Vec<f32> = between.map(|v| v as f32).collect();
    let request = Request { count: frames, image: None, ..request.clone() };
    let inputs = Inputs {
        embeddings: Some(HostTensor { shape: vec![frames.get(), a.len()], values }),
        draws: Some(Arc::new(OneNoise(SeededRows::new(request.seed, 1)))),
        ..Inputs::default()
    };
    Ok(pipeline.prepare_with(&request, inputs)?.run(cancelled, on)?.images)
}

/// All images have the noise of the first.
struct OneNoise(SeededRows);

impl NoiseOfRows for OneNoise {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        Batch::cat(&vec![self.0.normal(0..1, shape, draw, device); rows.len()])
    }
}

/// Spherical interpolation from `a` to `b` at `share` in 0..1: the result is as likely a normal sample as both. Linear if
/// they almost coincide. Shoemake 1985.
pub fn slerp<V: Vector>(a: &V, b: &V, share: f64) -> V {
    let (la, lb) = (a.dot(a).sqrt(), b.dot(b).sqrt());
    let cosine = if la > 0.0 && lb > 0.0 { (a.dot(b) / (la * lb)).clamp(-1.0, 1.0) } else { 1.0 };
    let angle = cosine.acos();
    if angle.sin() < 1e-6 {
        return lin![1.0 - share => a, share => b];
    }
    let length = (1.0 - share) * la + share * lb;
    let part = |share: f64, own: f64| (share * angle).sin() / angle.sin() * length / own;
    lin![part(1.0 - share, la) => a, part(share, lb) => b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slerp_turns_evenly_and_keeps_lengths() {
        let (a, b) = (vec![2.0, 0.0], vec![0.0, 4.0]);
        for (share, degrees, length) in
            [(0.0, 0.0f64, 2.0), (0.25, 22.5, 2.5), (0.5, 45.0, 3.0), (1.0, 90.0, 4.0)]
        {
            let c: Vec<f64> = slerp(&a, &b, share);
            let (sin, cos) = degrees.to_radians().sin_cos();
            assert!(
                (c[0] - length * cos).abs() < 1e-12 && (c[1] - length * sin).abs() < 1e-12,
                "{share}: {c:?}"
            );
        }
        assert_eq!(slerp(&a, &a, 0.3), a);
    }
}
