//! The small image of a model that enlarges.

use tweedie_data::{ImageFacts, image_facts, open_sized};
use tweedie_hub::{SmallImage, SmallMap};
use tweedie_models::{
    Conditions, Encoded, Entry, HostTensor,
    conditions::{CLASSES, SMALL},
};
use tweedie_ops::{Batch, SampleShape};

use super::{Asked, Conditioner, Part};
use crate::{
    Image, PipelineError, Request,
    coding::encoded,
    enlarging::{noised, repeated, resized},
    error::broken,
};

/// The draw for the noise on an image's small image, or on its latents.
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

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        asked.model.small.is_some()
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let Some(small) = &asked.model.small else {
            return Err(PipelineError::request("image", self.unsupported()));
        };
        let level = level_of(asked.request, small)?;
        let opened;
        let images = match (asked.small, &asked.request.image) {
            (Some(images), _) => images,
            (None, Some(file)) => {
                file.check()?;
                let [height, width] = small_size(asked.request, None)?;
                let image = open_sized(&file.path, [height, width]);
                opened = planes_of(&[image.map_err(|e| PipelineError::request("image", e.to_string()))?]);
                &opened
            }
            (None, None) => return Err(PipelineError::request("image", NO_IMAGE)),
        };
        let count = images.shape[0];
        let each = images.values.len() / count;
        let each_image = images.values.chunks_exact(each);
        if small.as_map == SmallMap::Latents {
            let latents = each_image.map(|image| latents_of(image, &images.shape[1..], small, asked));
            return Ok(of_latents(asked, small.factor, &latents.collect::<Result<Vec<_>, _>>()?));
        }
        let maps: Vec<Vec<f32>> = each_image
            .map(|image| map_of(image, &images.shape[1..], small, asked))
            .collect::<Result<_, _>>()?;
        let shape = map_shape(asked);
        let noise @ [_, sigma] = small.noise(level);
        let count = if sigma == 0.0 { count } else { asked.request.count.get() };
        let classes = asked.model.network.spec().classes;
        let told = classes.count.is_some() || classes.other.is_some();
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
            let level = told.then(|| Entry::Indices(vec![level]));
            Conditions::none().with(SMALL, Entry::Map(map)).with_some(CLASSES, level)
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

const NO_IMAGE: &str = "this model enlarges an image; expected one";

/// Images of one size as `[n, 3, H, W]` in −1..1.
pub(crate) fn planes_of(images: &[Image]) -> HostTensor {
    let [height, width] = images.first().map_or([0, 0], |image| [image.height, image.width]);
    let values = images.iter().flat_map(Image::to_planes).collect();
    HostTensor { shape: vec![images.len(), 3, height, width], values }
}

/// Height and width of the image to enlarge: one of `images`, `[n, 1 or 3, H, W]`, or the request's.
pub(crate) fn small_size(
    request: &Request,
    images: Option<&HostTensor>,
) -> Result<[usize; 2], PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let Some(images) = images else {
        let Some(file) = &request.image else { return Err(fail(NO_IMAGE.into())) };
        let ImageFacts { width, height, .. } = image_facts(&file.path).map_err(|e| fail(e.to_string()))?;
        return Ok([height, width]);
    };
    let size: usize = images.shape.iter().product();
    match *images.shape {
        [_, 1 | 3, height, width] if size > 0 && images.values.len() == size => Ok([height, width]),
        _ => Err(fail(format!(
            "the images have the shape {:?} and {} values, expected images of one size with 1 or 3 channels",
            images.shape,
            images.values.len()
        ))),
    }
}

