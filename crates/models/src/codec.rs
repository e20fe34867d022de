//! The common interface of autoencoders between media and latents.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use tweedie_ops::{Batch, ExecContext, SampleShape};

use crate::{network::InputError, params::HostTensor, vae::Tiles};

/// What a codec takes and gives.
#[derive(Clone, Debug, PartialEq)]
pub struct CodecSpec {
    /// The name of the class.
    pub class: &'static str,
    /// Channels of the media.
    pub media: usize,
    /// Channels of the latents.
    pub latents: usize,
    /// Number of axes of the media.
    pub axes: usize,
    /// Values of the media along an axis per value of the latents.
    pub stride: usize,
    /// Channels of the largest map, which has the size of the media.
    pub width: usize,
    /// Diffusion uses the latents `(z − shift)·scale`, per channel.
    pub scale: Vec<f64>,
    /// See [`Self::scale`].
    pub shift: Vec<f64>,
}

/// The distribution of latents: independent normals.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The mean, unscaled.
    pub mean: Batch,
    /// The logarithm of the variance, unless the codec is deterministic.
    pub logvar: Option<Batch>,
}

/// Converts between media, in −1..1, and latents.
pub trait Codec: std::fmt::Debug + Send + Sync {
    /// What it takes and gives.
    fn spec(&self) -> CodecSpec;

    /// The axes of the latents of media with these axes, multiples of the stride.
    fn latent_axes(&self, media: &[usize]) -> Vec<usize> {
        let stride = self.spec().stride;
        media.iter().map(|n| n / stride).collect()
    }

    /// The axes of the media of latents with these axes.
    fn media_axes(&self, latents: &[usize]) -> Vec<usize> {
        let stride = self.spec().stride;
        latents.iter().map(|n| n.saturating_mul(stride)).collect()
    }

    /// Whether clips may be decoded in parts of any number of frames. Frames of one part see each other.
    fn decodes_parts(&self) -> bool {
        false
    }

    /// Values of audio per second, if the codec says it.
    fn rate(&self) -> Option<u32> {
        None
    }

    /// The unscaled latents of media. Axes must be multiples of the stride.
    ///
    /// # Errors
    /// Says which dimension is wrong and what was expected.
    fn encode(&self, media: Batch) -> Result<Encoded, InputError>;

    /// The media of unscaled latents.
    ///
    /// # Errors
    /// If the number of channels is wrong.
    fn decode(&self, latents: Batch) -> Result<Batch, InputError>;

    /// The same codec, whose calls run in `context`. Parameters are shared.
    fn in_context(&self, context: &ExecContext) -> Box<dyn Codec>;

    /// The same codec as a constant function of its input, for gradients with respect to the input.
    fn differentiable(&self) -> Box<dyn Codec>;

    /// The `config.json` for diffusers.
    fn config_json(&self) -> String;

    /// All parameters by name.
    fn tensors(&self) -> BTreeMap<String, HostTensor>;

    /// The name of a parameter that is not finite, if any.
    fn non_finite(&self) -> Option<String>;
}

impl dyn Codec + '_ {
    /// Converts latents to the scale of diffusion.
    pub fn scaled(&self, z: &Batch) -> Batch {
        let CodecSpec { scale, shift, .. } = self.spec();
        let [scale, shift] = [scale, shift].map(|values| per_channel(z, values));
        z.with_rows((z.rows().clone() - shift) * scale)
    }

    /// The inverse of `scaled`.
    pub fn unscaled(&self, z: &Batch) -> Batch {
        let CodecSpec { scale, shift, .. } = self.spec();
        let [scale, shift] = [scale, shift].map(|values| per_channel(z, values));
        z.with_rows(z.rows().clone() / scale + shift)
    }

    /// Like [`Codec::decode`] for images, in overlapping tiles that are blended. Memory depends on the tile, not the image.
    /// Each tile is normalized separately, so the result differs slightly.
    ///
    /// # Errors
    /// Those of [`Codec::decode`].
    pub fn decode_tiled(&self, latents: &Batch, tiles: Tiles) -> Result<Batch, InputError> {
        let spec = self.spec();
        are_images(latents.shape())?;
        let decode = &mut |tile| Ok(self.decode(Batch::of(tile))?.tensor::<4>());
        Ok(Batch::of(tiles.map(latents.tensor::<4>(), (spec.stride, 1), decode)?))
    }

    /// Like [`Codec::encode`] for images, in tiles.
    ///
    /// # Errors
    /// Those of [`Codec::encode`].
    pub fn encode_tiled(&self, media: &Batch, tiles: Tiles) -> Result<Encoded, InputError> {
        let spec = self.spec();
        are_images(media.shape())?;
        let wrong = |n: &&usize| !n.is_multiple_of(spec.stride);
        if let Some(n) = media.shape().axes().iter().find(wrong) {
            return Err(InputError(format!(
                "the images have a side of {n} pixels, expected multiples of {}",
                spec.stride
            )));
        }
        let moments = tiles.map(media.tensor::<4>(), (1, spec.stride), &mut |tile| {
            let Encoded { mean, logvar } = self.encode(Batch::of(tile))?;
            Ok(Batch::cat_channels(&std::iter::once(mean).chain(logvar).collect::<Vec<_>>()).tensor::<4>())
        })?;
        let (moments, n) = (Batch::of(moments), spec.latents);
        let logvar = (moments.shape().channels() > n).then(|| moments.channels(n..2 * n));
        Ok(Encoded { mean: moments.channels(0..n), logvar })
    }
}

/// One value per channel as a row, `[1, values of a sample]`.
fn per_channel(z: &Batch, values: Vec<f64>) -> Tensor<2> {
    let each: usize = z.shape().axes().iter().product();
    let row: Vec<f32> = values.into_iter().flat_map(|v| std::iter::repeat_n(v as f32, each)).collect();
    let shape = [1, row.len()];
    Tensor::from_data(TensorData::new(row, shape), (&z.device(), DType::F32))
}

fn are_images(shape: &SampleShape) -> Result<(), InputError> {
    match shape.axes().len() {
        2 => Ok(()),
        _ => Err(InputError(format!(
            "only images are decoded and encoded in tiles, not samples of shape {shape}"
        ))),
    }
}
