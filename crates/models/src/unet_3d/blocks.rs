//! The blocks: the layers of `UNet2DConditionModel` in each frame, each followed by one over time, or mixed with one.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::Maps;

use super::{
    VideoUNetConfig,
    mixed::{MixedResnet, MixedTransformer},
    spatio_temporal::CROSS_EPS,
    time::{TimeConvs, TimeSpec, TimeTransformer},
};
use crate::{
    config::ConfigError,
    layers::{Either, Init},
    network::Mode,
    unet::{
        resample::{ConvDown, ConvUp},
        resnet::{ResnetBlock, Time},
    },
    unet_condition::{
        CrossDownBlockType, CrossUpBlockType, UNet2DConditionConfig, blocks::Builder,
        transformer::Transformer,
    },
};

/// Inputs of blocks besides the maps.
pub(super) struct Inputs<'a> {
    /// One row per frame.
    pub(super) time: &'a Time,
    /// One row per frame.
    pub(super) text: &'a Tensor<3>,
    /// The activation of the time embedding, one row per clip.
    pub(super) clip_time: &'a Tensor<2>,
    /// One row per clip.
    pub(super) clip_text: &'a Tensor<3>,
    pub(super) frames: usize,
    pub(super) mode: Mode,
}

/// Builds the layers of one block.
pub(super) struct Blocks<'a> {
    pub(super) config: &'a VideoUNetConfig,
    /// Of the layers in each frame.
    pub(super) frames: &'a UNet2DConditionConfig,
}

/// Which layers a block has.
struct Plan {
    /// Channels from and to for each residual layer.
    resnets: Vec<[usize; 2]>,
    /// The level, counted from the highest resolution.
    level: usize,
    /// Layers of the transformers in the frames, if there are any.
    attends: Option<usize>,
    /// Layers of the motion modules, if there are any.
    moves: Option<usize>,
    scale: f64,
    /// Added to variances in residual layers.
    eps: f64,
}

/// Residual layers, each followed by convolutions over time and, in some blocks, by two transformers; or by a transformer in
/// some blocks and by a motion module; or layers that are mixed with layers over time.
#[derive(Module, Debug)]
pub struct Block {
    resnets: Vec<Either<ResnetBlock, MixedResnet>>,
    temp_convs: Vec<TimeConvs>,
    attentions: Vec<Either<Transformer, MixedTransformer>>,
    temp_attentions: Vec<TimeTransformer>,
    motion_modules: Vec<TimeTransformer>,
    downsamplers: Vec<ConvDown>,
    upsamplers: Vec<ConvUp>,
}

