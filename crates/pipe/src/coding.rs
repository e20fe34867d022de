//! Conversion between media and the samples of a network: by a codec, or unchanged.

use std::{num::NonZeroUsize, ops::Range};

use tweedie_media::Image;
use tweedie_models::{Codec, Encoded, HostTensor, InputError, Precision, memory, vae::Tiles};
use tweedie_ops::{Batch, SampleShape, Tensor};

use crate::{PipelineError, Request, error::broken, job::Job, media::Media};

/// Images with more pixels are decoded and encoded in tiles of [`TILE`] pixels, unless the request sets a size.
const WHOLE: usize = 1024 * 1024;
const TILE: usize = 512;

/// How images of this size are tiled for the codec.
fn tiles(codec: &dyn Codec, request: &Request, size: &[usize]) -> Option<Tiles> {
    // Only images have tiles.
    let large = size.len() == 2 && area(size) > WHOLE;
    let pixels = request.vae_tile.map(NonZeroUsize::get).or(large.then_some(TILE))?;
    Some(Tiles::new((pixels / codec.spec().stride).max(8)))
}

/// Pixels of an image, or of a frame.
fn area(size: &[usize]) -> usize {
    size.iter().rev().take(2).fold(1, |product, n| product.saturating_mul(*n))
}

/// Encodes media of this size: in tiles, if they are large or the request says so.
pub(crate) fn encoded(
    codec: &dyn Codec,
    request: &Request,
    x: Batch,
    size: &[usize],
) -> Result<Encoded, InputError> {
    match tiles(codec, request, size) {
        Some(tiles) => codec.encode_tiled(&x, tiles),
        None => codec.encode(x),
    }
}

/// The frames of clips, which a codec of images leaves as they are, and the other axes.
fn frames_first<'a>(codec: &dyn Codec, axes: &'a [usize]) -> (&'a [usize], &'a [usize]) {
    axes.split_at(usize::from(axes.len() == 3 && codec.spec().axes == 2))
}

/// The axes of the latents of media with these axes.
pub(crate) fn latent_axes(codec: &dyn Codec, media: &[usize]) -> Vec<usize> {
    let (frames, axes) = frames_first(codec, media);
    [frames, &codec.latent_axes(axes)].concat()
}

/// The axes of the media of latents with these axes.
pub(crate) fn media_axes(codec: &dyn Codec, latents: &[usize]) -> Vec<usize> {
    let (frames, axes) = frames_first(codec, latents);
    [frames, &codec.media_axes(axes)].concat()
}

/// A clip in parts of at most `most` frames, or itself.
fn parts(x: Batch, most: Option<NonZeroUsize>) -> Vec<Batch> {
    let (&[_, frames, _, _], Some(most)) = (x.shape().dims(), most) else { return vec![x] };
    let most = most.get();
    let part = |start: usize| Batch::of(x.tensor::<5>().narrow(2, start, most.min(frames - start)));
    (0..frames).step_by(most).map(part).collect()
}

/// The frames of one clip as images, or the image itself.
fn frames(x: &Batch) -> Vec<Batch> {
    let &[channels, frames, height, width] = x.shape().dims() else { return vec![x.clone()] };
    let frame = |f: usize| x.tensor::<5>().narrow(2, f, 1).reshape([1, channels, height, width]);
    (0..frames).map(|f| Batch::of(frame(f))).collect()
}

