//! The blocks of the down path and the up path, and the middle block.

use std::f64::consts::SQRT_2;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{self as ops, Added, ConvOptions, Maps};

use super::{
    attention::Attention,
    config::{ConfigError, DownBlockType, ResampleType, TimeScaleShift, UNet2DConfig, UpBlockType},
    resample::{ConvDown, ConvUp, Resample},
    resnet::{Groups, ResnetBlock, ResnetSpec, Time, check_groups, configured_groups},
};
use crate::{
    layers::{Activation, Conv2d, Either, GroupNorm, Init},
    network::Mode,
};

/// Image channels of skip blocks, fixed in the published networks.
pub(super) const SKIP_CHANNELS: usize = 3;

/// Groups of the normalization before the attention of skip blocks.
const SKIP_ATTENTION_GROUPS: usize = 32;

/// A block of the down path.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Attention>,
    downsamplers: Vec<Either<ConvDown, ResnetBlock>>,
    resnet_down: Option<ResnetBlock>,
    skip_conv: Option<Conv2d>,
    #[module(skip)]
    kind: DownBlockType,
    halves: bool,
}

impl DownBlock {
    /// `halves`: whether to halve the resolution at the end.
    pub(super) fn new(
        init: &Init,
        config: &UNet2DConfig,
        kind: DownBlockType,
        inputs: usize,
        outputs: usize,
        halves: bool,
    ) -> Result<Self, ConfigError> {
        use DownBlockType as T;
        let (groups, scale) = match kind {
            T::SkipDownBlock2D | T::AttnSkipDownBlock2D => (Groups::Quarter { first: None }, SQRT_2),
            T::KDownBlock2D => (Groups::Of32 { second: outputs }, 1.0),
            _ => (Groups::Configured, 1.0),
        };
        let resnet = |init: &Init, inputs, resample| {
            ResnetBlock::new(
                init,
                config,
                ResnetSpec { inputs, inner: outputs, outputs, groups, scale, resample },
            )
        };
        let mut block = Self {
            resnets: Vec::new(),
            attentions: Vec::new(),
            downsamplers: Vec::new(),
            resnet_down: None,
            skip_conv: None,
            kind,
            halves,
        };
        for i in 0..config.layers_per_block {
            let inputs = if i == 0 { inputs } else { outputs };
            block.resnets.push(resnet(&init.at("resnets").at(i), inputs, None)?);
            let init = init.at("attentions").at(i);
            let groups = match kind {
                T::AttnDownBlock2D => configured_groups(&init, config, outputs)?,
                T::AttnSkipDownBlock2D => skip_attention_groups(&init, config, outputs)?,
                _ => continue,
            };
            block.attentions.push(Attention::new(&init, config, outputs, Some(groups), scale)?);
        }
        if !halves {
            return Ok(block);
        }
        let at = init.at("downsamplers.0");
        match kind {
            T::SkipDownBlock2D | T::AttnSkipDownBlock2D => {
                let down = resnet(&init.at("resnet_down"), outputs, Some(Resample::FirDown))?;
                block.resnet_down = Some(down);
                block.skip_conv = Some(Conv2d::new(&init.at("skip_conv"), SKIP_CHANNELS, outputs, 1, true));
            }
            T::KDownBlock2D => {}
            T::ResnetDownsampleBlock2D => {
                block.downsamplers.push(Either::B(resnet(&at, outputs, Some(Resample::MeanDown))?));
            }
            T::AttnDownBlock2D if config.downsample_type == ResampleType::Resnet => {
                block.downsamplers.push(Either::B(resnet(&at, outputs, Some(Resample::MeanDown))?));
            }
            T::AttnDownBlock2D | T::DownBlock2D => {
                let padding = config.downsample_padding;
                if padding > 1 {
                    let reason = "expected 0 or 1";
                    return Err(ConfigError::value("downsample_padding", padding, reason));
                }
                block.downsamplers.push(Either::A(ConvDown::new(&at, outputs, padding)));
            }
        }
        Ok(block)
    }

    /// Maps `x: [B, in, H, W]` to `[B, out, H/2, W/2]`. Pushes the inputs of the up path to `skips`; halves `image` if this
    /// block reads it.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        image: &mut Tensor<4>,
        skips: &mut Vec<Tensor<4>>,
        time: &Time,
        mode: Mode,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, time, mode);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x);
            }
            skips.push(x.clone());
        }
        if !self.halves {
            return x;
        }
        if self.kind == DownBlockType::KDownBlock2D {
            return Resample::MirrorDown.apply(x);
        }
        for downsampler in &self.downsamplers {
            x = match downsampler {
                Either::A(conv) => conv.forward(x),
                Either::B(resnet) => resnet.forward(x, time, mode),
            };
        }
        if let (Some(resnet), Some(conv)) = (&self.resnet_down, &self.skip_conv) {
            x = resnet.forward(x, time, mode);
            *image = Resample::FirDown.apply(image.clone());
            let part = conv.forward(image.clone(), ConvOptions::same(0));
            x = ops::add(ops::cast_like(part, &x), x);
        }
        skips.push(x.clone());
        x
    }
}