/// The latents of an image `[1 or 3, H, W]`, which is padded to the size that the result needs.
fn latents_of(
    image: &[f32],
    dims: &[usize],
    small: &SmallImage,
    asked: &Asked<'_>,
) -> Result<Encoded, PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let Some(codec) = &asked.model.codec else { return Err(fail("this model has no autoencoder".into())) };
    let codec = codec.in_context(asked.context);
    let channels = codec.spec().media;
    let (planes, [height, width]) = padded(image, dims, channels, small, asked)?;
    let x = Batch::from_host(planes, 1, &SampleShape::new(channels, &[height, width]), asked.device);
    let latents = encoded(&*codec, asked.request, x, &[height, width]).map_err(|e| fail(e.to_string()))?;
    let finite = |x: &Batch| x.to_host().iter().all(|v| v.is_finite());
    match finite(&latents.mean) && latents.logvar.as_ref().is_none_or(finite) {
        true => Ok(latents),
        false => Err(broken(asked.model.kind.autoencoder.unwrap_or("autoencoder"), codec.non_finite())),
    }
}

/// The conditions of images whose latents are known up to the noise of the autoencoder's distribution, which each result draws.
fn of_latents(asked: &Asked<'_>, factor: usize, all: &[Encoded]) -> Part {
    let drawn = all.iter().any(|latents| latents.logvar.is_some());
    let count = if drawn { asked.request.count.get() } else { all.len() };
    let given = (0..count).map(|row| {
        let Encoded { mean, logvar } = &all[row % all.len()];
        let mut x = mean.clone();
        if let Some(logvar) = logvar {
            let draw = asked.draws.normal(row..row + 1, mean.shape(), SMALL_DRAW, asked.device);
            let std = logvar.rows().clone().mul_scalar(0.5f32).exp();
            x = x.with_rows(x.rows().clone() + std * draw.rows().clone());
        }
        let x = asked.model.codec.as_ref().map_or(x.clone(), |codec| codec.scaled(&x));
        Conditions::none().with(SMALL, Entry::Map(repeated(&x, factor)))
    });
    Part { given: given.collect(), null: None }
}

/// The shape of the map: the axes of the samples, and the channels of the media.
fn map_shape(asked: &Asked<'_>) -> SampleShape {
    let channels = asked.model.codec.as_ref().map_or(asked.shape.channels(), |codec| codec.spec().media);
    asked.shape.with_channels(channels)
}

/// An image `[1 or 3, H, W]` as the network reads it. What is beyond the border of the image is as at the border.
fn map_of(
    image: &[f32],
    dims: &[usize],
    small: &SmallImage,
    asked: &Asked<'_>,
) -> Result<Vec<f32>, PipelineError> {
    let channels = map_shape(asked).channels();
    let (planes, [rows, columns]) = padded(image, dims, channels, small, asked)?;
    Ok(match (small.as_map, asked.size) {
        (SmallMap::Resized, &[height, width]) => resized(&planes, [channels, rows, columns], [height, width]),
        _ => planes,
    })
}

/// An image `[1 or 3, H, W]` with these channels and the size of the part of the result that is made of it.
fn padded(
    image: &[f32],
    dims: &[usize],
    channels: usize,
    small: &SmallImage,
    asked: &Asked<'_>,
) -> Result<(Vec<f32>, [usize; 2]), PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let (&[height, width], &[own, h, w]) = (asked.size, dims) else {
        return Err(fail("this model does not enlarge images".into()));
    };
    let area = h * w;
    let planes: Vec<f32> = match (own, channels) {
        (3, 1) => (0..area).map(|i| (image[i] + image[area + i] + image[2 * area + i]) / 3.0).collect(),
        (1, 3) => image.repeat(3),
        (1, 1) | (3, 3) => image.to_vec(),
        _ => {
            return Err(fail(format!("this model's images have {channels} channels, expected 1 or 3")));
        }
    };
    let [rows, columns] = [height / small.factor, width / small.factor];
    let row = |c: usize, y: usize| {
        let start = (c * h + y.min(h - 1)) * w;
        let line = &planes[start..start + w];
        line.iter().copied().chain(std::iter::repeat_n(line[w - 1], columns.saturating_sub(w)))
    };
    let padded = (0..channels).flat_map(|c| (0..rows).flat_map(move |y| row(c, y))).collect();
    Ok((padded, [rows, columns]))
}