/// The inverse of [`frames`] and [`parts`] for samples with this number of axes.
pub(crate) fn joined(images: Vec<Batch>, axes: usize) -> Option<Batch> {
    if axes != 3 {
        return images.into_iter().next();
    }
    let part = |x: &Batch| match x.shape().axes().len() {
        3 => x.tensor::<5>(),
        _ => x.tensor::<4>().unsqueeze_dim(2),
    };
    let parts: Vec<Tensor<5>> = images.iter().map(part).collect();
    (!parts.is_empty()).then(|| Batch::of(Tensor::cat(parts, 2)))
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
    // A codec of clips has all frames of a part at once, or those of one latent.
    let frames = match (spec.axes, size.first()) {
        (3, Some(&frames)) if codec.decodes_parts() => {
            request.vae_frames.map_or(frames, |most| most.get().min(frames))
        }
        (3, Some(&frames)) => {
            let made = |latents: usize| codec.media_axes(&[latents, 1, 1]).first().copied().unwrap_or(1);
            made(2).saturating_sub(made(1)).clamp(1, frames.max(1))
        }
        _ => 1,
    };
    let pixels = pixels.saturating_mul(frames);
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
    pub(crate) fn encode_planes(&self, values: Vec<f32>) -> Result<Encoded, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let Some(codec) = self.codec.as_deref() else {
            let mean = Batch::from_host(values, 1, &self.shape, &self.device);
            return Ok(Encoded { mean, logvar: None });
        };
        let x = Batch::from_host(values, 1, &SampleShape::new(self.channels(), &self.size), &self.device);
        let (leading, _) = frames_first(codec, &self.size);
        let parts = if leading.is_empty() { vec![x] } else { frames(&x) };
        let encoded = parts.into_iter().map(|x| encoded(codec, &self.request, x, &self.size));
        let encoded: Result<Vec<Encoded>, InputError> = encoded.collect();
        let (means, logvars): (Vec<_>, Vec<_>) =
            encoded.map_err(|e| fail(e.to_string()))?.into_iter().map(|one| (one.mean, one.logvar)).unzip();
        let axes = if leading.is_empty() { 2 } else { 3 };
        let mean = joined(means, axes).ok_or_else(|| fail("the clip has no frames".into()))?;
        let logvar = logvars.into_iter().collect::<Option<Vec<_>>>().and_then(|all| joined(all, axes));
        let encoded = Encoded { mean, logvar };
        for values in std::iter::once(&encoded.mean).chain(&encoded.logvar) {
            self.check_finite(codec, &values.to_host())?;
        }
        Ok(encoded)
    }

    /// A frame of a clip as an image of the network's frames, unscaled.
    pub(crate) fn encode_frame(&self, image: &Image) -> Result<Encoded, PipelineError> {
        let fail = |reason: String| PipelineError::request("continue", reason);
        let channels = if self.codec.is_some() { 3 } else { self.shape.channels() };
        let values = image.planes_of(channels);
        let values = values.ok_or_else(|| fail(format!("this model's samples have {channels} channels")))?;
        let x = Batch::from_host(values, 1, &[channels, image.height, image.width].into(), &self.device);
        let Some(codec) = self.codec.as_deref() else { return Ok(Encoded { mean: x, logvar: None }) };
        let encoded = encoded(codec, &self.request, x, &[image.height, image.width]);
        let encoded = encoded.map_err(|e| fail(e.to_string()))?;
        self.check_finite(codec, &encoded.mean.to_host())?;
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
            None => Ok(self.with_kept(self.cropped(host(samples)))),
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
        let size = media_axes(codec, samples.shape().axes());
        let tiles = tiles(codec, &self.request, &size);
        let mut all =
            HostTensor { shape: [&[samples.len(), spec.media][..], &size].concat(), values: Vec::new() };
        for row in 0..samples.len() {
            let row = latents.narrow(row..row + 1);
            let pieces = match spec.axes {
                3 => parts(row, self.request.vae_frames),
                _ => frames(&row),
            };
            let decoded = pieces.into_iter().map(|z| match tiles {
                Some(tiles) => codec.decode_tiled(&z, tiles),
                None => codec.decode(z),
            });
            let decoded = decoded.collect::<Result<Vec<_>, InputError>>().map_err(|e| fail(e.to_string()))?;
            let made = joined(decoded, samples.shape().axes().len())
                .ok_or_else(|| fail("the clip has no frames".into()))?;
            let made = host(&made);
            self.check_finite(codec, &made.values)?;
            all.shape[1..].copy_from_slice(&made.shape[1..]);
            all.values.extend(made.values);
        }
        Ok(self.with_kept(self.cropped(all)))
    }

    /// The part of images or sounds that is the result.
    fn cropped(&self, all: HostTensor) -> HostTensor {
        match &self.crop {
            Some(part) => crop(all, part),
            None => all,
        }
    }

    fn check_finite(&self, codec: &dyn Codec, values: &[f32]) -> Result<(), PipelineError> {
        match values.iter().all(|v| v.is_finite()) {
            true => Ok(()),
            false => Err(broken(self.model.kind.autoencoder.unwrap_or("autoencoder"), codec.non_finite())),
        }
    }
}

/// The part of media `[B, C, …]` with these ranges of their axes: of sounds or images.
fn crop(all: HostTensor, part: &[Range<usize>]) -> HostTensor {
    let (&[rows, channels, ref axes @ ..], Some((across, down))) = (&*all.shape, part.split_last()) else {
        return all;
    };
    let (h, w) = match *axes {
        [w] => (1, w),
        [h, w] => (h, w),
        _ => return all,
    };
    let down = down.first().cloned().unwrap_or(0..1);
    let line = |i: usize| &all.values[i * w + across.start..i * w + across.end];
    let lines = (0..rows * channels).flat_map(|plane| down.clone().map(move |y| plane * h + y));
    let values = lines.flat_map(line).copied().collect();
    let axes = part.iter().map(Range::len);
    HostTensor { shape: [rows, channels].into_iter().chain(axes).collect(), values }
}

/// The values of a batch with their shape, `[B, …]`.
pub(crate) fn host(x: &Batch) -> HostTensor {
    let shape = std::iter::once(x.len()).chain(x.shape().dims().iter().copied()).collect();
    HostTensor { shape, values: x.to_host() }
}

/// The shape of the samples of a model whose media have this size.
pub(crate) fn samples_of(codec: Option<&dyn Codec>, channels: usize, size: &[usize]) -> SampleShape {
    match codec {
        Some(codec) => SampleShape::new(codec.spec().latents, &latent_axes(codec, size)),
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
