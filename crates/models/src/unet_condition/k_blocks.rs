//! The blocks "K" of diffusers, from the U-Net of k-diffusion that enlarges latents: the scale and the shift of each
//! normalization depend on the time, layers attend to the text, and fixed filters change the resolution.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::Maps;

use super::{
    blocks::{Inputs, listed},
    config::{CrossDownBlockType, CrossUpBlockType, UNet2DConditionConfig},
};
use crate::{
    config::ConfigError,
    layers::{Init, TokenAttention},
    unet::{
        resample::Resample,
        resnet::{Groups, ResnetBlock, ResnetSpec, TimeGroupNorm, check_groups},
    },
};

/// Channels of a group.
const GROUP: usize = 32;
/// Added to variances in attention, fixed in the published network.
const EPS: f64 = 1e-5;

/// Attention to the image, if there is any, then to the text, each with a preceding normalization and a residual connection.
#[derive(Module, Debug)]
pub struct KAttention {
    norm1: Option<TimeGroupNorm>,
    attn1: Option<TokenAttention>,
    norm2: TimeGroupNorm,
    attn2: TokenAttention,
}

impl KAttention {
    /// `head` is the number of channels of a head.
    fn new(
        init: &Init,
        config: &UNet2DConditionConfig,
        channels: usize,
        [head, text]: [usize; 2],
        to_image: bool,
    ) -> Result<Self, ConfigError> {
        if head == 0 || !channels.is_multiple_of(head) {
            let path = init.path();
            let reason =
                format!("the {channels} channels of {path} are not divisible by this number per head");
            return Err(ConfigError::value("attention_head_dim", head, reason));
        }
        let groups = (channels / GROUP).max(1);
        check_groups(init, "block_out_channels", &config.block_out_channels, groups, channels)?;
        let width = config.resnets().time_width();
        let norm = |name: &str| TimeGroupNorm::new(&init.at(name), groups, channels, width, EPS);
        let attention = |name: &str, context| {
            TokenAttention::new(&init.at(name), channels, context, channels / head, true)
        };
        Ok(Self {
            norm1: to_image.then(|| norm("norm1")),
            attn1: to_image.then(|| attention("attn1", channels)),
            norm2: norm("norm2"),
            attn2: attention("attn2", text).with_context_norm(&init.at("attn2"), text, EPS),
        })
    }

    fn forward(&self, mut x: Tensor<4>, inputs: &Inputs<'_>) -> Tensor<4> {
        let [b, c, h, w] = x.dims();
        let tokens = |x: Tensor<4>| -> Tensor<3> { x.permute([0, 2, 3, 1]).reshape([b, h * w, c]) };
        let image = |x: Tensor<3>| -> Tensor<4> { x.reshape([b, h, w, c]).permute([0, 3, 1, 2]) };
        if let (Some(norm), Some(attention)) = (&self.norm1, &self.attn1) {
            let y = tokens(norm.forward(x.clone(), inputs.time));
            x = image(attention.forward_onto(y.clone(), y, tokens(x)));
        }
        let y = tokens(self.norm2.forward(x.clone(), inputs.time));
        let text = inputs.text.expect("networks with such blocks read texts").clone();
        image(self.attn2.forward_onto(y, text, tokens(x)))
    }
}

/// A block of the down path.
#[derive(Module, Debug)]
pub struct KDownBlock {
    attentions: Vec<KAttention>,
    resnets: Vec<ResnetBlock>,
    halves: bool,
    /// Whether the up path reads its output.
    shared: bool,
}

impl KDownBlock {
    pub(super) fn new(
        init: &Init,
        config: &UNet2DConditionConfig,
        level: usize,
        inputs: usize,
    ) -> Result<Self, ConfigError> {
        let outputs = config.block_out_channels[level];
        let attends = config.down_block_types[level] == CrossDownBlockType::KCrossAttnDownBlock2D;
        let halves = level + 1 < config.block_out_channels.len();
        let shared = halves || !attends;
        let mut block = Self { attentions: Vec::new(), resnets: Vec::new(), halves, shared };
        for i in 0..config.layers(level)? {
            let inputs = if i == 0 { inputs } else { outputs };
            let spec = spec([inputs, outputs, outputs], outputs);
            block.resnets.push(ResnetBlock::new(&init.at("resnets").at(i), &config.resnets(), spec)?);
            if attends {
                let sizes = [
                    listed("attention_head_dim", config.attention_head_dim.get(level), level)?,
                    listed("cross_attention_dim", config.cross_attention_dim.get(level), level)?,
                ];
                let at = init.at("attentions").at(i);
                block.attentions.push(KAttention::new(&at, config, outputs, sizes, !halves)?);
            }
        }
        Ok(block)
    }

