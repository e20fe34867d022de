//! The small image of a model that enlarges.

use tweedie_data::{ImageFacts, image_facts, open_sized};
use tweedie_hub::{Model, SmallImage};
use tweedie_models::{
    Conditions, Entry,
    conditions::{CLASSES, SMALL},
};
use tweedie_ops::{Batch, SampleShape};

use super::{Asked, Conditioner, Part};
use crate::{
    Image, PipelineError, Request,
    enlarging::{noised, resized},
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
        model.small.is_some()
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let Some(small) = &asked.model.small else {
            return Err(PipelineError::request("image", self.unsupported()));
        };
        let level = level_of(asked.request, small)?;
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
        let maps: Vec<Vec<f32>> =
            images.iter().map(|image| map_of(image, small, asked)).collect::<Result<_, _>>()?;
        let shape = map_shape(asked);
        let noise @ [_, sigma] = small.noise(level);
        let count = if sigma == 0.0 { images.len() } else { asked.request.count.get() };
        let given = (0..count).map(|row| {
            let planes = &maps[row % maps.len()];
            let planes = match sigma {
                0.0 => planes.clone(),
                _ => {
                    let eps = asked.draws.normal(row..row + 1, &shape, SMALL_DRAW, asked.device);
                    noised(planes, noise, &eps.to_host())
                }
            };
            let map = Batch::from_host(planes, 1, &shape, asked.device);
            Conditions::none().with(SMALL, Entry::Map(map)).with(CLASSES, Entry::Indices(vec![level]))
        });
        Ok(Part { given: given.collect(), null: None })
    }
}

fn level_of(request: &Request, small: &SmallImage) -> Result<usize, PipelineError> {
    let level = request.noise_level.unwrap_or(small.noise_level);
    let most = small.most_noise;
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

/// The shape of the map: the axes of the samples, and the channels of the media.
fn map_shape(asked: &Asked<'_>) -> SampleShape {
    let channels = asked.model.codec.as_ref().map_or(asked.shape.channels(), |codec| codec.spec().media);
    asked.shape.with_channels(channels)
}

/// An image as the network reads it. What is beyond the border of the image is as at the border.
fn map_of(image: &Image, small: &SmallImage, asked: &Asked<'_>) -> Result<Vec<f32>, PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let &[height, width] = asked.size else {
        return Err(fail("this model does not enlarge images".into()));
    };
    let channels = map_shape(asked).channels();
    let planes = image.planes_of(channels);
    let planes = planes
        .ok_or_else(|| fail(format!("this model's images have {channels} channels, expected 1 or 3")))?;
    let [h, w] = [image.height, image.width];
    let [rows, columns] = [height / small.factor, width / small.factor];
    let row = |c: usize, y: usize| {
        let start = (c * h + y.min(h - 1)) * w;
        let line = &planes[start..start + w];
        line.iter().copied().chain(std::iter::repeat_n(line[w - 1], columns.saturating_sub(w)))
    };
    let padded: Vec<f32> = (0..channels).flat_map(|c| (0..rows).flat_map(move |y| row(c, y))).collect();
    Ok(match small.resized {
        true => resized(&padded, [channels, rows, columns], [height, width]),
        false => padded,
    })
}
