//! Layers of `UNetSpatioTemporalConditionModel` (Blattmann et al. 2023, arXiv:2311.15127): what a layer in each frame gives is
//! mixed with what a layer over time makes of it.

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::sigmoid},
};
use tweedie_ops::{self as ops, Added, Maps};

use super::{
    blocks::Inputs,
    time::{FrameConv, in_frames, over_time},
};
use crate::{
    layers::{FeedForward, FeedForwardActivation, GroupNorm, Init, LayerNorm, Linear, TokenAttention},
    unet::{
        embed::{self, TimestepEmbedding},
        positional,
        resnet::ResnetBlock,
    },
    unet_condition::transformer::{TransformerLayer, TransformerSpec},
};

/// Groups of all normalizations, fixed in diffusers.
pub(crate) const GROUPS: usize = 32;
/// Added to variances in transformers, fixed in diffusers: over groups of channels and over tokens.
const GROUP_EPS: f64 = 1e-6;
const TOKEN_EPS: f64 = 1e-5;
/// The initial value of what decides the parts.
const HALF: f32 = 0.5;

/// A learned mean of what a layer in each frame and a layer over time give.
#[derive(Module, Debug)]
pub struct Blender {
    /// `[1]`.
    mix_factor: Param<Tensor<1>>,
    /// Whether the sigmoid of the factor is the part of the layer over time, instead of that in the frames.
    of_time: bool,
}

impl Blender {
    /// With this initial factor.
    pub(crate) fn new(init: &Init, factor: f32, of_time: bool) -> Self {
        Self { mix_factor: init.constant("mix_factor", [1], factor), of_time }
    }

    /// `part·frames + (1 − part)·time`; all have one shape.
    pub(crate) fn blend<const D: usize>(&self, frames: Tensor<D>, time: Tensor<D>) -> Tensor<D> {
        let part = sigmoid(self.mix_factor.val()).cast(frames.dtype()).reshape([1; D]);
        let (from, to) = if self.of_time { (frames, time) } else { (time, frames) };
        from.clone() + (to - from) * part
    }

    /// The same for maps `[B, C, H, W]` whose memory is channels-last.
    pub(crate) fn blend_maps(&self, frames: Tensor<4>, time: Tensor<4>) -> Tensor<4> {
        let last = |x: Tensor<4>| x.permute([0, 2, 3, 1]);
        self.blend(last(frames), last(time)).permute([0, 3, 1, 2])
    }
}

/// Normalize, activate, convolve over time, twice, with a residual connection.
#[derive(Module, Debug)]
pub struct TimeResnet {
    norm1: GroupNorm,
    conv1: FrameConv,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: FrameConv,
}

impl TimeResnet {
    /// `time` is the width of the time embedding, if there is one.
    pub(crate) fn new(init: &Init, channels: usize, eps: f64, time: Option<usize>) -> Self {
        let norm = |name: &str| GroupNorm::new(&init.at(name), GROUPS, channels, eps);
        let conv = |name: &str| FrameConv::new(&init.at(name), channels);
        Self {
            norm1: norm("norm1"),
            conv1: conv("conv1"),
            time_emb_proj: time.map(|width| Linear::new(&init.at("time_emb_proj"), width, channels, true)),
            norm2: norm("norm2"),
            conv2: conv("conv2"),
        }
    }

    /// `[B·F, C, H, W]`, same out; `time: [B, width]` is the activation of the time embedding.
    pub(crate) fn forward(&self, x: Tensor<4>, frames: usize, time: Option<&Tensor<2>>) -> Tensor<4> {
        let height = x.dims()[2];
        let x = over_time(x, frames);
        let shift = self.time_emb_proj.as_ref().zip(time).map(|(map, time)| map.forward(time.clone()));
        let added = Added { shift, residual: None };
        let h = ops::norm_conv2d(x.clone(), self.norm1.norm(None, true), self.conv1.kernel(), added);
        let (norm, kernel) = (self.norm2.norm(None, true), self.conv2.kernel());
        in_frames(ops::norm_conv2d(h, norm, kernel, Added::residual(x)), height)
    }
}

/// A residual layer in each frame, one over time, and the mean of both.
#[derive(Module, Debug)]
pub struct MixedResnet {
    spatial_res_block: ResnetBlock,
    temporal_res_block: TimeResnet,
    time_mixer: Blender,
}

impl MixedResnet {
    /// With the layer `spatial` of frames with this number of output channels.
    pub(super) fn new(init: &Init, spatial: ResnetBlock, channels: usize, eps: f64, time: usize) -> Self {
        Self {
            spatial_res_block: spatial,
            temporal_res_block: TimeResnet::new(&init.at("temporal_res_block"), channels, eps, Some(time)),
            time_mixer: Blender::new(&init.at("time_mixer"), HALF, false),
        }
    }

    /// `[B·F, in, H, W]` to `[B·F, out, H, W]`.
    pub(super) fn forward(&self, x: impl Into<Maps>, inputs: &Inputs<'_>) -> Tensor<4> {
        let x = self.spatial_res_block.forward(x, inputs.time, inputs.mode);
        let over_time = self.temporal_res_block.forward(x.clone(), inputs.frames, Some(inputs.clip_time));
        self.time_mixer.blend_maps(x, over_time)
    }
}

