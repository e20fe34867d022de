//! The blocks of the down path and the up path, and the middle block.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{self as ops, Maps};

use super::{
    added::{AddedAttention, AddedSpec},
    config::{CrossDownBlockType, CrossMidBlockType, CrossUpBlockType, PerBlock, UNet2DConditionConfig},
    transformer::{Transformer, TransformerSpec},
};
use crate::{
    config::ConfigError,
    layers::{Either, Init},
    network::Mode,
    unet::{
        resample::{ConvDown, ConvUp, Resample},
        resnet::{Groups, ResnetBlock, ResnetSpec, Time, configured_groups},
    },
};

/// What follows a residual layer.
type Attention = Either<Transformer, AddedAttention>;

/// Inputs of blocks besides the image.
pub(super) struct Inputs<'a> {
    pub(super) time: &'a Time,
    /// `None` for networks that read no text.
    pub(super) text: Option<&'a Tensor<3>>,
    /// How many tokens of the text count.
    pub(super) lengths: Option<&'a [usize]>,
    pub(super) mode: Mode,
}

impl Attention {
    fn forward(&self, x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        match self {
            Self::A(transformer) => transformer.forward(x, inputs.text),
            Self::B(added) => {
                let text = inputs.text.expect("networks with such blocks read texts");
                added.forward(x, text, inputs.lengths)
            }
        }
    }
}

/// Builds the layers of one block.
pub(crate) struct Builder<'a> {
    pub(crate) config: &'a UNet2DConditionConfig,
    pub(crate) scale: f64,
}

impl Builder<'_> {
    pub(crate) fn resnet(
        &self,
        init: &Init,
        inputs: usize,
        outputs: usize,
    ) -> Result<ResnetBlock, ConfigError> {
        self.resampling(init, [inputs, outputs], None)
    }

    fn resampling(
        &self,
        init: &Init,
        [inputs, outputs]: [usize; 2],
        resample: Option<Resample>,
    ) -> Result<ResnetBlock, ConfigError> {
        let (groups, scale) = (Groups::Configured, self.scale);
        let spec = ResnetSpec { inputs, inner: outputs, outputs, groups, scale, resample };
        ResnetBlock::new(init, &self.config.resnets(), spec)
    }

    /// Attention to the text and the image at once for block `level`.
    fn added(
        &self,
        init: &Init,
        level: usize,
        channels: usize,
        only_cross: bool,
    ) -> Result<Attention, ConfigError> {
        let config = self.config;
        let head = listed("attention_head_dim", config.attention_head_dim.get(level), level)?;
        if head == 0 || !channels.is_multiple_of(head) {
            let reason = format!(
                "the {channels} channels of {} are not divisible by this number of channels per head",
                init.path()
            );
            return Err(ConfigError::value("attention_head_dim", head, reason));
        }
        let groups = configured_groups(init, &config.resnets(), channels)?;
        let text = listed("cross_attention_dim", config.cross_attention_dim.get(level), level)?;
        Ok(Either::B(AddedAttention::new(init, AddedSpec { channels, head, text, groups, only_cross })))
    }

    /// A transformer with the given number of layers for block `level`.
    pub(crate) fn transformer(
        &self,
        init: &Init,
        level: usize,
        channels: usize,
        layers: usize,
        only_cross: bool,
    ) -> Result<Attention, ConfigError> {
        let config = self.config;
        let heads = listed("attention_head_dim", config.attention_head_dim.get(level), level)?;
        if heads == 0 || !channels.is_multiple_of(heads) {
            let reason = format!(
                "the {channels} channels of {} are not divisible by this number of heads",
                init.path()
            );
            return Err(ConfigError::value("attention_head_dim", heads, reason));
        }
        let text = listed("cross_attention_dim", config.cross_attention_dim.get(level), level)?;
        let groups = configured_groups(init, &config.resnets(), channels)?;
        let linear = config.use_linear_projection;
        let spec =
            TransformerSpec { channels, heads, layers, text, groups, linear, only_cross, positions: None };
        Ok(Either::A(Transformer::new(init, spec)))
    }
}

pub(super) fn listed(key: &str, value: Option<usize>, level: usize) -> Result<usize, ConfigError> {
    let missing = || ConfigError::value(key, level, "is the index of a block without an entry in the list");
    value.ok_or_else(missing)
}

/// A block of the down path.
#[derive(Module, Debug)]
pub struct DownBlock {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock>,
    downsamplers: Vec<Either<ConvDown, ResnetBlock>>,
}

impl DownBlock {
    pub(super) fn new(
        init: &Init,
        config: &UNet2DConditionConfig,
        level: usize,
        inputs: usize,
    ) -> Result<Self, ConfigError> {
        let (outputs, kind) = (config.block_out_channels[level], config.down_block_types[level]);
        let builder = Builder { config, scale: 1.0 };
        let mut block = Self { attentions: Vec::new(), resnets: Vec::new(), downsamplers: Vec::new() };
        for i in 0..config.layers(level)? {
            let inputs = if i == 0 { inputs } else { outputs };
            block.resnets.push(builder.resnet(&init.at("resnets").at(i), inputs, outputs)?);
            let at = init.at("attentions").at(i);
            let only = config.only_cross(level)?;
            block.attentions.extend(match kind {
                CrossDownBlockType::CrossAttnDownBlock2D => {
                    let layers = config.transformer_layers(level)?;
                    Some(builder.transformer(&at, level, outputs, layers, only)?)
                }
                CrossDownBlockType::SimpleCrossAttnDownBlock2D => {
                    Some(builder.added(&at, level, outputs, only)?)
                }
                _ => None,
            });
        }
        if level + 1 < config.block_out_channels.len() {
            let at = init.at("downsamplers.0");
            block.downsamplers.push(match kind.by_resnet() {
                true => Either::B(builder.resampling(&at, [outputs; 2], Some(Resample::MeanDown))?),
                false => Either::A(ConvDown::new(&at, outputs, config.downsample_padding)),
            });
        }
        Ok(block)
    }