impl Blocks<'_> {
    fn block(&self, init: &Init, plan: Plan) -> Result<Block, ConfigError> {
        let frames = UNet2DConditionConfig { norm_eps: plan.eps, ..self.frames.clone() };
        let builder = Builder { config: &frames, scale: plan.scale };
        let mut block = Block {
            resnets: Vec::new(),
            temp_convs: Vec::new(),
            attentions: Vec::new(),
            temp_attentions: Vec::new(),
            motion_modules: Vec::new(),
            downsamplers: Vec::new(),
            upsamplers: Vec::new(),
        };
        for (i, &[from, to]) in plan.resnets.iter().enumerate() {
            let at = init.at("resnets").at(i);
            block.resnets.push(match self.config {
                VideoUNetConfig::SpatioTemporal(_) => {
                    let spatial = builder.resnet(&at.at("spatial_res_block"), from, to)?;
                    let time = frames.time_width();
                    Either::B(MixedResnet::new(&at, spatial, to, plan.eps, time))
                }
                _ => Either::A(builder.resnet(&at, from, to)?),
            });
            if let VideoUNetConfig::UNet3D(config) = self.config {
                let at = init.at("temp_convs").at(i);
                block.temp_convs.push(TimeConvs::new(&at, to, config.norm_num_groups));
            }
            if let Some(layers) = plan.attends {
                self.attend(&mut block, init, &builder, i, [plan.level, to, layers])?;
            }
            if let Some(layers) = plan.moves {
                self.motion(&mut block, init, i, [plan.level, to, layers]);
            }
        }
        Ok(block)
    }

    /// Adds the transformers after layer `i`, that in the frames with so many `layers`.
    fn attend(
        &self,
        block: &mut Block,
        init: &Init,
        builder: &Builder<'_>,
        i: usize,
        [level, channels, layers]: [usize; 3],
    ) -> Result<(), ConfigError> {
        let at = init.at("attentions").at(i);
        if let VideoUNetConfig::SpatioTemporal(config) = self.config {
            // Both are checked with the configuration.
            let heads = config.num_attention_heads.get(level).unwrap_or(1);
            let text = config.cross_attention_dim.get(level).unwrap_or(1);
            let transformer = MixedTransformer::new(&at, channels, heads, layers, text);
            block.attentions.push(Either::B(transformer));
            return Ok(());
        }
        let Either::A(transformer) = builder.transformer(&at, level, channels, layers, false)? else {
            unreachable!("the blocks of the frames have no other attention")
        };
        block.attentions.push(Either::A(transformer));
        if let VideoUNetConfig::UNet3D(config) = self.config {
            let head = config.attention_head_dim;
            let spec = TimeSpec { heads: channels / head.max(1), head, layers: 1, positions: None };
            let at = init.at("temp_attentions").at(i);
            block.temp_attentions.push(TimeTransformer::new(&at, channels, spec, config.norm_num_groups));
        }
        Ok(())
    }

    /// Adds the motion module after layer `i`.
    fn motion(&self, block: &mut Block, init: &Init, i: usize, [level, channels, layers]: [usize; 3]) {
        let VideoUNetConfig::Motion(config) = self.config else { return };
        // Checked with the configuration.
        let heads = config.motion_num_attention_heads.get(level).unwrap_or(1);
        let spec =
            TimeSpec { heads, head: channels / heads, layers, positions: Some(config.motion_max_seq_length) };
        let at = init.at("motion_modules").at(i);
        block.motion_modules.push(TimeTransformer::new(&at, channels, spec, config.norm_num_groups));
    }

    /// Layers of the motion modules at `level`, outside the middle block.
    fn moves(&self, level: usize) -> Option<usize> {
        match self.config {
            VideoUNetConfig::UNet3D(_) | VideoUNetConfig::SpatioTemporal(_) => None,
            VideoUNetConfig::Motion(config) => config.temporal_transformer_layers_per_block.get(level),
        }
    }

    /// Added to variances in the residual layers of a block of the up path, or of the down path with or without
    /// transformers.
    fn eps(&self, crosses: bool) -> f64 {
        match self.config {
            VideoUNetConfig::SpatioTemporal(_) if crosses => CROSS_EPS,
            _ => self.frames.norm_eps,
        }
    }

    pub(super) fn down(&self, init: &Init, level: usize) -> Result<Block, ConfigError> {
        let config = self.frames;
        let widths = &config.block_out_channels;
        let (from, to) = (widths[level.saturating_sub(1)], widths[level]);
        let resnets = (0..config.layers(level)?).map(|i| [if i == 0 { from } else { to }, to]).collect();
        let attends = match config.down_block_types[level] {
            CrossDownBlockType::CrossAttnDownBlock2D => Some(config.transformer_layers(level)?),
            _ => None,
        };
        let eps = self.eps(attends.is_some());
        let plan = Plan { resnets, level, attends, moves: self.moves(level), scale: 1.0, eps };
        let mut block = self.block(init, plan)?;
        if level + 1 < widths.len() {
            let padding = config.downsample_padding;
            block.downsamplers.push(ConvDown::new(&init.at("downsamplers.0"), to, padding));
        }
        Ok(block)
    }

    /// Residual layer, transformers, residual layer.
    pub(super) fn mid(&self, init: &Init) -> Result<Block, ConfigError> {
        let config = self.frames;
        let level = config.block_out_channels.len() - 1;
        let (channels, scale) = (config.block_out_channels[level], config.mid_block_scale_factor);
        let (resnets, eps) = (vec![[channels; 2]; 2], self.eps(false));
        let plan = Plan { resnets, level, attends: None, moves: None, scale, eps };
        let mut block = self.block(init, plan)?;
        let builder = Builder { config, scale };
        self.attend(&mut block, init, &builder, 0, [level, channels, config.transformer_layers(level)?])?;
        if matches!(self.config, VideoUNetConfig::Motion(config) if config.use_motion_mid_block) {
            self.motion(&mut block, init, 0, [level, channels, 1]);
        }
        Ok(block)
    }

    /// Block `i`, counted from the lowest resolution.
    pub(super) fn up(&self, init: &Init, i: usize) -> Result<Block, ConfigError> {
        let config = self.frames;
        let widths = &config.block_out_channels;
        let level = widths.len() - 1 - i;
        let (previous, to) = (widths[(level + 1).min(widths.len() - 1)], widths[level]);
        let next = widths[level.saturating_sub(1)];
        let layers = config.layers(level)? + 1;
        let resnets = (0..layers).map(|j| {
            let below = if j == 0 { previous } else { to };
            let skip = if j + 1 == layers { next } else { to };
            [below + skip, to]
        });
        let attends = match config.up_block_types[i] {
            CrossUpBlockType::CrossAttnUpBlock2D => Some(config.transformer_layers_up(i, level)?),
            _ => None,
        };
        let (resnets, moves, eps) = (resnets.collect(), self.moves(level), self.eps(true));
        let plan = Plan { resnets, level, attends, moves, scale: 1.0, eps };
        let mut block = self.block(init, plan)?;
        if level > 0 {
            block.upsamplers.push(ConvUp::new(&init.at("upsamplers.0"), to));
        }
        Ok(block)
    }
}

