//! The built-in encoder: a small convolutional network trained to classify the built-in emoji and their subgroups under
//! shifts, scaling and colour changes, and to estimate blur, noise and distortion. The example `train_encoder` trains it.
//!
//! It sees images at 32×32. Each of its 64 features has mean 0 and variance 1 over its training emoji.

use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use tweedie_data::Image;
use tweedie_hub::encoder;
use tweedie_models::perceptual::EncoderNet;
use tweedie_ops::{from_host, to_host};

use super::{ExtractError, Extracted, Extractor, Progress, in_batches, resize::planes, stored::Fnv};

const SIDE: usize = EncoderNet::SIDE;
const FEATURES: usize = EncoderNet::FEATURES;
/// Images per network call.
const BATCH: usize = 64;

/// The encoder, ready to score images.
pub struct Encoder {
    net: EncoderNet,
    device: Device,
    fingerprint: u64,
}

impl Encoder {
    /// Loads the built-in encoder.
    ///
    /// # Errors
    /// Never, unless the program was built with a damaged file.
    pub fn embedded(device: &Device) -> Result<Self, ExtractError> {
        let net = encoder::embedded(device)?;
        let mut hash = Fnv::default();
        hash.bytes(encoder::WEIGHTS);
        Ok(Self { net, device: device.clone(), fingerprint: hash.finish() })
    }
}

/// Input values `[B, 3, 32, 32]` of images.
pub fn input(images: &[Image], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = images.par_iter().flat_map_iter(|image| planes(image, SIDE)).collect();
    from_host(values, [images.len(), 3, SIDE, SIDE], device)
}

impl Extractor for Encoder {
    fn name(&self) -> &str {
        "the built-in encoder (64 features of 32×32 images, trained on emoji)"
    }

    fn comparable(&self) -> &str {
        "only comparable with each other, neither with FID of Inception-v3 nor with published scores"
    }

    fn dim(&self) -> usize {
        FEATURES
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    fn extract(&self, images: &[Image], on: Progress<'_>) -> Result<Extracted, ExtractError> {
        in_batches(images, BATCH, on, |chunk| {
            let (features, logits) = self.net.forward(input(chunk, &self.device));
            let classes = logits.dims()[1];
            ([FEATURES, classes], to_host(features), to_host(logits))
        })
    }
}
