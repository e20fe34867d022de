//! Conversion between media and the samples of a network: by an autoencoder, or unchanged.

use tweedie_media::Image;
use tweedie_models::{
    Autoencoder, HostTensor, InputError, Precision, memory, params::non_finite, vae::Tiles,
};
use tweedie_ops::{Batch, SampleShape, from_host};

use crate::{PipelineError, Request, error::broken, job::Job, media::Media};

/// Images with more pixels are decoded and encoded in tiles of [`TILE`] pixels, unless the request sets a size.
const WHOLE: usize = 1024 * 1024;
const TILE: usize = 512;

/// How images of this size are tiled for the autoencoder.
fn tiles(vae: &Autoencoder, request: &Request, size: &[usize]) -> Option<Tiles> {
    let large = area(size) > WHOLE;
    let pixels = request.vae_tile.map(std::num::NonZeroUsize::get).or(large.then_some(TILE))?;
    Some(Tiles::new((pixels / vae.stride()).max(8)))
}

fn area(size: &[usize]) -> usize {
    size.iter().fold(1, |product, n| product.saturating_mul(*n))
}

/// Approximate bytes to decode one image.
pub(crate) fn decoding_bytes(
    vae: &Autoencoder,
    request: &Request,
    size: &[usize],
    precision: Precision,
) -> u64 {
    let whole = area(size);
    let tile = tiles(vae, request, size).map(|tiles| tiles.latents.saturating_mul(vae.stride()));
    let pixels = tile.map_or(whole, |side| whole.min(side.saturating_mul(side)));
    let channels = match vae {
        Autoencoder::Kl(vae) => vae.config().block_out_channels.first().copied(),
        Autoencoder::Tiny(_) => Some(64),
    };
    memory::decoding(channels.unwrap_or(0), pixels, precision)
}

impl Job {
    /// An image as a sample of the network, and the logarithm of its variance: the unscaled latents of the autoencoder, or
    /// the image itself.
    ///
    /// # Errors
    /// If the image has another size, or the autoencoder fails.
    pub(crate) fn encode(&self, image: &Image) -> Result<(Batch, Option<Batch>), PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let &[height, width] = &*self.size else {
            return Err(fail("this model does not make images".into()));
        };
        if (image.height, image.width) != (height, width) {
            let found = format!("{}×{} pixels", image.height, image.width);
            return Err(fail(format!("{found}, expected {height}×{width}")));
        }
        let mut values = image.to_planes();
        let Some(vae) = &self.autoencoder else {
            let plane = height * width;
            match self.shape.channels() {
                3 => {}
                1 => {
                    let mean = |i| (values[i] + values[plane + i] + values[2 * plane + i]) / 3.0;
                    values = (0..plane).map(mean).collect();
                }
                other => {
                    return Err(fail(format!("this model's samples have {other} channels, expected 1 or 3")));
                }
            }
            return Ok((Batch::from_host(values, 1, &self.shape, &self.device), None));
        };
        let x = from_host(values, [1, 3, height, width], &self.device);
        let encoded = match tiles(vae, &self.request, &self.size) {
            Some(tiles) => vae.encode_tiled(x, tiles),
            None => vae.encode(x),
        };
        let (mean, logvar) = encoded.map_err(|e| fail(e.to_string()))?;
        let (mean, logvar) = (Batch::of(mean), logvar.map(Batch::of));
        for values in std::iter::once(&mean).chain(&logvar) {
            self.check_finite(vae, &values.to_host())?;
        }
        Ok((mean, logvar))
    }

    /// The sample of an image, without the noise of the autoencoder's distribution.
    ///
    /// # Errors
    /// If the image has another size, or the autoencoder fails.
    pub fn sample_of(&self, image: &Image) -> Result<Batch, PipelineError> {
        let (mean, _) = self.encode(image)?;
        Ok(match &self.autoencoder {
            Some(vae) => Batch::of(vae.scaled(mean.tensor::<4>())),
            None => mean,
        })
    }

    /// The media of samples: decoded by the autoencoder, one at a time so that memory does not grow with their number, or
    /// unchanged.
    ///
    /// # Errors
    /// If the autoencoder fails.
    pub fn decode(&self, samples: &Batch) -> Result<HostTensor, PipelineError> {
        match &self.autoencoder {
            Some(vae) => self.decode_with(vae, samples),
            None => Ok(host(samples)),
        }
    }

    /// The same with another autoencoder for the same latents, such as a small one for previews.
    ///
    /// # Errors
    /// If its latents have another number of channels, or it fails.
    pub fn decode_with(&self, vae: &Autoencoder, samples: &Batch) -> Result<HostTensor, PipelineError> {
        let (found, expected) = (vae.latent_channels(), samples.shape().channels());
        let fail = |reason: String| PipelineError::request("size", reason);
        if found != expected {
            return Err(fail(format!(
                "the autoencoder has {found} latent channels, but the model has {expected}"
            )));
        }
        let latents = vae.unscaled(samples.tensor::<4>());
        let size: Vec<usize> = samples.shape().axes().iter().map(|n| n * vae.stride()).collect();
        let tiles = tiles(vae, &self.request, &size);
        let wrong = |e: InputError| fail(e.to_string());
        let mut all = HostTensor { shape: vec![samples.len(), 0, 0, 0], values: Vec::new() };
        for row in 0..samples.len() {
            let z = latents.clone().narrow(0, row, 1);
            let picture = match tiles {
                Some(tiles) => vae.decode_tiled(z, tiles),
                None => vae.decode(z),
            };
            let picture = host(&Batch::of(picture.map_err(wrong)?));
            self.check_finite(vae, &picture.values)?;
            all.shape[1..].copy_from_slice(&picture.shape[1..]);
            all.values.extend(picture.values);
        }
        Ok(all)
    }

    fn check_finite(&self, vae: &Autoencoder, values: &[f32]) -> Result<(), PipelineError> {
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => {
                let weight = match vae {
                    Autoencoder::Kl(vae) => non_finite(&**vae),
                    Autoencoder::Tiny(vae) => non_finite(&**vae),
                };
                Err(broken(self.model.kind.autoencoder.unwrap_or("autoencoder"), weight))
            }
        }
    }
}

/// The values of a batch with their shape, `[B, …]`.
pub(crate) fn host(x: &Batch) -> HostTensor {
    let shape = std::iter::once(x.len()).chain(x.shape().dims().iter().copied()).collect();
    HostTensor { shape, values: x.to_host() }
}

/// The shape of the samples of a model whose media have this size.
pub(crate) fn samples_of(vae: Option<&Autoencoder>, channels: usize, size: &[usize]) -> SampleShape {
    match vae {
        Some(vae) => {
            let axes: Vec<usize> = size.iter().map(|n| n / vae.stride()).collect();
            SampleShape::new(vae.latent_channels(), &axes)
        }
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