    /// Pushes the input of the up path to `skips`.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        inputs: &Inputs<'_>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, inputs.time, inputs.mode);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, inputs);
            }
        }
        if self.shared {
            skips.push(x.clone());
        }
        if self.halves { Resample::MirrorDown.apply(x) } else { x }
    }
}

/// A block of the up path.
#[derive(Module, Debug)]
pub struct KUpBlock {
    attentions: Vec<KAttention>,
    resnets: Vec<ResnetBlock>,
    doubles: bool,
    /// Whether it reads the output of a block of the down path.
    reads: bool,
}

impl KUpBlock {
    /// Block `i`, counted from the lowest resolution.
    pub(super) fn new(init: &Init, config: &UNet2DConditionConfig, i: usize) -> Result<Self, ConfigError> {
        let widths = &config.block_out_channels;
        let level = widths.len() - 1 - i;
        let (outputs, next) = (widths[level], widths[level.saturating_sub(1)]);
        let attends = config.up_block_types[i] == CrossUpBlockType::KCrossAttnUpBlock2D;
        // By these widths diffusers tells which block is the first, reads no skip connection, and attends to the image.
        let first = attends && next == outputs && outputs == config.resnets().time_width();
        let reads = i > 0 || config.down_block_types[level] != CrossDownBlockType::KCrossAttnDownBlock2D;
        if first == reads {
            let reason = format!(
                "the width of the time embedding, {}, must equal the last two entries and no other two neighbours, if the last \
                 block down is a KCrossAttnDownBlock2D",
                config.resnets().time_width()
            );
            return Err(ConfigError::value("block_out_channels", widths, reason));
        }
        let layers = config.layers(level)?;
        let mut block = Self { attentions: Vec::new(), resnets: Vec::new(), doubles: level > 0, reads };
        for j in 0..layers {
            let inputs = if j == 0 && reads { 2 * outputs } else { outputs };
            let last = if j + 1 == layers { next } else { outputs };
            let inner = if attends { outputs } else { last };
            let spec = spec([inputs, inner, last], outputs);
            block.resnets.push(ResnetBlock::new(&init.at("resnets").at(j), &config.resnets(), spec)?);
            if attends {
                let sizes = [
                    // diffusers does not reverse this list.
                    listed("attention_head_dim", config.attention_head_dim.get(i), i)?,
                    listed("cross_attention_dim", config.cross_attention_dim.get(level), level)?,
                ];
                let at = init.at("attentions").at(j);
                block.attentions.push(KAttention::new(&at, config, last, sizes, first)?);
            }
        }
        Ok(block)
    }

    /// Pops its input from `skips`, if it reads one.
    pub(super) fn forward(&self, x: Tensor<4>, skips: &mut Vec<Tensor<4>>, inputs: &Inputs<'_>) -> Tensor<4> {
        let mut maps = Maps { x, skip: if self.reads { skips.pop() } else { None } };
        for (i, resnet) in self.resnets.iter().enumerate() {
            let mut x = resnet.forward(maps, inputs.time, inputs.mode);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, inputs);
            }
            maps = x.into();
        }
        let x = maps.joined();
        if self.doubles { Resample::MirrorUp.apply(x) } else { x }
    }
}

/// A residual layer of a block with `channels`.
fn spec([inputs, inner, outputs]: [usize; 3], channels: usize) -> ResnetSpec {
    ResnetSpec {
        inputs,
        inner,
        outputs,
        groups: Groups::Of32 { second: channels },
        scale: 1.0,
        resample: None,
    }
}
