//! The project's small image encoder.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use tweedie_ops::{ConvOptions, add};

use crate::{
    layers::{Activation, Conv2d, GroupNorm, Init, Linear},
    params::{ParamError, TensorSource, import, settle},
};

/// Channels at the size of the image, and at a half, a quarter and an eighth of it.
const CHANNELS: [usize; 4] = [32, 64, 96, 128];

/// Residual stages, each at half the size of the previous one, and a global mean.
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
    /// Number of features of an image.
    pub const FEATURES: usize = 64;
    /// Height and width of its training images.
    pub const SIDE: usize = 32;

    /// Creates it with initial weights from `seed`, for `classes` classes.
    pub fn new(classes: usize, seed: u64, device: &Device) -> Self {
        let init = Init::new(seed, device);
        let stage = |i: usize| Stage::new(&init.at("stages").at(i), CHANNELS[i], CHANNELS[i + 1]);
        settle(Self {
            stem: Conv2d::new(&init.at("stem"), 3, CHANNELS[0], 3, false),
            norm: GroupNorm::new(&init.at("norm"), 8, CHANNELS[0], 1e-5),
            stages: (0..CHANNELS.len() - 1).map(stage).collect(),
            features: Linear::new(&init.at("features"), CHANNELS[3], Self::FEATURES, true),
            classes: Linear::new(&init.at("classes"), Self::FEATURES, classes, true),
        })
    }

    /// Creates it with the weights of `source`, which determines the number of classes.
    ///
    /// # Errors
    /// If a tensor is missing, unexpected, has the wrong shape or cannot be read.
    pub fn load(source: &dyn TensorSource, device: &Device) -> Result<Self, ParamError> {
        let classes = source.shape("classes.bias").and_then(|shape| shape.first().copied());
        import(Self::new(classes.unwrap_or(1), 0, device), source)
    }

    /// Features `[B, 64]` and class logits `[B, classes]` of images `[B, 3, 32, 32]` in `-1..=1`.
    pub fn forward(&self, planes: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let mut x = self.enter(planes);
        for stage in &self.stages {
            x = stage.forward(x);
        }
        let pooled: Tensor<2> = x.mean_dim(3).mean_dim(2).flatten::<2>(1, 3);
        let features = self.features.forward(pooled);
        let logits = self.classes.forward(features.clone());
        (features, logits)
    }

    /// Activations of all stages for images `[B, 3, H, W]` in `-1..=1`: `[B, C, H, W]` with 32, 64, 96 and 128 channels,
    /// each at half the size of the previous one.
    pub fn layers(&self, planes: Tensor<4>) -> Vec<Tensor<4>> {
        let mut layers = vec![self.enter(planes)];
        for stage in &self.stages {
            layers.extend(layers.last().cloned().map(|x| stage.forward(x)));
        }
        layers
    }

    fn enter(&self, planes: Tensor<4>) -> Tensor<4> {
        self.norm.then(Activation::Silu, self.stem.forward(planes, ConvOptions::same(1)))
    }
}
