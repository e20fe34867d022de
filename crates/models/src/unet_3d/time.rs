//! Layers over time. Maps of frames are `[B·F, C, H, W]`; here they become maps `[B, C, F, H·W]`, without a copy because the
//! memory is channels-last, so that the kernels for images serve them.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{self as ops, Added, ConvOptions, Kernel, Norm};

use crate::{
    layers::{Either, GroupNorm, Init, Linear},
    unet_condition::transformer::{TransformerLayer, TransformerSpec},
};

/// Added to variances, fixed in the published networks: in the convolutions and in the transformers.
const CONV_EPS: f64 = 1e-5;
const GROUP_EPS: f64 = 1e-6;

/// Clips `[B, C, F, H, W]` as frames `[B·F, C, H, W]`.
pub(crate) fn frames_of(x: Tensor<5>) -> Tensor<4> {
    let [b, c, f, h, w] = x.dims();
    x.permute([0, 2, 3, 4, 1]).reshape([b * f, h, w, c]).permute([0, 3, 1, 2])
}

/// The inverse of [`frames_of`].
pub(crate) fn clips_of(x: Tensor<4>, frames: usize) -> Tensor<5> {
    let [rows, c, h, w] = x.dims();
    let frames = frames.max(1);
    x.permute([0, 2, 3, 1]).reshape([rows / frames, frames, h, w, c]).permute([0, 4, 1, 2, 3])
}

/// `[B·F, C, H, W]` as `[B, C, F, H·W]`.
pub(crate) fn over_time(x: Tensor<4>, frames: usize) -> Tensor<4> {
    let [rows, c, h, w] = x.dims();
    x.permute([0, 2, 3, 1]).reshape([rows / frames, frames, h * w, c]).permute([0, 3, 1, 2])
}

/// The inverse of [`over_time`], for maps of height `h`.
pub(crate) fn in_frames(x: Tensor<4>, h: usize) -> Tensor<4> {
    let [b, c, f, pixels] = x.dims();
    x.permute([0, 2, 3, 1]).reshape([b * f, h, pixels / h.max(1), c]).permute([0, 3, 1, 2])
}

/// A convolution over three frames.
#[derive(Module, Debug)]
pub struct FrameConv {
    /// `[out, in, 3, 1, 1]`.
    weight: Param<Tensor<5>>,
    /// `[out]`.
    bias: Param<Tensor<1>>,
}

impl FrameConv {
    /// With weights and bias uniform within `1/√(3·in)`.
    pub(crate) fn new(init: &Init, channels: usize) -> Self {
        let bound = 1.0 / ((3 * channels) as f64).sqrt();
        Self {
            weight: init.uniform("weight", [channels, channels, 3, 1, 1], bound),
            bias: init.uniform("bias", [channels], bound),
        }
    }

    fn zeros(init: &Init, channels: usize) -> Self {
        Self {
            weight: init.constant("weight", [channels, channels, 3, 1, 1], 0.0),
            bias: init.constant("bias", [channels], 0.0),
        }
    }

    pub(crate) fn kernel(&self) -> Kernel {
        let weight = self.weight.val();
        let [outputs, inputs, taps, ..] = weight.dims();
        let padding = [1, 0];
        Kernel {
            weight: weight.reshape([outputs, inputs, taps, 1]),
            bias: Some(self.bias.val()),
            options: ConvOptions { pad_before: padding, pad_after: padding, ..ConvOptions::same(0) },
        }
    }
}

/// Normalization and convolution at their places in diffusers' list; an activation, and dropout that is not used here, are at
/// the others.
type Steps = Vec<Option<Either<GroupNorm, FrameConv>>>;

/// Four times normalization over all frames, SiLU and a convolution over time, and a residual connection.
#[derive(Module, Debug)]
pub struct TimeConvs {
    conv1: Steps,
    conv2: Steps,
    conv3: Steps,
    conv4: Steps,
}

