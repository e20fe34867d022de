//! The blocks of the down path and the up path, and the middle block.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::Maps;

use super::{
    config::{CrossDownBlockType, CrossUpBlockType, UNet2DConditionConfig},
    transformer::{Transformer, TransformerSpec},
};
use crate::{
    config::ConfigError,
    layers::Init,
    network::Mode,
    unet::{
        resample::{ConvDown, ConvUp},
        resnet::{Groups, ResnetBlock, ResnetSpec, Time},
    },
};

/// Inputs of blocks besides the image.
pub(super) struct Inputs<'a> {
    pub(super) time: &'a Time,
    pub(super) text: &'a Tensor<3>,
    pub(super) mode: Mode,
}

/// Builds the layers of one block.
struct Builder<'a> {
    config: &'a UNet2DConditionConfig,
    scale: f64,
}

impl Builder<'_> {
    fn resnet(&self, init: &Init, inputs: usize, outputs: usize) -> Result<ResnetBlock, ConfigError> {
        let spec =
            ResnetSpec { inputs, outputs, groups: Groups::Configured, scale: self.scale, resample: None };
        ResnetBlock::new(init, &self.config.resnets(), spec)
    }

    /// A transformer with the given number of layers for block `level`.
    fn transformer(
        &self,
        init: &Init,
        level: usize,
        channels: usize,
        layers: usize,
        only_cross: bool,
    ) -> Result<Transformer, ConfigError> {
        let config = self.config;
        let list = |key: &str, value: Option<usize>| {
            value.ok_or_else(|| {
                ConfigError::value(key, level, "is the index of a block without an entry in the list")
            })
        };
        let heads = list("attention_head_dim", config.attention_head_dim.get(level))?;
        if heads == 0 || !channels.is_multiple_of(heads) {
            let reason = format!(
                "the {channels} channels of {} are not divisible by this number of heads",
                init.path()
            );
            return Err(ConfigError::value("attention_head_dim", heads, reason));
        }
        let text = list("cross_attention_dim", config.cross_attention_dim.get(level))?;
        let (groups, linear) = (config.norm_num_groups, config.use_linear_projection);
        let spec = TransformerSpec { channels, heads, layers, text, groups, linear, only_cross };
        Ok(Transformer::new(init, spec))
    }
}

/// A block of the down path.
#[derive(Module, Debug)]
pub struct DownBlock {
    attentions: Vec<Transformer>,
    resnets: Vec<ResnetBlock>,
    downsamplers: Vec<ConvDown>,
}

impl DownBlock {
    pub(super) fn new(
        init: &Init,
        config: &UNet2DConditionConfig,
        level: usize,
        inputs: usize,
    ) -> Result<Self, ConfigError> {
        let outputs = config.block_out_channels[level];
        let builder = Builder { config, scale: 1.0 };
        let mut block = Self { attentions: Vec::new(), resnets: Vec::new(), downsamplers: Vec::new() };
        for i in 0..config.layers(level)? {
            let inputs = if i == 0 { inputs } else { outputs };
            block.resnets.push(builder.resnet(&init.at("resnets").at(i), inputs, outputs)?);
            if config.down_block_types[level] == CrossDownBlockType::CrossAttnDownBlock2D {
                let layers = config.transformer_layers(level)?;
                let only = config.only_cross(level)?;
                let at = init.at("attentions").at(i);
                block.attentions.push(builder.transformer(&at, level, outputs, layers, only)?);
            }
        }
        if level + 1 < config.block_out_channels.len() {
            let at = init.at("downsamplers.0");
            block.downsamplers.push(ConvDown::new(&at, outputs, config.downsample_padding));
        }
        Ok(block)
    }

    /// Pushes the inputs of the up path to `skips`.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        inputs: &Inputs<'_>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, inputs.time, inputs.mode);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, inputs.text);
            }
            skips.push(x.clone());
        }
        for down in &self.downsamplers {
            x = down.forward(x);
            skips.push(x.clone());
        }
        x
    }
}

/// Residual layer, transformer, residual layer.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: Vec<Transformer>,
    resnets: Vec<ResnetBlock>,
}

impl MidBlock {
    pub(super) fn new(init: &Init, config: &UNet2DConditionConfig) -> Result<Self, ConfigError> {
        let level = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[level];
        let builder = Builder { config, scale: config.mid_block_scale_factor };
        let resnet = |i: usize| builder.resnet(&init.at("resnets").at(i), channels, channels);
        let layers = config.transformer_layers(level)?;
        let at = init.at("attentions.0");
        Ok(Self {
            attentions: vec![builder.transformer(&at, level, channels, layers, false)?],
            resnets: vec![resnet(0)?, resnet(1)?],
        })
    }

    pub(super) fn forward(&self, mut x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.attentions.get(i)) {
                x = attention.forward(x, inputs.text);
            }
            x = resnet.forward(x, inputs.time, inputs.mode);
        }
        x
    }
}

/// A block of the up path.
#[derive(Module, Debug)]
pub struct UpBlock {
    attentions: Vec<Transformer>,
    resnets: Vec<ResnetBlock>,
    upsamplers: Vec<ConvUp>,
}

impl UpBlock {
    /// Block `i`, counted from the lowest resolution.
    pub(super) fn new(init: &Init, config: &UNet2DConditionConfig, i: usize) -> Result<Self, ConfigError> {
        let widths = &config.block_out_channels;
        let level = widths.len() - 1 - i;
        let (previous, outputs) = (widths[(level + 1).min(widths.len() - 1)], widths[level]);
        let next = widths[level.saturating_sub(1)];
        let builder = Builder { config, scale: 1.0 };
        let mut block = Self { attentions: Vec::new(), resnets: Vec::new(), upsamplers: Vec::new() };
        let layers = config.layers(level)? + 1;
        for j in 0..layers {
            let below = if j == 0 { previous } else { outputs };
            let skip = if j + 1 == layers { next } else { outputs };
            block.resnets.push(builder.resnet(&init.at("resnets").at(j), below + skip, outputs)?);
            if config.up_block_types[i] == CrossUpBlockType::CrossAttnUpBlock2D {
                let depth = config.transformer_layers_up(i, level)?;
                let only = config.only_cross(level)?;
                let at = init.at("attentions").at(j);
                block.attentions.push(builder.transformer(&at, level, outputs, depth, only)?);
            }
        }
        if level > 0 {
            block.upsamplers.push(ConvUp::new(&init.at("upsamplers.0"), outputs));
        }
        Ok(block)
    }

    /// Pops its inputs from `skips` and changes to the resolution of the next one.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        inputs: &Inputs<'_>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(Maps { x, skip: skips.pop() }, inputs.time, inputs.mode);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, inputs.text);
            }
        }
        for up in &self.upsamplers {
            let [_, _, h, w] = skips.last().map_or(x.dims().map(|n| 2 * n), Tensor::dims);
            x = up.forward_to(x, [h, w]);
        }
        x
    }
}
