//! The blocks: the layers of `UNet2DConditionModel` in each frame, each followed by one over time.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::Maps;

use super::{
    config::{DownBlock3DType, UNet3DConfig, UpBlock3DType},
    time::{TimeConvs, TimeTransformer},
};
use crate::{
    config::ConfigError,
    layers::{Either, Init},
    network::Mode,
    unet::{
        resample::{ConvDown, ConvUp},
        resnet::{ResnetBlock, Time},
    },
    unet_condition::{UNet2DConditionConfig, blocks::Builder, transformer::Transformer},
};

/// Inputs of blocks besides the maps. Time and text have one row per frame.
pub(super) struct Inputs<'a> {
    pub(super) time: &'a Time,
    pub(super) text: &'a Tensor<3>,
    pub(super) frames: usize,
    pub(super) mode: Mode,
}

/// Builds the layers of one block.
pub(super) struct Blocks<'a> {
    pub(super) config: &'a UNet3DConfig,
    /// Of the layers in each frame.
    pub(super) frames: &'a UNet2DConditionConfig,
}

/// Which layers a block has.
struct Plan {
    /// Channels from and to for each residual layer.
    resnets: Vec<[usize; 2]>,
    /// The level, counted from the highest resolution.
    level: usize,
    attends: bool,
    scale: f64,
}

/// Residual layers, each followed by convolutions over time and, in some blocks, by two transformers.
#[derive(Module, Debug)]
pub struct Block {
    resnets: Vec<ResnetBlock>,
    temp_convs: Vec<TimeConvs>,
    attentions: Vec<Transformer>,
    temp_attentions: Vec<TimeTransformer>,
    downsamplers: Vec<ConvDown>,
    upsamplers: Vec<ConvUp>,
}

impl Blocks<'_> {
    fn block(&self, init: &Init, plan: Plan) -> Result<Block, ConfigError> {
        let builder = Builder { config: self.frames, scale: plan.scale };
        let groups = self.config.norm_num_groups;
        let mut block = Block {
            resnets: Vec::new(),
            temp_convs: Vec::new(),
            attentions: Vec::new(),
            temp_attentions: Vec::new(),
            downsamplers: Vec::new(),
            upsamplers: Vec::new(),
        };
        for (i, &[from, to]) in plan.resnets.iter().enumerate() {
            block.resnets.push(builder.resnet(&init.at("resnets").at(i), from, to)?);
            block.temp_convs.push(TimeConvs::new(&init.at("temp_convs").at(i), to, groups));
            if plan.attends {
                self.attend(&mut block, init, &builder, i, plan.level, to)?;
            }
        }
        Ok(block)
    }

    fn attend(
        &self,
        block: &mut Block,
        init: &Init,
        builder: &Builder<'_>,
        i: usize,
        level: usize,
        channels: usize,
    ) -> Result<(), ConfigError> {
        let head = self.config.attention_head_dim;
        let (at, over) = (init.at("attentions").at(i), init.at("temp_attentions").at(i));
        let Either::A(transformer) = builder.transformer(&at, level, channels, 1, false)? else {
            unreachable!("the blocks of the frames have no other attention")
        };
        block.attentions.push(transformer);
        let heads = [channels / head.max(1), head];
        block.temp_attentions.push(TimeTransformer::new(&over, channels, heads, self.config.norm_num_groups));
        Ok(())
    }

    pub(super) fn down(&self, init: &Init, level: usize) -> Result<Block, ConfigError> {
        let widths = &self.config.block_out_channels;
        let (from, to) = (widths[level.saturating_sub(1)], widths[level]);
        let resnets = (0..self.config.layers_per_block).map(|i| [if i == 0 { from } else { to }, to]);
        let attends = self.config.down_block_types[level] == DownBlock3DType::CrossAttnDownBlock3D;
        let mut block = self.block(init, Plan { resnets: resnets.collect(), level, attends, scale: 1.0 })?;
        if level + 1 < widths.len() {
            let padding = self.config.downsample_padding;
            block.downsamplers.push(ConvDown::new(&init.at("downsamplers.0"), to, padding));
        }
        Ok(block)
    }

    /// Residual layer, transformers, residual layer.
    pub(super) fn mid(&self, init: &Init) -> Result<Block, ConfigError> {
        let level = self.config.block_out_channels.len() - 1;
        let channels = self.config.block_out_channels[level];
        let scale = self.config.mid_block_scale_factor;
        let resnets = vec![[channels; 2]; 2];
        let mut block = self.block(init, Plan { resnets, level, attends: false, scale })?;
        let builder = Builder { config: self.frames, scale };
        self.attend(&mut block, init, &builder, 0, level, channels)?;
        Ok(block)
    }

    /// Block `i`, counted from the lowest resolution.
    pub(super) fn up(&self, init: &Init, i: usize) -> Result<Block, ConfigError> {
        let widths = &self.config.block_out_channels;
        let level = widths.len() - 1 - i;
        let (previous, to) = (widths[(level + 1).min(widths.len() - 1)], widths[level]);
        let next = widths[level.saturating_sub(1)];
        let layers = self.config.layers_per_block + 1;
        let resnets = (0..layers).map(|j| {
            let below = if j == 0 { previous } else { to };
            let skip = if j + 1 == layers { next } else { to };
            [below + skip, to]
        });
        let attends = self.config.up_block_types[i] == UpBlock3DType::CrossAttnUpBlock3D;
        let mut block = self.block(init, Plan { resnets: resnets.collect(), level, attends, scale: 1.0 })?;
        if level > 0 {
            block.upsamplers.push(ConvUp::new(&init.at("upsamplers.0"), to));
        }
        Ok(block)
    }
}

impl Block {
    /// Layer `i` and the one over time.
    fn residual(&self, i: usize, x: impl Into<Maps>, inputs: &Inputs<'_>) -> Tensor<4> {
        let x = self.resnets[i].forward(x, inputs.time, inputs.mode);
        self.temp_convs[i].forward(x, inputs.frames)
    }

    /// The transformers of layer `i`, if there are any.
    fn attended(&self, i: usize, x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        match (self.attentions.get(i), self.temp_attentions.get(i)) {
            (Some(frame), Some(time)) => time.forward(frame.forward(x, inputs.text), inputs.frames),
            _ => x,
        }
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