impl TimeConvs {
    /// The last convolution is zero, so that frames do not depend on each other at first.
    pub(super) fn new(init: &Init, channels: usize, groups: usize) -> Self {
        let steps = |name: &str, place: usize| -> Steps {
            let init = init.at(name);
            let at = init.at(place);
            let conv = match name {
                "conv4" => FrameConv::zeros(&at, channels),
                _ => FrameConv::new(&at, channels),
            };
            let norm = GroupNorm::new(&init.at(0), groups, channels, CONV_EPS);
            let mut steps: Steps = vec![Some(Either::A(norm))];
            steps.resize_with(place, || None);
            steps.push(Some(Either::B(conv)));
            steps
        };
        Self {
            conv1: steps("conv1", 2),
            conv2: steps("conv2", 3),
            conv3: steps("conv3", 3),
            conv4: steps("conv4", 3),
        }
    }

    /// `[B·F, C, H, W]`, same out.
    pub(super) fn forward(&self, x: Tensor<4>, frames: usize) -> Tensor<4> {
        let height = x.dims()[2];
        let x = over_time(x, frames);
        let step = |steps: &Steps, x: Tensor<4>, added: Added| match (steps.first(), steps.last()) {
            (Some(Some(Either::A(norm))), Some(Some(Either::B(conv)))) => {
                ops::norm_conv2d(x, silu_norm(norm), conv.kernel(), added)
            }
            _ => unreachable!("built with a normalization and a convolution"),
        };
        let mut y = x.clone();
        for steps in [&self.conv1, &self.conv2, &self.conv3] {
            y = step(steps, y, Added::default());
        }
        in_frames(step(&self.conv4, y, Added::residual(x)), height)
    }
}

fn silu_norm(norm: &GroupNorm) -> Norm {
    norm.norm(None, true)
}

/// The parameters of a transformer over time.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeSpec {
    pub(super) heads: usize,
    /// Width of a head.
    pub(super) head: usize,
    pub(super) layers: usize,
    /// Most frames, if attention sees their positions.
    pub(super) positions: Option<usize>,
}

/// A transformer on the frames of each pixel. Its layers attend to the frames twice.
#[derive(Module, Debug)]
pub struct TimeTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerLayer>,
    proj_out: Linear,
}

impl TimeTransformer {
    /// `groups` must divide `channels`.
    pub(super) fn new(init: &Init, channels: usize, spec: TimeSpec, groups: usize) -> Self {
        let TimeSpec { heads, head, layers, positions } = spec;
        let width = heads * head;
        let spec = TransformerSpec {
            channels: width,
            heads,
            layers,
            text: width,
            groups,
            linear: true,
            only_cross: false,
            positions,
        };
        let layer = |i: usize| TransformerLayer::new(&init.at("transformer_blocks").at(i), spec);
        Self {
            norm: GroupNorm::new(&init.at("norm"), groups, channels, GROUP_EPS),
            proj_in: Linear::new(&init.at("proj_in"), channels, width, true),
            transformer_blocks: (0..layers).map(layer).collect(),
            proj_out: Linear::new(&init.at("proj_out"), width, channels, true),
        }
    }

    /// `[B·F, C, H, W]`, same out.
    pub(super) fn forward(&self, x: Tensor<4>, frames: usize) -> Tensor<4> {
        let height = x.dims()[2];
        let x = over_time(x, frames);
        let [b, c, f, pixels] = x.dims();
        // [B, H·W, F, C] and back.
        let y = self.norm.forward(x.clone()).permute([0, 3, 2, 1]).reshape([b * pixels, f, c]);
        let mut y = self.proj_in.forward(y);
        for layer in &self.transformer_blocks {
            y = layer.forward(y, None);
        }
        let y: Tensor<4> = self.proj_out.forward(y).reshape([b, pixels, f, c]);
        // A dense copy in the order of the frames.
        let y = y.swap_dims(1, 2).reshape([b, f, pixels, c]).permute([0, 3, 1, 2]);
        in_frames(ops::add(y, x), height)
    }
}
