//! The layers of encoder and decoder. Maps are `[B, C, F, H, W]`.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_ops::{self as ops, Added, ConvOptions};

use super::causal::{CausalConv, Past};
use crate::{
    layers::{Conv2d, Init},
    unet_3d::time::{clips_of, frames_of},
};

/// Norms below this are not divided by, as in PyTorch.
const LEAST_NORM: f32 = 1e-12;

/// Division by the root of the mean square over the channels, then a scale per channel.
#[derive(Module, Debug)]
pub struct ChannelNorm<const D: usize> {
    /// `[C, 1, …]`.
    gamma: Param<Tensor<D>>,
}

impl<const D: usize> ChannelNorm<D> {
    pub(super) fn new(init: &Init, channels: usize) -> Self {
        let mut shape = [1; D];
        shape[0] = channels;
        Self { gamma: init.constant("gamma", shape, 1.0) }
    }

    /// `[B, C, F, H, W]`, same out.
    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [b, c, f, h, w] = x.dims();
        let rows: Tensor<2> = ops::to_f32(x.clone()).permute([0, 2, 3, 4, 1]).reshape([b * f * h * w, c]);
        let norm = (rows.clone() * rows.clone()).sum_dim(1).sqrt().clamp_min(LEAST_NORM);
        let scale = self.gamma.val().reshape([1, c]).mul_scalar((c as f32).sqrt());
        let rows = rows / norm * scale;
        ops::cast_like(rows.reshape([b, f, h, w, c]).permute([0, 4, 1, 2, 3]), &x)
    }

    /// The same, then SiLU.
    pub(super) fn then_silu(&self, x: Tensor<5>) -> Tensor<5> {
        let y = self.forward(x).permute([0, 2, 3, 4, 1]);
        ops::silu(y).permute([0, 4, 1, 2, 3])
    }
}

/// Normalize, activate, convolve, twice, with a residual connection.
#[derive(Module, Debug)]
pub struct Residual {
    norm1: ChannelNorm<4>,
    conv1: CausalConv,
    norm2: ChannelNorm<4>,
    conv2: CausalConv,
    conv_shortcut: Option<CausalConv>,
}

impl Residual {
    pub(super) fn new(init: &Init, inputs: usize, outputs: usize) -> Self {
        let conv = |name: &str, inputs| CausalConv::new(&init.at(name), inputs, outputs, [3, 3]);
        let shortcut = || CausalConv::new(&init.at("conv_shortcut"), inputs, outputs, [1, 1]);
        Self {
            norm1: ChannelNorm::new(&init.at("norm1"), inputs),
            conv1: conv("conv1", inputs),
            norm2: ChannelNorm::new(&init.at("norm2"), outputs),
            conv2: conv("conv2", outputs),
            conv_shortcut: (inputs != outputs).then(shortcut),
        }
    }

    pub(super) fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let h = self.conv1.forward(self.norm1.then_silu(x.clone()), past);
        let h = self.conv2.forward(self.norm2.then_silu(h), past);
        let x = match &self.conv_shortcut {
            Some(conv) => conv.alone(x),
            None => x,
        };
        x + h
    }
}

/// Attention between the pixels of each frame, with one head.
#[derive(Module, Debug)]
pub struct FrameAttention {
    norm: ChannelNorm<3>,
    to_qkv: Conv2d,
    proj: Conv2d,
}

impl FrameAttention {
    fn new(init: &Init, channels: usize) -> Self {
        let conv = |name: &str, outputs| Conv2d::new(&init.at(name), channels, outputs, 1, true);
        Self {
            norm: ChannelNorm::new(&init.at("norm"), channels),
            to_qkv: conv("to_qkv", 3 * channels),
            proj: conv("proj", channels),
        }
    }

    fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [b, c, f, h, w] = x.dims();
        let all = self.to_qkv.forward(frames_of(self.norm.forward(x.clone())), ConvOptions::same(0));
        let all: Tensor<4> = all.permute([0, 2, 3, 1]).reshape([b * f, 1, h * w, 3 * c]);
        let [q, k, v] = [0, 1, 2].map(|i| all.clone().narrow(3, i * c, c));
        let y = ops::attention(q, k, v, (c as f64).powf(-0.5));
        let y: Tensor<4> = y.reshape([b * f, h, w, c]).permute([0, 3, 1, 2]);
        let y = self.proj.forward_with(y, ConvOptions::same(0), Added::residual(frames_of(x)));
        clips_of(y, f)
    }
}

