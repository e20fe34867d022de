//! How close enlarged images come to the originals, beside a filter.

use std::{num::NonZeroUsize, ops::ControlFlow, sync::atomic::AtomicBool, time::Instant};

use serde::Serialize;
use tweedie_data::Image;
use tweedie_media::{psnr, ssim};
use tweedie_pipe::{
    Event, Inputs, Pipeline, PipelineError, Request,
    enlarging::{reduced, resized},
};

use crate::{
    bound::Estimate,
    compare::{CompareError, On, features},
    extract::Extractor,
    metrics::Reference,
    quality::Outcome,
};

/// The scores of one method.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// The method.
    pub method: String,
    /// Network evaluations per image.
    pub evaluations: usize,
    /// Peak signal-to-noise ratio in decibels.
    pub psnr: Estimate,
    /// Structural similarity; `None` for images smaller than its window.
    pub ssim: Option<Estimate>,
    /// The Fréchet distance of the enlarged images from the originals.
    pub fid: Outcome,
    /// Seconds per image.
    pub seconds: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Enlarged {
    /// One entry for each method: Pillow's bicubic filter first.
    pub scores: Vec<Scores>,
    /// The small images.
    pub small: Vec<Image>,
    /// The images of each method, in the order of the originals.
    pub images: Vec<Vec<Image>>,
}

/// Why enlarged images cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnlargeError {
    /// The model cannot enlarge them.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// They cannot be compared.
    #[error(transparent)]
    Compare(#[from] CompareError),
    /// The images do not suit the model.
    #[error("the images have {side} pixels a side, expected a multiple of {factor}, the factor of the model")]
    Size {
        /// The side of the images.
        side: usize,
        /// The model's factor.
        factor: usize,
    },
}

/// Reduces `originals`, squares of one size, by boxes, and enlarges them by a model with each of these numbers of steps.
///
/// # Errors
/// If the model does not enlarge such images, or they cannot be compared.
pub fn enlarge(
    pipeline: &Pipeline,
    originals: &[Image],
    steps: &[NonZeroUsize],
    seed: u64,
    extractor: &dyn Extractor,
    on: On<'_>,
) -> Result<Enlarged, EnlargeError> {
    let factor = pipeline.model().small.as_ref().map_or(1, |small| small.factor);
    let side = originals.first().map_or(0, |image| image.width);
    if side == 0 || !side.is_multiple_of(factor) {
        return Err(EnlargeError::Size { side, factor });
    }
    let less = side / factor;
    let planes = |image: &Image| reduced(&image.to_planes(), [3, side, side], factor);
    let low: Vec<Vec<f32>> = originals.iter().map(planes).collect();
    let small: Vec<Image> = low.iter().map(|planes| Image::from_planes(less, less, planes)).collect();
    let reference = features(extractor, originals, on).map_err(CompareError::from)?;
    let scored = |method: String, evaluations: usize, images: &[Image], seconds: f64| {
        let pairs: Vec<_> =
            images.iter().zip(originals).map(|(a, b)| (a.to_planes(), b.to_planes())).collect();
        let like: Option<Vec<f64>> = pairs.iter().map(|(a, b)| ssim(a, b, side)).collect();
        let found = features(extractor, images, on).map_err(CompareError::from)?;
        Ok::<_, EnlargeError>(Scores {
            method,
            evaluations,
            psnr: Estimate::of(pairs.iter().map(|(a, b)| psnr(a, b))),
            ssim: like.map(|like| Estimate::of(like.into_iter())),
            fid: Reference::new(&reference.features).fid(&found.features).into(),
            seconds: seconds / images.len() as f64,
        })
    };
    let start = Instant::now();
    let filtered =
        |planes: &Vec<f32>| Image::from_planes(side, side, &resized(planes, [3, less, less], [side; 2]));
    let filtered: Vec<Image> = low.iter().map(filtered).collect();
    let seconds = start.elapsed().as_secs_f64();
    let mut all = Enlarged {
        scores: vec![scored("bicubic filter".into(), 0, &filtered, seconds)?],
        small: small.clone(),
        images: vec![filtered],
    };
    for steps in steps {
        let count = NonZeroUsize::new(originals.len()).unwrap_or(NonZeroUsize::MIN);
        let request =
            Request { count, seed, steps: Some(*steps), noise_level: Some(0), ..Request::default() };
        let start = Instant::now();
        let job = pipeline.prepare_with(&request, Inputs::enlarging(&small)?)?;
        let (solver, chunks) = (job.recipe().solver.name(), job.chunks().len());
        let made = job.run(&AtomicBool::new(false), &mut |event| {
            if let Event::Step { index, of, .. } = event {
                on("steps", index as u64, of as u64);
            }
            ControlFlow::Continue(())
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let method = format!("{solver}, {steps} step{}", if steps.get() == 1 { "" } else { "s" });
        all.scores.push(scored(method, made.evals / chunks, &made.images, seconds)?);
        all.images.push(made.images);
    }
    Ok(all)
}
