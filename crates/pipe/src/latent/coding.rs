//! Conversion between images and latents.

use burn::tensor::Tensor;
use tweedie_data::Image;
use tweedie_models::{Autoencoder, HostTensor, InputError, Precision, params::non_finite, vae::Tiles};
use tweedie_ops::from_host;

use super::LatentPipeline;
use crate::{
    PipelineError, Request,
    error::broken,
    memory,
    pipeline::{host, images},
};

/// Images with more pixels are decoded and encoded in tiles of [`TILE`] pixels, unless the request sets a size.
const WHOLE: usize = 1024 * 1024;
const TILE: usize = 512;

impl LatentPipeline {
    /// The unscaled latents of an image, and the logarithm of their variance.
    pub(super) fn encode(
        &self,
        vae: &Autoencoder,
        image: &Image,
        [height, width]: [usize; 2],
        request: &Request,
    ) -> Result<(Tensor<4>, Option<Tensor<4>>), PipelineError> {
        if (image.height, image.width) != (height, width) {
            let found = format!("{}×{} pixels", image.height, image.width);
            return Err(PipelineError::request("image", format!("{found}, expected {height}×{width}")));
        }
        let x = from_host(image.to_planes(), [1, 3, height, width], &self.device);
        let encoded = match self.tiles(request, [height, width]) {
            Some(tiles) => vae.encode_tiled(x, tiles),
            None => vae.encode(x),
        };
        let (mean, logvar) = encoded.map_err(|e| PipelineError::request("image", e.to_string()))?;
        for values in std::iter::once(&mean).chain(&logvar) {
            self.check_finite(vae, &host(values.clone()).values)?;
        }
        Ok((mean, logvar))
    }

    /// How an image is tiled for the autoencoder.
    fn tiles(&self, request: &Request, [height, width]: [usize; 2]) -> Option<Tiles> {
        let large = height.saturating_mul(width) > WHOLE;
        let pixels = request.vae_tile.map(std::num::NonZeroUsize::get).or(large.then_some(TILE))?;
        Some(Tiles::new((pixels / self.model.autoencoder.stride()).max(8)))
    }

    /// Approximate bytes to decode one image.
    pub(super) fn decoding(&self, request: &Request, size: [usize; 2], precision: Precision) -> u64 {
        let whole = size[0].saturating_mul(size[1]);
        let tile = self
            .tiles(request, size)
            .map(|tiles| tiles.latents.saturating_mul(self.model.autoencoder.stride()));
        let pixels = tile.map_or(whole, |side| whole.min(side.saturating_mul(side)));
        let channels = match &self.model.autoencoder {
            Autoencoder::Kl(vae) => vae.config().block_out_channels.first().copied(),
            Autoencoder::Tiny(_) => Some(64),
        };
        memory::decoding(channels.unwrap_or(0), pixels, precision)
    }

    /// Decodes latents as the network uses them, `[rows, C, h, w]`, with `small` or the model's own autoencoder, for previews.
    ///
    /// # Errors
    /// If the latents of `small` have another number of channels, or the images do not have three.
    /// If the latents of `small` have another number of channels, or the images do not have three.
    /// If `small` has latents of other channels, or the pictures are not of three.
    pub fn pictures(
        &self,
        latents: &HostTensor,
        small: Option<&Autoencoder>,
    ) -> Result<Vec<Image>, PipelineError> {
        let fail = |reason: String| PipelineError::request("preview", reason);
        let vae = small.unwrap_or(&self.model.autoencoder);
        let &[rows, c, h, w] = latents.shape.as_slice() else {
            return Err(fail(format!("latents of shape {:?}", latents.shape)));
        };
        if c != vae.latent_channels() {
            let found = vae.latent_channels();
            return Err(fail(format!("the autoencoder has {found} latent channels, but the model has {c}")));
        }
        let z = vae.unscaled(from_host(latents.values.clone(), [rows, c, h, w], &self.device));
        let stride = vae.stride();
        let tiles = (h * w * stride * stride > WHOLE).then(|| Tiles::new((TILE / stride).max(8)));
        let mut found = Vec::new();
        for row in 0..rows {
            let z = z.clone().narrow(0, row, 1);
            let picture = match tiles {
                Some(tiles) => vae.decode_tiled(z, tiles),
                None => vae.decode(z),
            };
            let picture = host(picture.map_err(|e| fail(e.to_string()))?);
            self.check_finite(vae, &picture.values)?;
            let images = images(&picture);
            found.extend(images.ok_or_else(|| fail("the autoencoder's output is not an image".into()))?);
        }
        Ok(found)
    }

    /// The decoded values. Images are decoded one at a time, so that memory does not grow with their number.
    pub(super) fn decode(
        &self,
        vae: &Autoencoder,
        latents: Tensor<4>,
        request: &Request,
    ) -> Result<Vec<f32>, PipelineError> {
        let latents = vae.unscaled(latents);
        let fail = |e: InputError| PipelineError::request("size", e.to_string());
        let [_, _, h, w] = latents.dims();
        let tiles = self.tiles(request, [h, w].map(|n| n * vae.stride()));
        let mut values = Vec::new();
        for row in 0..latents.dims()[0] {
            let z = latents.clone().narrow(0, row, 1);
            let picture = match tiles {
                Some(tiles) => vae.decode_tiled(z, tiles),
                None => vae.decode(z),
            };
            let picture = host(picture.map_err(fail)?).values;
            self.check_finite(vae, &picture)?;
            values.extend(picture);
        }
        Ok(values)
    }

    fn check_finite(&self, vae: &Autoencoder, values: &[f32]) -> Result<(), PipelineError> {
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => {
                let weight = match vae {
                    Autoencoder::Kl(vae) => non_finite(&**vae),
                    Autoencoder::Tiny(vae) => non_finite(&**vae),
                };
                Err(broken(self.model.class.autoencoder(), weight))
            }
        }
    }
}