/// Residual layer, attention, residual layer.
#[derive(Module, Debug)]
pub struct Middle {
    attentions: Vec<FrameAttention>,
    resnets: Vec<Residual>,
}

impl Middle {
    pub(super) fn new(init: &Init, channels: usize) -> Self {
        let resnet = |i: usize| Residual::new(&init.at("resnets").at(i), channels, channels);
        Self {
            attentions: vec![FrameAttention::new(&init.at("attentions.0"), channels)],
            resnets: vec![resnet(0), resnet(1)],
        }
    }

    pub(super) fn forward(&self, mut x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.attentions.get(i)) {
                x = attention.forward(x);
            }
            x = resnet.forward(x, past);
        }
        x
    }
}

/// Halves the resolution, and maybe the number of frames.
#[derive(Module, Debug)]
pub struct Halve {
    /// The first entry is the position of padding.
    resample: Vec<Option<Conv2d>>,
    time_conv: Option<CausalConv>,
}

impl Halve {
    pub(super) fn new(init: &Init, channels: usize, frames: bool) -> Self {
        let time = || CausalConv::new(&init.at("time_conv"), channels, channels, [3, 1]);
        Self {
            resample: vec![None, Some(Conv2d::new(&init.at("resample.1"), channels, channels, 3, true))],
            time_conv: frames.then(time),
        }
    }

    pub(super) fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let frames = x.dims()[2];
        let options = ConvOptions { pad_after: [1, 1], ..ConvOptions::strided(2, 0) };
        let convs = self.resample.iter().flatten();
        let x = clips_of(convs.fold(frames_of(x), |x, conv| conv.forward(x, options)), frames);
        self.time_conv.iter().fold(x, |x, conv| conv.halve(x, past))
    }
}

/// Doubles the resolution with half of the channels, and maybe the number of frames.
#[derive(Module, Debug)]
pub struct Double {
    /// The first entry is the position of the change of resolution.
    resample: Vec<Option<Conv2d>>,
    time_conv: Option<CausalConv>,
}

impl Double {
    fn new(init: &Init, channels: usize, frames: bool) -> Self {
        let time = || CausalConv::new(&init.at("time_conv"), channels, 2 * channels, [3, 1]);
        Self {
            resample: vec![None, Some(Conv2d::new(&init.at("resample.1"), channels, channels / 2, 3, true))],
            time_conv: frames.then(time),
        }
    }

    /// The first frame of a clip stays one, and is not seen by those that follow.
    fn forward(&self, mut x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        if let Some(conv) = &self.time_conv {
            match past.is_first() {
                true => past.skip(),
                false => x = interleaved(conv.forward(x, past)),
            }
        }
        let [_, _, frames, h, w] = x.dims();
        let double = |x, conv: &Conv2d| conv.forward_resized(x, [2 * h, 2 * w], Added::default());
        clips_of(self.resample.iter().flatten().fold(frames_of(x), double), frames)
    }
}

/// `[B, 2C, F, H, W]` as `[B, C, 2F, H, W]`: the first half of the channels are the frames 0, 2, 4 …
fn interleaved(x: Tensor<5>) -> Tensor<5> {
    let [b, all, f, h, w] = x.dims();
    let c = all / 2;
    // Channels are last in memory: each frame is followed by its other half.
    let x: Tensor<5> = x.permute([0, 2, 3, 4, 1]).reshape([b * f, h * w, 2, c, 1]);
    x.swap_dims(1, 2).reshape([b, 2 * f, h, w, c]).permute([0, 4, 1, 2, 3])
}

/// Residual layers of one resolution, then a change to the next.
#[derive(Module, Debug)]
pub struct Up {
    resnets: Vec<Residual>,
    upsamplers: Vec<Double>,
}

impl Up {
    /// `double`: whether the number of frames is doubled, too, if the resolution is.
    pub(super) fn new(
        init: &Init,
        layers: usize,
        inputs: usize,
        outputs: usize,
        double: Option<bool>,
    ) -> Self {
        let resnet = |i: usize| {
            let inputs = if i == 0 { inputs } else { outputs };
            Residual::new(&init.at("resnets").at(i), inputs, outputs)
        };
        let double = double.map(|frames| Double::new(&init.at("upsamplers.0"), outputs, frames));
        Self { resnets: (0..layers).map(resnet).collect(), upsamplers: double.into_iter().collect() }
    }

    pub(super) fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let x = self.resnets.iter().fold(x, |x, resnet| resnet.forward(x, past));
        self.upsamplers.iter().fold(x, |x, double| double.forward(x, past))
    }
}
