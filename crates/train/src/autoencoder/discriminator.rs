//! A patch discriminator (Isola et al. 2017, arXiv:1611.07004, sec. 3.2.2).

use burn::{
    module::Module,
    tensor::{
        Device, Tensor,
        activation::{leaky_relu, relu},
    },
};
use tweedie_models::{
    layers::{Conv2d, GroupNorm, Init, channels_last},
    settle,
};
use tweedie_ops::ConvOptions;

use super::config::AdversarialConfig;

const SLOPE: f64 = 0.2;
const GROUPS: usize = 8;
/// Kernel size.
const KERNEL: usize = 4;

/// 4×4 convolutions with stride 2, then two with stride 1. Uses group instead of batch normalization, so that the output
/// for an image does not depend on the others.
#[derive(Module, Debug)]
pub(crate) struct Discriminator {
    first: Conv2d,
    layers: Vec<Layer>,
    last: Conv2d,
}

#[derive(Module, Debug)]
struct Layer {
    conv: Conv2d,
    norm: GroupNorm,
    stride: usize,
}

impl Discriminator {
    pub fn new(config: &AdversarialConfig, seed: u64, device: &Device) -> Self {
        let init = Init::new(seed, device).at("discriminator");
        let width = |level: usize| config.channels << level.min(3);
        let layer = |level: usize| {
            let init = init.at("layers").at(level - 1);
            Layer {
                conv: Conv2d::new(&init.at("conv"), width(level - 1), width(level), KERNEL, false),
                norm: GroupNorm::new(&init.at("norm"), GROUPS, width(level), 1e-5),
                stride: if level < config.layers { 2 } else { 1 },
            }
        };
        settle(Self {
            first: Conv2d::new(&init.at("first"), 3, width(0), KERNEL, true),
            layers: (1..=config.layers).map(layer).collect(),
            last: Conv2d::new(&init.at("last"), width(config.layers), 1, KERNEL, true),
        })
    }

    /// One value per patch, positive for real ones, of images `[B, 3, H, W]`: `[B, 1, h, w]`.
    pub fn forward(&self, planes: Tensor<4>) -> Tensor<4> {
        let activate = |x| channels_last(x, |x| leaky_relu(x, SLOPE));
        let mut x = activate(self.first.forward(planes, ConvOptions::strided(2, 1)));
        for layer in &self.layers {
            let y = layer.conv.forward(x, ConvOptions::strided(layer.stride, 1));
            x = activate(layer.norm.forward(y));
        }
        self.last.forward(x, ConvOptions::same(1))
    }

    /// The hinge loss: real patches should be above 1, decoded ones below −1.
    pub fn loss(&self, real: Tensor<4>, decoded: Tensor<4>) -> Tensor<1> {
        let real = relu(self.forward(real).neg().add_scalar(1.0f32)).mean();
        let decoded = relu(self.forward(decoded).add_scalar(1.0f32)).mean();
        (real + decoded).mul_scalar(0.5f32)
    }
}
