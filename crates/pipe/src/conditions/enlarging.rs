//! The small image of a model that enlarges.

use tweedie_data::{ImageFacts, image_facts, open_sized};
use tweedie_hub::{Enlarging, Model};
use tweedie_models::{
    Conditions, Entry,
    conditions::{CLASSES, SMALL},
};
use tweedie_ops::Batch;

use super::{Asked, Conditioner, Part};
use crate::{
    Image, PipelineError, Request,
    enlarging::{MOST_NOISE, noised, resized},
};

/// The draw for the noise on an image's small image.
const SMALL_DRAW: u64 = u64::MAX - 2;

/// The image that is enlarged, resized, with noise whose level is told to the network.
pub(super) struct BySmallImage;

impl Conditioner for BySmallImage {
    fn fields(&self, request: &Request) -> Vec<(&'static str, bool)> {
        vec![("noise_level", request.noise_level.is_some())]
    }

    fn unsupported(&self) -> &'static str {
        "this model does not enlarge images"
    }

    fn is_read(&self, model: &Model) -> bool {
        model.extras.enlarging.is_some()
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let Some(enlarging) = asked.model.extras.enlarging else {
            return Err(PipelineError::request("image", self.unsupported()));
        };
        let level = level_of(asked.request, enlarging)?;
        let opened;
        let images = match (asked.images, &asked.request.image) {
            ([], Some(file)) => {
                file.check()?;
                let [height, width] = small_size(asked.request, &[])?;
                let image = open_sized(&file.path, [height, width]);
                opened = [image.map_err(|e| PipelineError::request("image", e.to_string()))?];
                &opened[..]
            }
            (images, _) => images,
        };
        let large: Vec<Vec<f32>> =
            images.iter().map(|image| large(image, asked)).collect::<Result<_, _>>()?;
        let count = if level == 0 { images.len() } else { asked.request.count.get() };
        let given = (0..count).map(|row| {
            let planes = &large[row % large.len()];
            let planes = match level {
                0 => planes.clone(),
                _ => {
                    let eps = asked.draws.normal(row..row + 1, asked.shape, SMALL_DRAW, asked.device);
                    noised(planes, level, &eps.to_host())
                }
            };
            let map = Batch::from_host(planes, 1, asked.shape, asked.device);
            Conditions::none().with(SMALL, Entry::Map(map)).with(CLASSES, Entry::Indices(vec![level]))
        });
        Ok(Part { given: given.collect(), null: None })
    }
}

fn level_of(request: &Request, enlarging: Enlarging) -> Result<usize, PipelineError> {
    let level = request.noise_level.unwrap_or(enlarging.noise_level);
    let most = enlarging.most_noise.min(MOST_NOISE);
    match level <= most {
        true => Ok(level),
        false => {
            let reason =
                format!("{level}: expected at most {most}, the largest that the model was trained with");
            Err(PipelineError::request("noise_level", reason))
        }
    }
}

/// Height and width of the image to enlarge: one of `images`, which have one size, or the request's.
pub(crate) fn small_size(request: &Request, images: &[Image]) -> Result<[usize; 2], PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let Some(first) = images.first() else {
        let Some(file) = &request.image else {
            return Err(fail("this model enlarges an image; expected one".into()));
        };
        let ImageFacts { width, height, .. } = image_facts(&file.path).map_err(|e| fail(e.to_string()))?;
        return Ok([height, width]);
    };
    match images.iter().all(|image| (image.height, image.width) == (first.height, first.width)) {
        true => Ok([first.height, first.width]),
        false => Err(fail("the images differ in size; expected one size".into())),
    }
}

/// An image as the network reads it: of the shape of its samples. What is beyond the border of the image is as at the border.
fn large(image: &Image, asked: &Asked<'_>) -> Result<Vec<f32>, PipelineError> {
    let &[height, width] = asked.size else {
        return Err(PipelineError::request("image", "this model does not enlarge images"));
    };
    let factor = asked.model.extras.enlarging.map_or(1, |e| e.factor);
    let channels = asked.shape.channels();
    let planes = image.planes_of(channels).ok_or_else(|| {
        PipelineError::request(
            "image",
            format!("this model's samples have {channels} channels, expected 1 or 3"),
        )
    })?;
    let [h, w] = [image.height, image.width];
    let [rows, columns] = [height / factor, width / factor];
    let row = |c: usize, y: usize| {
        let start = (c * h + y.min(h - 1)) * w;
        let line = &planes[start..start + w];
        line.iter().copied().chain(std::iter::repeat_n(line[w - 1], columns.saturating_sub(w)))
    };
    let padded: Vec<f32> = (0..channels).flat_map(|c| (0..rows).flat_map(move |y| row(c, y))).collect();
    Ok(resized(&padded, [channels, rows, columns], [height, width]))
}
