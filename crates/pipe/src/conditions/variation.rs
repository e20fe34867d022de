//! The image of which DALL·E 2's decoder makes variations.

use burn::tensor::Device;
use tweedie_data::{image_facts, open_sized};
use tweedie_hub::{ImageEncoder, ImageProcessor, Model};
use tweedie_models::HostTensor;
use tweedie_ops::{from_host, to_host};

use super::{Asked, Conditioner, Part, embeddings::projected, texts};
use crate::{
    Image, Inputs, PipelineError, Request,
    enlarging::{in_bytes, resized},
};

/// The embedding of an image.
pub(super) struct ByImage;

/// Whether a request is for variations of an image: the model only makes these, or it gets an image or an embedding.
pub(crate) fn varies(model: &Model, request: &Request, inputs: &Inputs) -> bool {
    model.unclip.as_ref().is_some_and(|unclip| {
        let image = request.image.is_some() || inputs.image.is_some();
        unclip.prior.is_none() || inputs.embeddings.is_some() || unclip.images.is_some() && image
    })
}

/// The embedding of an image, `[1, width]`.
///
/// # Errors
/// If the model has no encoder of images.
pub(crate) fn embedding(model: &Model, image: &Image, device: &Device) -> Result<HostTensor, PipelineError> {
    let fail = |reason: String| PipelineError::request("image", reason);
    let images = model.unclip.as_ref().and_then(|unclip| unclip.images.as_ref());
    let Some(ImageEncoder { processor, encoder }) = images else {
        return Err(fail("this model does not make variations of an image".into()));
    };
    let [height, width] = processor.crop;
    let pixels = from_host::<4>(processed(image, processor), [1, 3, height, width], device);
    let embedding = encoder.encode(pixels).map_err(|e| fail(e.to_string()))?;
    Ok(HostTensor { shape: embedding.dims().to_vec(), values: to_host(embedding) })
}

impl Conditioner for ByImage {
    fn fields(&self, _: &Request) -> Vec<(&'static str, bool)> {
        Vec::new()
    }

    fn unsupported(&self) -> &'static str {
        "this model does not make variations of an image"
    }

    fn is_read(&self, asked: &Asked<'_>) -> bool {
        asked.varies
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let Some(unclip) = &asked.model.unclip else { return Err(fail(self.unsupported().into())) };
        let own;
        let embeddings = match (asked.embeddings, asked.image, &asked.request.image) {
            (Some(embeddings), ..) => embeddings,
            (None, Some(image), _) => {
                own = embedding(asked.model, image, asked.device)?;
                &own
            }
            (None, None, Some(file)) => {
                file.check()?;
                let facts = image_facts(&file.path).map_err(|e| fail(e.to_string()))?;
                let image = open_sized(&file.path, [facts.height, facts.width]);
                own = embedding(asked.model, &image.map_err(|e| fail(e.to_string()))?, asked.device)?;
                &own
            }
            (None, None, None) => {
                return Err(fail("this model makes variations of an image; expected one".into()));
            }
        };
        let width = unclip.projection.config().clip_embeddings_dim;
        if !matches!(*embeddings.shape, [rows, found] if rows > 0 && found == width && rows * found == embeddings.values.len())
        {
            let reason =
                format!("the embeddings have the shape {:?}, expected [n, {width}]", embeddings.shape);
            return Err(fail(reason));
        }
        let text = texts::of_nothing(asked.model)?;
        let given = embeddings.values.chunks_exact(width).map(|values| {
            let embedding = from_host::<2>(values.to_vec(), [1, width], asked.device);
            projected(unclip, embedding, &text)
        });
        let null = asked.guided.then(|| projected(unclip, unclip.projection.no_image(), &text));
        Ok(Part { given: given.collect::<Result<_, _>>()?, null: null.transpose()?.map(|null| vec![null]) })
    }
}

/// The values `[3, H, W]` that the encoder reads: resized, cropped about the centre with a black border if it is larger, and
/// standardized.
pub(super) fn processed(image: &Image, processor: &ImageProcessor) -> Vec<f32> {
    let ImageProcessor { shortest, crop: [height, width], mean, std } = *processor;
    let longer = |a: usize, b: usize| shortest * a / b.max(1);
    let [h, w] = match image.width <= image.height {
        true => [longer(image.height, image.width), shortest],
        false => [shortest, longer(image.width, image.height)],
    };
    // Pillow rounds to bytes after each direction.
    let rounded = |planes: Vec<f32>| -> Vec<f32> { planes.into_iter().map(|v| in_bytes(v.into())).collect() };
    let wide = rounded(resized(&image.to_planes(), [3, image.height, image.width], [image.height, w]));
    let planes = rounded(resized(&wide, [3, image.height, w], [h, w]));
    let start = |outer: usize, inner: usize| (outer as isize - inner as isize).div_euclid(2);
    let (top, left) = (start(h, height), start(w, width));
    let value = |channel: usize, y: usize, x: usize| {
        let place =
            |offset: isize, i: usize, n: usize| usize::try_from(offset + i as isize).ok().filter(|i| *i < n);
        let inside = place(top, y, h).zip(place(left, x, w));
        let v = inside.map_or(0.0, |(y, x)| (f64::from(planes[(channel * h + y) * w + x]) + 1.0) / 2.0);
        ((v - mean[channel]) / std[channel]) as f32
    };
    let mut out = Vec::with_capacity(3 * height * width);
    for channel in 0..3 {
        for y in 0..height {
            out.extend((0..width).map(|x| value(channel, y, x)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_cropped_about_the_centre_and_standardized() {
        let pixels = (0..3 * 4 * 2).map(|i| i as u8 * 10).collect();
        let image = Image { width: 2, height: 4, pixels };
        let processor = |crop| ImageProcessor { shortest: 2, crop, mean: [0.5; 3], std: [0.25; 3] };
        let found = processed(&image, &processor([2, 2]));
        // Rows 1 and 2 of the red channel: every third byte, from 60.
        let red = [60.0, 90.0, 120.0, 150.0].map(|v: f32| (v / 255.0 - 0.5) / 0.25);
        assert!(found[..4].iter().zip(&red).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        let larger = processed(&image, &processor([4, 4]));
        assert_eq!(larger[..2], [-2.0, (0.0 - 0.5) / 0.25]);
        assert!((larger[5] - (60.0 / 255.0 - 0.5) / 0.25).abs() < 1e-6, "{larger:?}");
    }
}