impl Block {
    /// Layer `i` and the convolutions over time, if there are any.
    fn residual(&self, i: usize, x: impl Into<Maps>, inputs: &Inputs<'_>) -> Tensor<4> {
        let x = match &self.resnets[i] {
            Either::A(resnet) => resnet.forward(x, inputs.time, inputs.mode),
            Either::B(mixed) => mixed.forward(x, inputs),
        };
        self.temp_convs.get(i).into_iter().fold(x, |x, convs| convs.forward(x, inputs.frames))
    }

    /// What follows layer `i`: the transformers and the motion module, if there are any.
    fn attended(&self, i: usize, x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        let x = self.attentions.get(i).into_iter().fold(x, |x, transformer| match transformer {
            Either::A(in_frames) => in_frames.forward(x, Some(inputs.text)),
            Either::B(mixed) => mixed.forward(x, inputs),
        });
        let over_time = self.temp_attentions.get(i).into_iter().chain(self.motion_modules.get(i));
        over_time.fold(x, |x, time| time.forward(x, inputs.frames))
    }

    /// As a block of the down path: pushes the inputs of the up path to `skips`.
    pub(super) fn down(
        &self,
        mut x: Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        inputs: &Inputs<'_>,
    ) -> Tensor<4> {
        for i in 0..self.resnets.len() {
            x = self.attended(i, self.residual(i, x, inputs), inputs);
            skips.push(x.clone());
        }
        for down in &self.downsamplers {
            x = down.forward(x);
            skips.push(x.clone());
        }
        x
    }

    /// As the middle block.
    pub(super) fn mid(&self, x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        let x = self.attended(0, self.residual(0, x, inputs), inputs);
        self.residual(1, x, inputs)
    }

    /// As a block of the up path: pops its inputs from `skips` and changes to the resolution of the next one.
    pub(super) fn up(&self, mut x: Tensor<4>, skips: &mut Vec<Tensor<4>>, inputs: &Inputs<'_>) -> Tensor<4> {
        for i in 0..self.resnets.len() {
            x = self.attended(i, self.residual(i, Maps { x, skip: skips.pop() }, inputs), inputs);
        }
        for up in &self.upsamplers {
            let [_, _, h, w] = skips.last().map_or(x.dims().map(|n| 2 * n), Tensor::dims);
            x = up.forward_to(x, [h, w]);
        }
        x
    }
}
