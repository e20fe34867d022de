//! Samples during training: jobs of the sampling pipeline with the run's own networks and schedule.

use std::{ops::Range, sync::Arc};

use burn::tensor::Device;
use tweedie_core::{NoiseSchedule, schedule::Times, spacing::Spacing};
use tweedie_data::{Dataset, Image, Rgb, Video};
use tweedie_media::{Audio, enlarge, spectrogram};
use tweedie_ops::{Batch, RowNoise, SampleShape};
use tweedie_pipe::{
    Inputs, Media, NoiseOfRows, Output, Pipeline, Request,
    enlarging::{reduced, resized},
};

use crate::{
    config::{Run, RunConfig},
    diffusion::Process,
    error::TrainError,
    keys::{Purpose, key},
    share::Share,
    task::Sheet,
};

/// Makes `run.preview_images` samples with about `run.preview_steps` network evaluations each, always from the same noise.
/// `asked` says which conditions they have; a model that enlarges gets its images in `inputs`. The ranks share the samples; the
/// first one gets them, the others nothing. Collective.
pub(crate) fn samples(
    config: &RunConfig,
    pipeline: &Pipeline,
    asked: Request,
    inputs: Inputs,
    share: &Share,
) -> Result<Media, TrainError> {
    let Some(count) = config.run.preview_images.try_into().ok() else { return Ok(Media::Images(Vec::new())) };
    let made = made(config, pipeline, Request { count, ..asked }, inputs, share)?;
    Ok(made.map_or(Media::Images(Vec::new()), |made| made.media))
}

/// The same for the number of samples that `asked` says; `None` on other ranks than the first.
pub(crate) fn made(
    config: &RunConfig,
    pipeline: &Pipeline,
    asked: Request,
    inputs: Inputs,
    share: &Share,
) -> Result<Option<Output>, TrainError> {
    let run = &config.run;
    let (solver, spacing, steps) = match config.diffusion.schedule {
        Process::Cosine => ("ipndm", None, run.preview_steps),
        _ => sampler(&*config.diffusion.schedule()?, run.preview_steps),
    };
    let request = Request {
        steps: steps.try_into().ok(),
        solver: Some(solver.to_owned()),
        spacing,
        chunk: run.batch.try_into().ok(),
        precision: Some(run.precision),
        ..asked
    };
    let inputs = Inputs { draws: Some(Arc::new(PreviewNoise(run.seed))), ..inputs };
    let never = std::sync::atomic::AtomicBool::new(false);
    let job = pipeline.prepare_with(&request, inputs)?;
    Ok(job.run_on(share.ranks(), &never, &mut |_| std::ops::ControlFlow::Continue(()))?)
}

/// The images of samples, or the spectrograms of sounds, and the sounds.
pub(crate) fn sheet(media: Media, columns: impl Fn(usize) -> usize) -> Sheet {
    /// Sides of a spectrogram in pixels.
    const SIDES: [usize; 2] = [128, 96];
    if let Media::Clips(clips) = media {
        return clip_sheet(clips);
    }
    let (images, sounds) = match media {
        Media::Images(images) => (images, Vec::new()),
        Media::Audio(sounds) => {
            let longest = sounds.iter().map(Audio::seconds).fold(0.0, f64::max);
            let picture = |sound: &Audio| spectrogram(sound, SIDES[0], SIDES[1], longest);
            (sounds.iter().map(picture).collect(), sounds)
        }
        _ => Default::default(),
    };
    Sheet { columns: columns(images.len()), images, sounds, clips: Vec::new() }
}

