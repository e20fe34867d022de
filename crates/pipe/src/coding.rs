//! Conversion between media and the samples of a network: by a codec, or unchanged.

use tweedie_media::Image;
use tweedie_models::{Codec, Encoded, HostTensor, InputError, Precision, memory, vae::Tiles};
use tweedie_ops::{Batch, SampleShape};

use crate::{PipelineError, Request, error::broken, job::Job, media::Media};

/// Images with more pixels are decoded and encoded in tiles of [`TILE`] pixels, unless the request sets a size.
const WHOLE: usize = 1024 * 1024;
const TILE: usize = 512;

/// How images of this size are tiled for the codec.
fn tiles(codec: &dyn Codec, request: &Request, size: &[usize]) -> Option<Tiles> {
    // Only images have tiles.
    let large = size.len() == 2 && area(size) > WHOLE;
    let pixels = request.vae_tile.map(std::num::NonZeroUsize::get).or(large.then_some(TILE))?;
    Some(Tiles::new((pixels / codec.spec().stride).max(8)))
}

fn area(size: &[usize]) -> usize {
    size.iter().fold(1, |product, n| product.saturating_mul(*n))
}

/// Approximate bytes to decode one image.
pub(crate) fn decoding_bytes(
    codec: &dyn Codec,
    request: &Request,
    size: &[usize],
    precision: Precision,
) -> u64 {
    let whole = area(size);
    let spec = codec.spec();
    let tile = tiles(codec, request, size).map(|tiles| tiles.latents.saturating_mul(spec.stride));
    let pixels = tile.map_or(whole, |side| whole.min(side.saturating_mul(side)));
    memory::decoding(spec.width, pixels, precision)
}

