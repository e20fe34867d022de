//! The encoder that the crate carries in itself: a small convolutional network that was trained to tell the
//! built-in emoji apart, each from all others and each subgroup from the others, under changes of place, size
//! and colour, and to say how blurred, noisy and bent each is. The example `train_encoder` trains it and writes `encoder/encoder.safetensors`.
//!
//! It sees pictures at 32×32. Each of its 64 features has mean 0 and variance 1 over the emoji that it was trained
//! on.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use rayon::prelude::*;
use tweedie_data::Image;
use tweedie_hub::SafetensorsFile;
use tweedie_models::{
    ParamError, TensorSource, import,
    layers::{Activation, Conv2d, GroupNorm, Init, Linear},
    settle,
};
use tweedie_ops::{ConvOptions, add, from_host, to_host};

use super::{ExtractError, Extracted, Extractor, Progress, in_batches, resize::planes, stored::Fnv};

static WEIGHTS: &[u8] = include_bytes!("../../encoder/encoder.safetensors");

/// Features of a picture.
pub(crate) const FEATURES: usize = 64;
/// Side of the pictures that the network sees.
const SIDE: usize = 32;
/// Channels at 32², 16², 8² and 4².
const CHANNELS: [usize; 4] = [32, 64, 96, 128];
/// Pictures of a network call.
const BATCH: usize = 64;

/// The network: residual stages, each of half the size of the one before, and the mean over what is left.
#[derive(Module, Debug)]
pub struct EncoderNet {
    stem: Conv2d,
    norm: GroupNorm,
    stages: Vec<Stage>,
    features: Linear,
    classes: Linear,
}

#[derive(Module, Debug)]
struct Stage {
    down: Conv2d,
    norm1: GroupNorm,
    conv: Conv2d,
    norm2: GroupNorm,
}

impl Stage {
    fn new(init: &Init, inputs: usize, outputs: usize) -> Self {
        Self {
            down: Conv2d::new(&init.at("down"), inputs, outputs, 3, false),
            norm1: GroupNorm::new(&init.at("norm1"), 8, outputs, 1e-5),
            conv: Conv2d::new(&init.at("conv"), outputs, outputs, 3, false),
            norm2: GroupNorm::new(&init.at("norm2"), 8, outputs, 1e-5),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.down.forward(x, ConvOptions::strided(2, 1));
        let x = self.norm1.then(Activation::Silu, x);
        let y = self.conv.forward(x.clone(), ConvOptions::same(1));
        add(x, self.norm2.then(Activation::Silu, y))
    }
}

impl EncoderNet {
    /// With initial weights of `seed`, for `classes` classes.
    pub fn new(classes: usize, seed: u64, device: &Device) -> Self {
        let init = Init::new(seed, device);
        let stage = |i: usize| Stage::new(&init.at("stages").at(i), CHANNELS[i], CHANNELS[i + 1]);
        settle(Self {
            stem: Conv2d::new(&init.at("stem"), 3, CHANNELS[0], 3, false),
            norm: GroupNorm::new(&init.at("norm"), 8, CHANNELS[0], 1e-5),
            stages: (0..CHANNELS.len() - 1).map(stage).collect(),
            features: Linear::new(&init.at("features"), CHANNELS[3], FEATURES, true),
            classes: Linear::new(&init.at("classes"), FEATURES, classes, true),
        })
    }

    /// With the weights of `source`, which has as many classes as it has.
    ///
    /// # Errors
    /// A missing, superfluous or unreadable tensor, or one of another shape.
    pub fn load(source: &dyn TensorSource, device: &Device) -> Result<Self, ParamError> {
        let classes = source.shape("classes.bias").and_then(|shape| shape.first().copied());
        import(Self::new(classes.unwrap_or(1), 0, device), source)
    }

    /// Features `[B, 64]` and logits of the classes `[B, classes]` of planes `[B, 3, 32, 32]` in `-1..=1`.
    pub fn forward(&self, planes: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let x = self.stem.forward(planes, ConvOptions::same(1));
        let x = self.norm.then(Activation::Silu, x);
        let x = self.stages.iter().fold(x, |x, stage| stage.forward(x));
        let pooled: Tensor<2> = x.mean_dim(3).mean_dim(2).flatten::<2>(1, 3);
        let features = self.features.forward(pooled);
        let logits = self.classes.forward(features.clone());
        (features, logits)
    }
}

/// The encoder, ready to score pictures.
pub struct Encoder {
    net: EncoderNet,
    device: Device,
    fingerprint: u64,
}

impl Encoder {
    /// The one that comes with the crate.
    ///
    /// # Errors
    /// Never, unless the crate was built with a damaged file.
    pub fn embedded(device: &Device) -> Result<Self, ExtractError> {
        let name = "the built-in encoder";
        let file = SafetensorsFile::from_static(name, WEIGHTS)?;
        let net = EncoderNet::load(&file, device);
        let net = net.map_err(|source| ExtractError::Tensors { path: name.into(), source })?;
        let mut hash = Fnv::default();
        hash.bytes(WEIGHTS);
        Ok(Self { net, device: device.clone(), fingerprint: hash.finish() })
    }
}

/// Planes `[B, 3, 32, 32]` of pictures, as the encoder sees them.
pub fn input(images: &[Image], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = images.par_iter().flat_map_iter(|image| planes(image, SIDE)).collect();
    from_host(values, [images.len(), 3, SIDE, SIDE], device)
}

impl Extractor for Encoder {
    fn name(&self) -> &str {
        "the project's encoder (64 features of 32×32 pictures, trained on emoji)"
    }

    fn comparable(&self) -> &str {
        "comparable with each other only: neither with FID of Inception-v3 nor with anything published"
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