/// Images, each above its counterpart, in a sheet about as wide as high.
pub(crate) fn pairs(pairs: &[[Image; 2]]) -> Sheet {
    let columns = ((2.0 * pairs.len() as f64).sqrt().round() as usize).max(1);
    let mut images = Vec::with_capacity(2 * pairs.len());
    for row in pairs.chunks(columns) {
        images.extend(row.iter().map(|[image, _]| image.clone()));
        // Fills an incomplete last row.
        let fill = if pairs.len() > columns { columns - row.len() } else { 0 };
        let blank = row.first().map(|[image, _]| Image::filled(image.width, image.height, Rgb([255; 3])));
        images.extend(std::iter::repeat_n(blank, fill).flatten());
        images.extend(row.iter().map(|[_, image]| image.clone()));
    }
    Sheet { images, columns: columns.min(pairs.len().max(1)), ..Sheet::default() }
}

/// A contact sheet of clips: a row of at most eight frames for each.
fn clip_sheet(clips: Vec<Video>) -> Sheet {
    const MOST: usize = 8;
    let frames = clips.first().map_or(0, |clip| clip.frames.len());
    let columns = MOST.min(frames).max(1);
    let row = |clip: &Video| -> Vec<Image> {
        (0..columns).filter_map(|i| clip.frames.get(i * frames / columns).cloned()).collect()
    };
    Sheet { images: clips.iter().flat_map(row).collect(), columns, clips, sounds: Vec::new() }
}

/// Rows of a small image with sharp pixels, the same by Pillow's bicubic filter, enlarged by the model, and the original.
pub(crate) fn enlarged(
    config: &RunConfig,
    pipeline: &Pipeline,
    data: &Dataset,
    share: &Share,
) -> Result<Sheet, TrainError> {
    /// Rows in the sheet are at most this many images.
    const MOST: usize = 8;
    let count = config.run.preview_images.min(MOST).min(data.len());
    let (size, factor) = (config.data.size, config.super_resolution.factor);
    let (channels, less) = (config.data.channels, size / factor * factor / factor);
    let mut columns: [Vec<Image>; 4] = Default::default();
    let mut small = Vec::new();
    for row in 0..count {
        let image = data.get(row * data.len() / count.max(1))?.sample;
        let planes = image.planes_of(channels).unwrap_or_default();
        let low = reduced(&planes, [channels, size, size], factor);
        let picture =
            |planes: &[f32], side: usize| Image::from_planes(side, side, &planes.repeat(3 / channels));
        let low_image = picture(&low, less);
        columns[0].push(enlarge(&low_image, factor));
        columns[1].push(picture(&resized(&low, [channels, less, less], [size; 2]), size));
        columns[3].push((*image).clone());
        small.push(low_image);
    }
    let asked = Request { noise_level: Some(0), ..Request::default() };
    let wanted = RunConfig { run: Run { preview_images: count, ..config.run.clone() }, ..config.clone() };
    columns[2] = sheet(samples(&wanted, pipeline, asked, Inputs::enlarging(&small)?, share)?, |_| 1).images;
    if !share.is_first() {
        return Ok(Sheet::default());
    }
    let images = (0..count).flat_map(|row| columns.each_ref().map(|column| column[row].clone())).collect();
    Ok(Sheet { images, columns: 4, ..Sheet::default() })
}

/// Solver, spacing and steps for about this many network evaluations; without a spacing, the scheduler's own.
fn sampler(schedule: &dyn NoiseSchedule, evaluations: usize) -> (&'static str, Option<Spacing>, usize) {
    let noisiest = schedule.level(schedule.times().max());
    match schedule.times() {
        // At pure noise, a multistep solver has no step size.
        Times::Table { steps } if noisiest.alpha == 0.0 => {
            ("ddim", Some(Spacing::Trailing), evaluations.min(steps))
        }
        Times::Table { steps } => ("dpmpp-2m", Some(Spacing::Trailing), evaluations.min(steps)),
        Times::Interval { .. } => ("heun", None, evaluations.div_ceil(2)),
    }
}

/// The noise of previews, which does not change during a run.
struct PreviewNoise(u64);

impl NoiseOfRows for PreviewNoise {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        RowNoise(rows.map(|row| key(self.0, Purpose::Preview, row as u64)).collect())
            .batch(shape, draw, device)
    }
}
