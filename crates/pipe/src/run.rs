//! The sampling run of one job.

use std::{
    num::NonZeroU32,
    ops::{ControlFlow, Range},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use sha2::{Digest, Sha256};
use tweedie_core::Level;
use tweedie_media::{Image, Leveled, Video, level};
use tweedie_models::{Codec, HostTensor};
use tweedie_ops::{Batch, guarded};
use tweedie_system::ranks::{Failed, Program, Ranks, agree};

use crate::{
    PipelineError,
    coding::{host, images},
    film::Show,
    flight::{Flight, Snapshot},
    job::Job,
    known::{Edited, Mended, Seam},
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

    /// The same as the media that the model makes, decoded by the model's own autoencoder if samples are latents.
    ///
    /// # Errors
    /// If the autoencoder fails.
    pub fn media(&self, show: Show) -> Result<Media, PipelineError> {
        Ok(self.job.media_of(vec![self.job.decode(&self.samples(show))?]).1)
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Output {
    /// The results, `[count, C, …]`, nominally in `-1..=1` but not clamped.
    pub tensors: HostTensor,
    /// The results as images. Empty if they are not images.
    pub images: Vec<Image>,
    /// The results as the media that their shape tells. If the request has a known clip, the whole clips with the results in
    /// their place. If the model speaks, the units of each text are joined here, but not in
    /// [`Self::tensors`].
    pub media: Media,
    /// How each sound was brought to the loudness of the request, if it has one; `None` for sounds that are silent or shorter
    /// than 0.4 s, which stay as they are.
    pub leveled: Vec<Option<Leveled>>,
    /// How visible the border of the mask is in each existing image or clip with the result in its place; `None` if nothing is
    /// known beside it.
    pub seams: Vec<Option<Seam>>,
    /// The existing image with each result in its place; empty if the request has no known image.
    pub edited: Vec<Edited>,
    /// The existing sound with each result in its place; empty if the request has no known sound.
    pub mended: Vec<Mended>,
    /// The class of each image, if the model has classes.
    pub classes: Option<Vec<usize>>,
    /// Network evaluations, summed over chunks.
    pub evals: usize,
}

impl Output {
    /// The output of decoded parts of a job, in order.
    pub fn of(job: &Job, parts: Vec<HostTensor>, evals: usize) -> Self {
        let (tensors, media) = job.media_of(parts);
        let mut media = match (media, &job.spoken) {
            (Media::Audio(units), Some(spoken)) => Media::Audio(spoken.joined(units)),
            (media, _) => media,
        };
        let leveled = match (&mut media, job.request.loudness) {
            (Media::Audio(sounds), Some(lufs)) => sounds.iter_mut().map(|sound| level(sound, lufs)).collect(),
            _ => Vec::new(),
        };
        let images = match &media {
            Media::Images(images) => images.clone(),
            _ => Vec::new(),
        };
        let (edited, mended) = (job.edited(&tensors), job.mended(&tensors));
        let mut seams: Vec<Option<Seam>> = edited.iter().map(|edited| edited.seam).collect();
        let recut = job.recut(&tensors);
        if !recut.is_empty() {
            let (mut clips, of_clips): (Vec<Video>, Vec<_>) = recut.into_iter().unzip();
            if let Some(fps) = job.request.fps {
                clips.iter_mut().for_each(|clip| clip.delay = (1000 / fps.get()).clamp(1, 65535) as u16);
            }
            (media, seams) = (Media::Clips(clips), of_clips);
        }
        Self { seams, tensors, images, media, leveled, edited, mended, classes: job.classes(), evals }
    }
}

impl Job {
    /// Decoded parts as one tensor, and as media.
    pub(crate) fn media_of(&self, parts: Vec<HostTensor>) -> (HostTensor, Media) {
        let mut shape = parts.first().map_or(Vec::new(), |part| part.shape.clone());
        if let Some(count) = shape.first_mut() {
            *count = parts.iter().map(|part| part.shape[0]).sum();
        }
        let values = parts.into_iter().flat_map(|part| part.values).collect();
        let tensors = HostTensor { shape, values };
        let rate = self.request.fps.map(NonZeroU32::get).or(self.rate);
        let media = Media::of(&tensors, rate);
        (tensors, media)
    }

    /// Runs the job. `on` receives every step and may stop the run; once `cancelled` is set, it stops within a step.
    ///
    /// # Errors
    /// If the network or the device fails, or the output is not finite, and [`PipelineError::Cancelled`].
    pub fn run(
        self,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Output, PipelineError> {
        let (rows, job) = (0..self.count(), Arc::new(self));
        let (parts, evals) = job.run_rows(rows, cancelled, on)?;
        Ok(Output::of(&job, parts, evals))
    }

    /// Runs the job on several ranks, each of which prepared the same one: each makes some of its images, and the first gets
    /// all of them; the others get `None`. The images are those of [`Job::run`]. `on` receives the steps of this rank.
    ///
    /// # Errors
    /// Those of [`Job::run`], of any rank, and if the jobs differ.
    pub fn run_on(
        self,
        ranks: &dyn Ranks,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Option<Output>, PipelineError> {
        if !ranks.is_shared() {
            return self.run(cancelled, on).map(Some);
        }
        let failed = |failed: Failed| PipelineError::Rank { rank: failed.rank, reason: failed.reason };
        let facts = agree(ranks, Ok(self.facts().as_bytes()))?.map_err(failed)?;
        if let Some(rank) = facts.iter().position(|other| *other != facts[0]) {
            let reason = "its program, model or request differs from that of rank 0".into();
            return Err(PipelineError::Rank { rank, reason });
        }
        let job = Arc::new(self);
        let rows = ranks.share(job.count());
        let found = if rows.is_empty() { Ok((Vec::new(), 0)) } else { job.run_rows(rows, cancelled, on) };
        let (message, error) = match found {
            Ok((parts, evals)) => (Ok(sent(&parts, evals)), None),
            Err(error) => (Err(error.to_string()), Some(error)),
        };
        // Only the first rank needs the images, but all learn whether the others succeeded.
        let told = agree(ranks, message.as_ref().map(|_| &[][..]).map_err(Clone::clone))?;
        if let Some(error) = error {
            return Err(error);
        }
        told.map_err(failed)?;
        let message = message.unwrap_or_default();
        let mut to = vec![Vec::new(); ranks.count()];
        to[0] = message;
        let all = ranks.exchange(to)?;
        if !ranks.is_first() {
            return Ok(None);
        }
        let (mut parts, mut evals) = (Vec::new(), 0);
        for (rank, message) in all.iter().enumerate() {
            let wrong = || PipelineError::Rank { rank, reason: "it sent images that cannot be read".into() };
            let (part, of_rank) = received(message).ok_or_else(wrong)?;
            parts.extend(part);
            evals += of_rank;
        }
        Ok(Some(Output::of(&job, parts, evals)))
    }

    /// What must be equal on all ranks.
    fn facts(&self) -> String {
        let mut hash = Sha256::new();
        for (name, tensor) in self.network.tensors() {
            hash.update(name);
            tensor.values.iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        let request = serde_json::to_string(&self.request).unwrap_or_default();
        let isa = tweedie_ops::instruction_set();
        format!("{} {isa} {request} {:x}", Program::own().print, hash.finalize())
    }

    /// The decoded results for some images, in parts, and the network evaluations that they took.
    pub(crate) fn run_rows(
        self: &Arc<Self>,
        rows: Range<usize>,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<HostTensor>, usize), PipelineError> {
        guarded(|| self.turns(rows, cancelled, on))?
    }

    fn turns(
        self: &Arc<Self>,
        rows: Range<usize>,
        cancelled: &AtomicBool,
        on: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<HostTensor>, usize), PipelineError> {
        let job = self;
        let chunks = job.chunks_of(rows);
        let of = job.steps() * chunks.len();
        let (mut index, mut evals) = (0, vec![0; chunks.len()]);
        let mut parts: Vec<Option<HostTensor>> = vec![None; chunks.len()];
        let places: Vec<usize> = (0..chunks.len()).collect();
        for wave in places.chunks(job.side_by_side.max(1)) {
            let mut together = Together::new(0);
            let mut numbers = Vec::new();
            for &place in wave {
                numbers.push((together.add(Flight::new(job, chunks[place].clone())), place));
            }
            while !together.is_empty() {
                if cancelled.load(Ordering::Relaxed) {
                    return Err(PipelineError::Cancelled);
                }
                for (number, progress) in together.turn() {
                    let place = numbers.iter().find(|(n, _)| *n == number).map_or(0, |(_, place)| *place);
                    match progress {
                        Progress::Failed(error) => return Err(error),
                        Progress::Done(samples) => {
                            parts[place] = Some(job.finish(chunks[place].clone(), &samples)?);
                        }
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
                                preview: Preview::new(job, &snapshot),
                            };
                            if on(event).is_break() {
                                return Err(PipelineError::Cancelled);
                            }
                        }
                    }
                }
            }
        }
        Ok((parts.into_iter().flatten().collect(), evals.iter().sum()))
    }

    /// Samples as images, not enlarged. Empty if they are not images.
    ///
    /// # Errors
    /// If the autoencoder fails.
    pub fn pictures(&self, samples: &Batch) -> Result<Vec<Image>, PipelineError> {
        Ok(images(&self.decode(samples)?))
    }

    /// The results for samples of the images `rows`, enlarged if the model has an enlarger of its own. Empty if they are not
    /// images.
    ///
    /// # Errors
    /// If a network fails.
    pub fn results_for(&self, rows: Range<usize>, samples: &Batch) -> Result<Vec<Image>, PipelineError> {
        Ok(images(&self.finish(rows, samples)?))
    }

    /// Samples as values, `[rows, C, …]`, without decoding.
    pub fn values(&self, samples: &Batch) -> HostTensor {
        host(samples)
    }
}

/// Decoded results as bytes: their evaluations, then for each part its axes and values.
fn sent(parts: &[HostTensor], evals: usize) -> Vec<u8> {
    let mut bytes = (evals as u64).to_le_bytes().to_vec();
    for part in parts {
        bytes.extend((part.shape.len() as u64).to_le_bytes());
        part.shape.iter().for_each(|axis| bytes.extend((*axis as u64).to_le_bytes()));
        part.values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    }
    bytes
}

/// The inverse of [`sent`].
fn received(mut bytes: &[u8]) -> Option<(Vec<HostTensor>, usize)> {
    fn number(bytes: &mut &[u8]) -> Option<usize> {
        let (front, rest) = bytes.split_first_chunk::<8>()?;
        *bytes = rest;
        usize::try_from(u64::from_le_bytes(*front)).ok()
    }
    let evals = number(&mut bytes)?;
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let axes = number(&mut bytes)?;
        let shape: Vec<usize> = (0..axes).map(|_| number(&mut bytes)).collect::<Option<_>>()?;
        let size = shape.iter().try_fold(4usize, |size, axis| size.checked_mul(*axis))?;
        let (front, rest) = bytes.split_at_checked(size)?;
        let values = front.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        parts.push(HostTensor { shape, values });
        bytes = rest;
    }
    Some((parts, evals))
}