    /// Pushes the inputs of the up path to `skips`. `added` is added to the output of the last attention, if there is any, and
    /// otherwise to that of the block.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        mut added: Option<Tensor<4>>,
        skips: &mut Vec<Tensor<4>>,
        inputs: &Inputs<'_>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, inputs.time, inputs.mode);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, inputs);
                if i + 1 == self.attentions.len() {
                    x = added.take().into_iter().fold(x, ops::add);
                }
            }
            skips.push(x.clone());
        }
        for down in &self.downsamplers {
            x = match down {
                Either::A(conv) => conv.forward(x),
                Either::B(resnet) => resnet.forward(x, inputs.time, inputs.mode),
            };
            skips.push(x.clone());
        }
        if let Some(added) = added {
            x = ops::add(x, added);
            // The up path reads the same.
            skips.pop();
            skips.push(x.clone());
        }
        x
    }
}

/// Residual layer, attention, residual layer.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock>,
}

impl MidBlock {
    pub(super) fn new(
        init: &Init,
        config: &UNet2DConditionConfig,
        kind: CrossMidBlockType,
    ) -> Result<Self, ConfigError> {
        let level = config.block_out_channels.len() - 1;
        let channels = config.block_out_channels[level];
        let builder = Builder { config, scale: config.mid_block_scale_factor };
        let resnet = |i: usize| builder.resnet(&init.at("resnets").at(i), channels, channels);
        let at = init.at("attentions.0");
        let attention = match kind {
            CrossMidBlockType::UNetMidBlock2DCrossAttn => {
                builder.transformer(&at, level, channels, config.transformer_layers(level)?, false)?
            }
            CrossMidBlockType::UNetMidBlock2DSimpleCrossAttn => {
                let only = config.only_cross_attention == PerBlock::All(true);
                builder.added(&at, level, channels, only)?
            }
        };
        Ok(Self { attentions: vec![attention], resnets: vec![resnet(0)?, resnet(1)?] })
    }

    pub(super) fn forward(&self, mut x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.attentions.get(i)) {
                x = attention.forward(x, inputs);
            }
            x = resnet.forward(x, inputs.time, inputs.mode);
        }
        x
    }
}

/// A block of the up path.
#[derive(Module, Debug)]
pub struct UpBlock {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock>,
    upsamplers: Vec<Either<ConvUp, ResnetBlock>>,
}

impl UpBlock {
    /// Block `i`, counted from the lowest resolution.
    pub(super) fn new(init: &Init, config: &UNet2DConditionConfig, i: usize) -> Result<Self, ConfigError> {
        let widths = &config.block_out_channels;
        let level = widths.len() - 1 - i;
        let (previous, outputs) = (widths[(level + 1).min(widths.len() - 1)], widths[level]);
        let (next, kind) = (widths[level.saturating_sub(1)], config.up_block_types[i]);
        let builder = Builder { config, scale: 1.0 };
        let mut block = Self { attentions: Vec::new(), resnets: Vec::new(), upsamplers: Vec::new() };
        let layers = config.layers(level)? + 1;
        for j in 0..layers {
            let below = if j == 0 { previous } else { outputs };
            let skip = if j + 1 == layers { next } else { outputs };
            block.resnets.push(builder.resnet(&init.at("resnets").at(j), below + skip, outputs)?);
            let at = init.at("attentions").at(j);
            let only = config.only_cross(level)?;
            block.attentions.extend(match kind {
                CrossUpBlockType::CrossAttnUpBlock2D => {
                    let depth = config.transformer_layers_up(i, level)?;
                    Some(builder.transformer(&at, level, outputs, depth, only)?)
                }
                CrossUpBlockType::SimpleCrossAttnUpBlock2D => Some(builder.added(&at, level, outputs, only)?),
                _ => None,
            });
        }
        if level > 0 {
            let at = init.at("upsamplers.0");
            block.upsamplers.push(match kind.by_resnet() {
                true => Either::B(builder.resampling(&at, [outputs; 2], Some(Resample::NearestUp))?),
                false => Either::A(ConvUp::new(&at, outputs)),
            });
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
                x = attention.forward(x, inputs);
            }
        }
        for up in &self.upsamplers {
            x = match up {
                Either::A(conv) => {
                    let [_, _, h, w] = skips.last().map_or(x.dims().map(|n| 2 * n), Tensor::dims);
                    conv.forward_to(x, [h, w])
                }
                Either::B(resnet) => resnet.forward(x, inputs.time, inputs.mode),
            };
        }
        x
    }
}
