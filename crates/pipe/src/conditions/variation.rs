//! The image of which DALL·E 2's decoder makes variations.

use tweedie_data::{image_facts, open_sized};
use tweedie_hub::{ImageProcessor, Model, model::Source};
use tweedie_ops::from_host;

use super::{Asked, Conditioner, Part, embeddings::projected, texts};
use crate::{
    Image, PipelineError, Request,
    enlarging::{in_bytes, resized},
};

/// The embedding of an image.
pub(super) struct ByImage;

impl Conditioner for ByImage {
    fn fields(&self, _: &Request) -> Vec<(&'static str, bool)> {
        Vec::new()
    }

    fn unsupported(&self) -> &'static str {
        "this model does not make variations of an image"
    }

    fn is_read(&self, model: &Model) -> bool {
        model.reads_image()
    }

    fn prepare(&self, asked: &Asked<'_>) -> Result<Part, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let Some((unclip, Source::Image { processor, encoder })) =
            asked.model.unclip.as_ref().map(|unclip| (unclip, &unclip.source))
        else {
            return Err(fail(self.unsupported().into()));
        };
        let opened;
        let image = match (asked.image, &asked.request.image) {
            (Some(image), _) => image,
            (None, Some(file)) => {
                file.check()?;
                let facts = image_facts(&file.path).map_err(|e| fail(e.to_string()))?;
                opened =
                    open_sized(&file.path, [facts.height, facts.width]).map_err(|e| fail(e.to_string()))?;
                &opened
            }
            (None, None) => return Err(fail("this model makes variations of an image; expected one".into())),
        };
        let [height, width] = processor.crop;
        let pixels = from_host::<4>(processed(image, processor), [1, 3, height, width], asked.device);
        let embedding = encoder.encode(pixels).map_err(|e| fail(e.to_string()))?;
        let text = texts::of_nothing(asked.model)?;
        let given = projected(unclip, embedding, &text)?;
        let null = asked.guided.then(|| projected(unclip, unclip.projection.no_image(), &text));
        Ok(Part { given: vec![given], null: null.transpose()?.map(|null| vec![null]) })
    }
}

/// The values `[3, H, W]` that the encoder reads: resized, cropped about the centre with a black border if it is larger, and
/// standardized.
fn processed(image: &Image, processor: &ImageProcessor) -> Vec<f32> {
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