/// A block of the up path.
#[derive(Module, Debug)]
pub struct UpBlock {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock>,
    upsamplers: Vec<Either<ConvUp, ResnetBlock>>,
    resnet_up: Option<ResnetBlock>,
    skip_conv: Option<Conv2d>,
    skip_norm: Option<GroupNorm>,
    #[module(skip)]
    kind: UpBlockType,
    doubles: bool,
}

/// The channels that meet in a block of the up path.
#[derive(Clone, Copy, Debug)]
pub(super) struct UpChannels {
    /// Channels of the previous block of the up path.
    pub(super) previous: usize,
    /// Channels at this resolution.
    pub(super) outputs: usize,
    /// Channels at the next higher resolution.
    pub(super) next: usize,
}

impl UpBlock {
    /// Number of layers in a block that read a skip connection.
    pub(super) fn reads(kind: UpBlockType, config: &UNet2DConfig) -> usize {
        match kind {
            UpBlockType::KUpBlock2D => config.layers_per_block,
            _ => config.layers_per_block + 1,
        }
    }

    /// `doubles`: whether to double the resolution at the end.
    pub(super) fn new(
        init: &Init,
        config: &UNet2DConfig,
        kind: UpBlockType,
        channels: UpChannels,
        doubles: bool,
    ) -> Result<Self, ConfigError> {
        use UpBlockType as T;
        let UpChannels { previous, outputs, next } = channels;
        let skip = matches!(kind, T::SkipUpBlock2D | T::AttnSkipUpBlock2D);
        let scale = if skip { SQRT_2 } else { 1.0 };
        let resnet = |init: &Init, inputs, outputs, groups, resample| {
            ResnetBlock::new(
                init,
                config,
                ResnetSpec { inputs, inner: outputs, outputs, groups, scale, resample },
            )
        };
        let mut block = Self {
            attentions: Vec::new(),
            resnets: Vec::new(),
            upsamplers: Vec::new(),
            resnet_up: None,
            skip_conv: None,
            skip_norm: None,
            kind,
            doubles,
        };
        let layers = Self::reads(kind, config);
        for i in 0..layers {
            let last = i + 1 == layers;
            let from_below = if i == 0 { previous } else { outputs };
            let from_down = if last { next } else { outputs };
            let at = init.at("resnets").at(i);
            block.resnets.push(match kind {
                T::KUpBlock2D => {
                    let inputs = if i == 0 { 2 * outputs } else { outputs };
                    let groups = Groups::Of32 { second: outputs };
                    resnet(&at, inputs, if last { next } else { outputs }, groups, None)?
                }
                T::AttnSkipUpBlock2D => {
                    // Only the second term is divided, as in the published networks.
                    let first = Some((from_below + from_down / 4).min(32));
                    resnet(&at, from_below + from_down, outputs, Groups::Quarter { first }, None)?
                }
                T::SkipUpBlock2D => {
                    resnet(&at, from_below + from_down, outputs, Groups::Quarter { first: None }, None)?
                }
                _ => resnet(&at, from_below + from_down, outputs, Groups::Configured, None)?,
            });
            if kind == T::AttnUpBlock2D {
                let at = init.at("attentions").at(i);
                let groups = configured_groups(&at, config, outputs)?;
                block.attentions.push(Attention::new(&at, config, outputs, Some(groups), scale)?);
            }
        }
        if kind == T::AttnSkipUpBlock2D {
            let at = init.at("attentions.0");
            let groups = skip_attention_groups(&at, config, outputs)?;
            block.attentions.push(Attention::new(&at, config, outputs, Some(groups), scale)?);
        }
        if !doubles {
            return Ok(block);
        }
        let at = init.at("upsamplers.0");
        match kind {
            T::SkipUpBlock2D | T::AttnSkipUpBlock2D => {
                let groups = Groups::Quarter { first: None };
                let up = resnet(&init.at("resnet_up"), outputs, outputs, groups, Some(Resample::FirUp))?;
                block.resnet_up = Some(up);
                block.skip_conv = Some(Conv2d::new(&init.at("skip_conv"), outputs, SKIP_CHANNELS, 3, true));
                let groups = (outputs / 4).min(32);
                block.skip_norm =
                    Some(GroupNorm::new(&init.at("skip_norm"), groups, outputs, config.norm_eps));
            }
            T::KUpBlock2D => {}
            T::ResnetUpsampleBlock2D => {
                let up = resnet(&at, outputs, outputs, Groups::Configured, Some(Resample::NearestUp))?;
                block.upsamplers.push(Either::B(up));
            }
            T::AttnUpBlock2D if config.upsample_type == ResampleType::Resnet => {
                let up = resnet(&at, outputs, outputs, Groups::Configured, Some(Resample::NearestUp))?;
                block.upsamplers.push(Either::B(up));
            }
            T::AttnUpBlock2D | T::UpBlock2D => {
                block.upsamplers.push(Either::A(ConvUp::new(&at, outputs)));
            }
        }
        Ok(block)
    }