/// Feed-forward, attention of the frames of a pixel to each other, attention to the condition, feed-forward.
#[derive(Module, Debug)]
pub struct TimeLayer {
    norm_in: LayerNorm,
    ff_in: FeedForward,
    norm1: LayerNorm,
    attn1: TokenAttention,
    norm2: LayerNorm,
    attn2: TokenAttention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TimeLayer {
    fn new(init: &Init, channels: usize, heads: usize, text: usize) -> Self {
        let norm = |name: &str| LayerNorm::new(&init.at(name), channels, TOKEN_EPS);
        let attention =
            |name: &str, context| TokenAttention::new(&init.at(name), channels, context, heads, false);
        let widen = |name: &str| FeedForward::new(&init.at(name), channels, FeedForwardActivation::Geglu);
        Self {
            norm_in: norm("norm_in"),
            ff_in: widen("ff_in"),
            norm1: norm("norm1"),
            attn1: attention("attn1", channels),
            norm2: norm("norm2"),
            attn2: attention("attn2", text),
            norm3: norm("norm3"),
            ff: widen("ff"),
        }
    }

    /// `x: [B·pixels, F, C]`, `context: [B, S, text]`; as `x`.
    fn forward(&self, x: Tensor<3>, context: &Tensor<3>) -> Tensor<3> {
        let [sequences, frames, c] = x.dims();
        let b = context.dims()[0];
        let x = self.ff_in.forward_onto(self.norm_in.forward(x.clone()), x);
        let h = self.norm1.forward(x.clone());
        let x = self.attn1.forward_onto(h.clone(), h, x);
        // All pixels of a clip attend to the same condition, so they are one sequence here.
        let x: Tensor<3> = x.reshape([b, sequences / b * frames, c]);
        let x = self.attn2.forward_onto(self.norm2.forward(x.clone()), context.clone(), x);
        let x = self.ff.forward_onto(self.norm3.forward(x.clone()), x);
        x.reshape([sequences, frames, c])
    }
}

/// Transformer layers in each frame, each mixed with one over time that is told the number of the frame.
#[derive(Module, Debug)]
pub struct MixedTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TransformerLayer>,
    temporal_transformer_blocks: Vec<TimeLayer>,
    time_pos_embed: TimestepEmbedding,
    time_mixer: Blender,
    proj_out: Linear,
}

impl MixedTransformer {
    /// `heads` and [`GROUPS`] must divide `channels`.
    pub(super) fn new(init: &Init, channels: usize, heads: usize, layers: usize, text: usize) -> Self {
        let spec = TransformerSpec {
            channels,
            heads,
            layers,
            text,
            groups: GROUPS,
            linear: true,
            only_cross: false,
            positions: None,
        };
        let frames = |i: usize| TransformerLayer::new(&init.at("transformer_blocks").at(i), spec);
        let time =
            |i: usize| TimeLayer::new(&init.at("temporal_transformer_blocks").at(i), channels, heads, text);
        let places = init.at("time_pos_embed");
        Self {
            norm: GroupNorm::new(&init.at("norm"), GROUPS, channels, GROUP_EPS),
            proj_in: Linear::new(&init.at("proj_in"), channels, channels, true),
            transformer_blocks: (0..layers).map(frames).collect(),
            temporal_transformer_blocks: (0..layers).map(time).collect(),
            time_pos_embed: TimestepEmbedding::between(&places, channels, 4 * channels, channels),
            time_mixer: Blender::new(&init.at("time_mixer"), HALF, false),
            proj_out: Linear::new(&init.at("proj_out"), channels, channels, true),
        }
    }

    /// `[B·F, C, H, W]`, same out.
    pub(super) fn forward(&self, x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        let [rows, c, h, w] = x.dims();
        let (frames, pixels) = (inputs.frames, h * w);
        let clips = rows / frames.max(1);
        let numbers: Vec<f32> = (0..frames).map(|i| i as f32).collect();
        let places = embed::rows(positional(&numbers, c, 0.0, true), frames, &x.device());
        let places = self.time_pos_embed.forward(places).cast(x.dtype()).reshape([1, frames, 1, c]);

        let y = self.norm.forward(x.clone()).permute([0, 2, 3, 1]).reshape([rows, pixels, c]);
        let mut y: Tensor<3> = self.proj_in.forward(y);
        for (in_frames, over_time) in self.transformer_blocks.iter().zip(&self.temporal_transformer_blocks) {
            y = in_frames.forward(y, Some(inputs.text));
            let by_frame: Tensor<4> = y.clone().reshape([clips, frames, pixels, c]);
            let by_pixel = (by_frame + places.clone()).swap_dims(1, 2);
            let mixed = over_time.forward(by_pixel.reshape([clips * pixels, frames, c]), inputs.clip_text);
            let mixed: Tensor<4> = mixed.reshape([clips, pixels, frames, c]);
            y = self.time_mixer.blend(y, mixed.swap_dims(1, 2).reshape([rows, pixels, c]));
        }
        let y: Tensor<4> = self.proj_out.forward(y).reshape([rows, h, w, c]);
        ops::add(y.permute([0, 3, 1, 2]), x)
    }
}