impl Job {
    /// An image as a sample of the network: the unscaled latents of the codec, or the image itself.
    ///
    /// # Errors
    /// If the image has another size, or the autoencoder fails.
    pub(crate) fn encode(&self, image: &Image) -> Result<Encoded, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let &[height, width] = &*self.size else {
            return Err(fail("this model does not make images".into()));
        };
        if (image.height, image.width) != (height, width) {
            let found = format!("{}×{} pixels", image.height, image.width);
            return Err(fail(format!("{found}, expected {height}×{width}")));
        }
        let values = if self.codec.is_some() {
            Some(image.to_planes())
        } else {
            image.planes_of(self.shape.channels())
        };
        let values = values.ok_or_else(|| {
            let channels = self.shape.channels();
            fail(format!("this model's samples have {channels} channels, expected 1 or 3"))
        })?;
        self.encode_planes(values)
    }

    /// The same for the channels of the model's own images, in `-1..=1`.
    fn encode_planes(&self, values: Vec<f32>) -> Result<Encoded, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let Some(codec) = self.codec.as_deref() else {
            let mean = Batch::from_host(values, 1, &self.shape, &self.device);
            return Ok(Encoded { mean, logvar: None });
        };
        let &[height, width] = &*self.size else {
            return Err(fail("this model does not make images".into()));
        };
        let x = Batch::from_host(values, 1, &[3, height, width].into(), &self.device);
        let encoded = match tiles(codec, &self.request, &self.size) {
            Some(tiles) => codec.encode_tiled(&x, tiles),
            None => codec.encode(x),
        };
        let encoded = encoded.map_err(|e| fail(e.to_string()))?;
        for values in std::iter::once(&encoded.mean).chain(&encoded.logvar) {
            self.check_finite(codec, &values.to_host())?;
        }
        Ok(encoded)
    }

    /// The sample of an image, without the noise of the autoencoder's distribution.
    ///
    /// # Errors
    /// If the image has another size, or the autoencoder fails.
    pub fn sample_of(&self, image: &Image) -> Result<Batch, PipelineError> {
        let Encoded { mean, .. } = self.encode(image)?;
        Ok(self.scaled(mean))
    }

    /// The same for the channels of the model's own images, in `-1..=1`.
    pub(crate) fn sample_of_planes(&self, values: Vec<f32>) -> Result<Batch, PipelineError> {
        let Encoded { mean, .. } = self.encode_planes(values)?;
        Ok(self.scaled(mean))
    }

    fn scaled(&self, mean: Batch) -> Batch {
        match &self.codec {
            Some(codec) => codec.scaled(&mean),
            None => mean,
        }
    }

    /// The media of samples: decoded by the autoencoder, one at a time so that memory does not grow with their number, or
    /// unchanged.
    ///
    /// # Errors
    /// If the autoencoder fails.
    pub fn decode(&self, samples: &Batch) -> Result<HostTensor, PipelineError> {
        match &self.codec {
            Some(codec) => self.decode_with(&**codec, samples),
            None => Ok(self.cropped(host(samples))),
        }
    }

    /// The same with another autoencoder for the same latents, such as a small one for previews.
    ///
    /// # Errors
    /// If its latents have another number of channels, or it fails.
    pub fn decode_with(&self, codec: &dyn Codec, samples: &Batch) -> Result<HostTensor, PipelineError> {
        let spec = codec.spec();
        let (found, expected) = (spec.latents, samples.shape().channels());
        let fail = |reason: String| PipelineError::request("size", reason);
        if found != expected {
            return Err(fail(format!(
                "the autoencoder has {found} latent channels, but the model has {expected}"
            )));
        }
        let latents = codec.unscaled(samples);
        let size = codec.media_axes(samples.shape().axes());
        let tiles = tiles(codec, &self.request, &size);
        let mut all =
            HostTensor { shape: [&[samples.len(), spec.media][..], &size].concat(), values: Vec::new() };
        for row in 0..samples.len() {
            let z = latents.narrow(row..row + 1);
            let made = match tiles {
                Some(tiles) => codec.decode_tiled(&z, tiles),
                None => codec.decode(z),
            };
            let made = host(&made.map_err(|e: InputError| fail(e.to_string()))?);
            self.check_finite(codec, &made.values)?;
            all.shape[1..].copy_from_slice(&made.shape[1..]);
            all.values.extend(made.values);
        }
        Ok(self.cropped(all))
    }

    /// The part of images that is the result.
    fn cropped(&self, all: HostTensor) -> HostTensor {
        let (Some([height, width]), &[rows, channels, _, w]) = (self.crop, &*all.shape) else { return all };
        let h = all.shape[2];
        let line = |i: usize| &all.values[i * w..i * w + width];
        let lines = (0..rows * channels).flat_map(|plane| (0..height).map(move |y| plane * h + y));
        HostTensor {
            shape: vec![rows, channels, height, width],
            values: lines.flat_map(line).copied().collect(),
        }
    }

    fn check_finite(&self, codec: &dyn Codec, values: &[f32]) -> Result<(), PipelineError> {
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(broken(self.model.kind.autoencoder.unwrap_or("autoencoder"), codec.non_finite())),
        }
    }
}

/// The values of a batch with their shape, `[B, …]`.
pub(crate) fn host(x: &Batch) -> HostTensor {
    let shape = std::iter::once(x.len()).chain(x.shape().dims().iter().copied()).collect();
    HostTensor { shape, values: x.to_host() }
}

/// The shape of the samples of a model whose media have this size.
pub(crate) fn samples_of(codec: Option<&dyn Codec>, channels: usize, size: &[usize]) -> SampleShape {
    match codec {
        Some(codec) => SampleShape::new(codec.spec().latents, &codec.latent_axes(size)),
        None => SampleShape::new(channels, size),
    }
}

/// Converts `[B, 3, H, W]` or, for grey images, `[B, 1, H, W]` to images; none for other shapes.
pub(crate) fn images(x: &HostTensor) -> Vec<Image> {
    match Media::of(x, None) {
        Media::Images(images) => images,
        _ => Vec::new(),
    }
}
