//! Encoder and decoder: residual layers without time embedding.

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{Added, ConvOptions, Precision};

use super::config::AutoencoderKlConfig;
use crate::{
    layers::{Activation, Conv2d, GroupNorm, Init},
    unet::{
        attention::Attention,
        resample::{ConvDown, ConvUp},
    },
};

/// Added to variances, fixed in the published networks.
pub(super) const EPS: f64 = 1e-6;

pub(super) fn norm(init: &Init, config: &AutoencoderKlConfig, channels: usize) -> GroupNorm {
    GroupNorm::new(init, config.norm_num_groups, channels, EPS)
}

/// Normalize, activate, convolve, twice, with a residual connection.
#[derive(Module, Debug)]
pub struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    #[module(skip)]
    activation: Activation,
}

impl Resnet {
    pub(super) fn new(init: &Init, config: &AutoencoderKlConfig, inputs: usize, outputs: usize) -> Self {
        let shortcut = || Conv2d::new(&init.at("conv_shortcut"), inputs, outputs, 1, true);
        Self {
            norm1: norm(&init.at("norm1"), config, inputs),
            conv1: Conv2d::new(&init.at("conv1"), inputs, outputs, 3, true),
            norm2: norm(&init.at("norm2"), config, outputs),
            conv2: Conv2d::new(&init.at("conv2"), outputs, outputs, 3, true),
            conv_shortcut: (inputs != outputs).then(shortcut),
            activation: config.act_fn,
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let act = self.activation;
        let h = self.norm1.then_conv(act, x.clone(), None, &self.conv1, Added::default());
        let residual = match &self.conv_shortcut {
            Some(conv) => conv.forward(x, ConvOptions::same(0)),
            None => x,
        };
        self.norm2.then_conv(act, h, None, &self.conv2, Added::residual(residual))
    }
}

/// Residual layers of one resolution, then a change of resolution.
#[derive(Module, Debug)]
pub struct Block {
    resnets: Vec<Resnet>,
    downsamplers: Vec<ConvDown>,
    upsamplers: Vec<ConvUp>,
}

impl Block {
    fn new(init: &Init, config: &AutoencoderKlConfig, layers: usize, inputs: usize, outputs: usize) -> Self {
        let resnet = |i: usize| {
            let inputs = if i == 0 { inputs } else { outputs };
            Resnet::new(&init.at("resnets").at(i), config, inputs, outputs)
        };
        let resnets = (0..layers).map(resnet).collect();
        Self { resnets, downsamplers: Vec::new(), upsamplers: Vec::new() }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for resnet in &self.resnets {
            x = resnet.forward(x);
        }
        for down in &self.downsamplers {
            x = down.forward(x);
        }
        for up in &self.upsamplers {
            x = up.forward(x);
        }
        x
    }
}

/// Residual layer, attention, residual layer.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: Vec<Attention>,
    resnets: Vec<Resnet>,
}

impl MidBlock {
    fn new(init: &Init, config: &AutoencoderKlConfig, channels: usize) -> Self {
        let attention = || {
            let groups = Some((config.norm_num_groups, EPS));
            Attention::of_heads(&init.at("attentions.0"), channels, channels, groups)
        };
        let resnet = |i: usize| Resnet::new(&init.at("resnets").at(i), config, channels, channels);
        Self {
            attentions: config.mid_block_add_attention.then(attention).into_iter().collect(),
            resnets: vec![resnet(0), resnet(1)],
        }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.attentions.get(i)) {
                x = attention.forward(x);
            }
            x = resnet.forward(x);
        }
        x
    }
}

/// Maps images to features.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<Block>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn new(init: &Init, config: &AutoencoderKlConfig, outputs: usize) -> Self {
        let widths = &config.block_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let block = |i: usize| {
            let init = init.at("down_blocks").at(i);
            let inputs = widths[i.saturating_sub(1)];
            let mut block = Block::new(&init, config, config.layers_per_block, inputs, widths[i]);
            if i + 1 < widths.len() {
                block.downsamplers.push(ConvDown::new(&init.at("downsamplers.0"), widths[i], 0));
            }
            block
        };
        Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.in_channels, first, 3, true),
            down_blocks: (0..widths.len()).map(block).collect(),
            mid_block: MidBlock::new(&init.at("mid_block"), config, last),
            conv_norm_out: norm(&init.at("conv_norm_out"), config, last),
            conv_out: Conv2d::new(&init.at("conv_out"), last, outputs, 3, true),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>, precision: Precision) -> Tensor<4> {
        let mut x = precision.lower(self.conv_in.forward(x, ConvOptions::same(1)));
        for block in &self.down_blocks {
            x = block.forward(x);
        }
        let x = self.mid_block.forward(x);
        self.conv_norm_out.then_last_conv(Activation::Silu, x, &self.conv_out, precision)
    }
}

/// Maps features to images.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    pub(super) conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn new(init: &Init, config: &AutoencoderKlConfig) -> Self {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (deepest, last) = (widths[0], widths[widths.len() - 1]);
        let block = |i: usize| {
            let init = init.at("up_blocks").at(i);
            let inputs = widths[i.saturating_sub(1)];
            let mut block = Block::new(&init, config, config.layers_per_block + 1, inputs, widths[i]);
            if i + 1 < widths.len() {
                block.upsamplers.push(ConvUp::new(&init.at("upsamplers.0"), widths[i]));
            }
            block
        };
        Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.latent_channels, deepest, 3, true),
            mid_block: MidBlock::new(&init.at("mid_block"), config, deepest),
            up_blocks: (0..widths.len()).map(block).collect(),
            conv_norm_out: norm(&init.at("conv_norm_out"), config, last),
            conv_out: Conv2d::new(&init.at("conv_out"), last, config.out_channels, 3, true),
        }
    }

    /// Everything before the last convolution; the result is `f32` for any precision.
    pub(super) fn features(&self, x: Tensor<4>, precision: Precision) -> Tensor<4> {
        let x = precision.lower(self.conv_in.forward(x, ConvOptions::same(1)));
        let mut x = self.mid_block.forward(x);
        for block in &self.up_blocks {
            x = block.forward(x);
        }
        precision.raise(self.conv_norm_out.then(Activation::Silu, x))
    }
}
