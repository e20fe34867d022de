//! The sampling run of one job.

use std::{
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tweedie_core::Level;
use tweedie_media::Image;
use tweedie_models::{Codec, HostTensor};
use tweedie_ops::Batch;

use crate::{
    PipelineError,
    coding::{host, images},
    film::Show,
    flight::{Flight, Snapshot},
    job::Job,
    known::Edited,
    media::Media,
    together::{Progress, Together},
};

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
pub struct Preview<'a> {
    job: &'a Job,
    snapshot: &'a Snapshot,
}

impl std::fmt::Debug for Preview<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preview").field("snapshot", self.snapshot).finish_non_exhaustive()
    }
}

impl<'a> Preview<'a> {
    /// The samples of `job` after a step.
    pub fn new(job: &'a Job, snapshot: &'a Snapshot) -> Self {
        Self { job, snapshot }
    }

    /// The clean samples predicted in this step, or the noisy ones; those of variance-exploding processes are scaled into
    /// range.
    pub fn samples(&self, show: Show) -> Batch {
        match show {
            Show::Clean => self.snapshot.x0.clone(),
            Show::Noisy => {
                let Level { alpha, sigma, .. } = self.snapshot.level;
                let scale = (1.0 / alpha.hypot(sigma).max(1.0)) as f32;
                let x = &self.snapshot.x;
                x.with_rows(x.rows().clone().mul_scalar(scale))
            }
        }
    }

    /// The same as images, decoded by `small` or the model's own autoencoder if samples are latents. Empty if they are not
    /// images.
    ///
    /// # Errors
    /// If the autoencoder fails or is that of other latents.
    pub fn images(&self, show: Show, small: Option<&dyn Codec>) -> Result<Vec<Image>, PipelineError> {
        let samples = self.samples(show);
        let decoded = match small {
            Some(small) => self.job.decode_with(small, &samples),
            None => self.job.decode(&samples),
        };
        Ok(images(&decoded?))
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Output {
    /// The results, `[count, C, …]`, nominally in `-1..=1` but not clamped.
    pub tensors: HostTensor,
    /// The results as images. Empty if they are not images.
    pub images: Vec<Image>,
    /// The results as the media that their shape tells.
    pub media: Media,
    /// The existing image with each result in its place; empty if the request has no known image.
    pub edited: Vec<Edited>,
    /// The class of each image, if the model has classes.
    pub classes: Option<Vec<usize>>,
    /// Network evaluations, summed over chunks.
    pub evals: usize,
}

impl Output {
    /// The output of decoded parts of a job, in order.
    pub fn of(job: &Job, parts: Vec<HostTensor>, evals: usize) -> Self {
        let mut shape = parts.first().map_or(Vec::new(), |part| part.shape.clone());
        if let Some(count) = shape.first_mut() {
            *count = parts.iter().map(|part| part.shape[0]).sum();
        }
        let values = parts.into_iter().flat_map(|part| part.values).collect();
        let tensors = HostTensor { shape, values };
        let media = Media::of(&tensors, job.model.network.spec().rate);
        let images = match &media {
            Media::Images(images) => images.clone(),
            _ => Vec::new(),
        };
        let edited = job.edited(&tensors);
        Self { tensors, images, media, edited, classes: job.classes(), evals }
    }
}

impl Job {
    /// Runs the job. `on` receives every step and may stop the run; once `cancelled` is set, it stops within a step.
    ///
    /// # Errors
    /// If the network fails or its output is not finite, and [`PipelineError::Cancelled`].
    pub fn run(
        self,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        let job = Arc::new(self);
        let chunks = job.chunks();
        let of = job.recipe.plan.solves() * chunks.len();
        let (mut index, mut evals) = (0, vec![0; chunks.len()]);
        let mut parts: Vec<Option<HostTensor>> = vec![None; chunks.len()];
        let places: Vec<usize> = (0..chunks.len()).collect();
        for wave in places.chunks(job.side_by_side.max(1)) {
            let mut together = Together::new(0);
            let mut numbers = Vec::new();
            for &place in wave {
                numbers.push((together.add(Flight::new(&job, chunks[place].clone())), place));
            }
            while !together.is_empty() {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(PipelineError::Cancelled);
                }
                for (number, progress) in together.turn() {
                    let place = numbers.iter().find(|(n, _)| *n == number).map_or(0, |(_, place)| *place);
                    match progress {
                        Progress::Failed(error) => return Err(error),
                        Progress::Done(samples) => parts[place] = Some(job.decode(&samples)?),
                        Progress::Step(snapshot) => {
                            index += 1;
                            evals[place] = snapshot.evals;
                            let event = Event::Step {
                                index,
                                of,
                                evals: evals.iter().sum(),
                                rows: snapshot.rows.clone(),
                                step: snapshot.step,
                                level: snapshot.level,
                                preview: Preview::new(&job, &snapshot),
                            };
                            if on(event).is_break() {
                                return Err(PipelineError::Cancelled);
                            }
                        }
                    }
                }
            }
        }
        Ok(Output::of(&job, parts.into_iter().flatten().collect(), evals.iter().sum()))
    }

    /// Samples as images. Empty if they are not images.
    ///
    /// # Errors
    /// If the autoencoder fails.
    pub fn pictures(&self, samples: &Batch) -> Result<Vec<Image>, PipelineError> {
        Ok(images(&self.decode(samples)?))
    }

    /// Samples as values, `[rows, C, …]`, without decoding.
    pub fn values(&self, samples: &Batch) -> HostTensor {
        host(samples)
    }
}