    /// Maps `x: [B, previous, H, W]` to `[B, C, 2H, 2W]`. Pops its inputs from `skips`; a skip block adds to `image` at its
    /// resolution.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        image: &mut Option<Tensor<4>>,
        skips: &mut Vec<Tensor<4>>,
        time: &Time,
        mode: Mode,
    ) -> Tensor<4> {
        let mut taken = skips.split_off(skips.len() - self.resnets.len());
        let conditioned = self.kind == UpBlockType::KUpBlock2D;
        let skip = matches!(self.kind, UpBlockType::SkipUpBlock2D | UpBlockType::AttnSkipUpBlock2D);
        for (i, resnet) in self.resnets.iter().enumerate() {
            // A block of conditioned layers reads one skip connection and ignores the others.
            let joined = taken.pop().filter(|_| !conditioned || i == 0);
            x = resnet.forward(Maps { x, skip: joined }, time, mode);
            if let Some(attention) = self.attentions.get(i).filter(|_| !skip) {
                x = attention.forward(x);
            }
        }
        if skip {
            for attention in &self.attentions {
                x = attention.forward(x);
            }
            *image = image.take().map(|image| Resample::FirUp.apply(image));
        }
        if !self.doubles {
            return x;
        }
        if conditioned {
            return Resample::MirrorUp.apply(x);
        }
        for upsampler in &self.upsamplers {
            x = match upsampler {
                Either::A(conv) => conv.forward(x),
                Either::B(resnet) => resnet.forward(x, time, mode),
            };
        }
        if let (Some(resnet), Some(norm), Some(conv)) = (&self.resnet_up, &self.skip_norm, &self.skip_conv) {
            let part = norm.then_conv(Activation::Silu, x.clone(), None, conv, Added::default());
            let part = ops::to_f32(part);
            *image = Some(match image.take() {
                Some(image) => ops::add(image, part),
                None => part,
            });
            x = resnet.forward(x, time, mode);
        }
        x
    }
}

/// The middle block.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: Vec<Attention>,
    resnets: Vec<ResnetBlock>,
}

impl MidBlock {
    pub(super) fn new(init: &Init, config: &UNet2DConfig, channels: usize) -> Result<Self, ConfigError> {
        let groups = match config.norm_num_groups {
            Some(_) => Groups::Configured,
            None => Groups::Quarter { first: None },
        };
        let scale = config.mid_block_scale_factor;
        let resnet = |i: usize| {
            let spec = ResnetSpec {
                inputs: channels,
                inner: channels,
                outputs: channels,
                groups,
                scale,
                resample: None,
            };
            ResnetBlock::new(&init.at("resnets").at(i), config, spec)
        };
        let attentions = match config.add_attention {
            true => {
                let at = init.at("attentions.0");
                let groups = Self::attention_groups(&at, config, channels)?;
                vec![Attention::new(&at, config, channels, groups, scale)?]
            }
            false => Vec::new(),
        };
        Ok(Self { attentions, resnets: vec![resnet(0)?, resnet(1)?] })
    }

    fn attention_groups(
        init: &Init,
        config: &UNet2DConfig,
        channels: usize,
    ) -> Result<Option<usize>, ConfigError> {
        if let Some(groups) = config.attn_norm_num_groups {
            check_groups(init, "attn_norm_num_groups", groups, groups, channels)?;
            return Ok(Some(groups));
        }
        if config.resnet_time_scale_shift != TimeScaleShift::Default {
            return Ok(None);
        }
        match config.norm_num_groups {
            Some(_) => configured_groups(init, config, channels).map(Some),
            None => Ok(Some((channels / 4).min(32))),
        }
    }

    /// Maps `[B, C, H, W]` to the same shape.
    pub(super) fn forward(&self, mut x: Tensor<4>, time: &Time, mode: Mode) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.attentions.get(i)) {
                x = attention.forward(x);
            }
            x = resnet.forward(x, time, mode);
        }
        x
    }
}

fn skip_attention_groups(init: &Init, config: &UNet2DConfig, channels: usize) -> Result<usize, ConfigError> {
    let key = "block_out_channels";
    check_groups(init, key, &config.block_out_channels, SKIP_ATTENTION_GROUPS, channels)?;
    Ok(SKIP_ATTENTION_GROUPS)
}
