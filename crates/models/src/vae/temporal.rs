//! `AutoencoderKLTemporalDecoder` of Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127): frames are encoded one
//! by one and decoded together.

use burn::{module::Module, tensor::Tensor};
use serde::{Deserialize, Serialize};
use tweedie_ops::{self as ops, Added, Batch, ConvOptions, ExecContext, Precision};

use super::{
    AutoencoderKlConfig, DecoderBlockType, EncoderBlockType,
    blocks::{EPS, Encoder, Resnet, norm},
    check_image, check_latents, clips,
};
use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::{self, ConfigError, Format},
    layers::{Activation, Conv2d, GroupNorm, Init},
    network::{InputError, module_object},
    params::constructors,
    unet::{SampleSize, attention::Attention, resample::ConvUp},
    unet_3d::{
        mixed::{Blender, GROUPS, TimeResnet},
        time::{FrameConv, clips_of, frames_of, in_frames, over_time},
    },
};

/// Added to variances in layers over time, fixed in diffusers.
const TIME_EPS: f64 = 1e-5;

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderKlTemporalDecoderConfig {
    /// Channels of the frames.
    pub in_channels: usize,
    /// Channels of the decoded frames.
    pub out_channels: usize,
    /// The blocks of the encoder.
    pub down_block_types: Vec<EncoderBlockType>,
    /// Channels at each resolution, from the highest; multiples of 32.
    pub block_out_channels: Vec<usize>,
    /// Residual layers in each block of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Size of the training frames; other sizes are supported too.
    pub sample_size: SampleSize,
    /// Diffusion uses `latents·scaling_factor`.
    pub scaling_factor: f64,
    /// Unused; for half precision.
    pub force_upcast: bool,
}

impl Default for AutoencoderKlTemporalDecoderConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            sample_size: SampleSize::Square(32),
            scaling_factor: 0.18215,
            force_upcast: true,
        }
    }
}

impl AutoencoderKlTemporalDecoderConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "AutoencoderKLTemporalDecoder";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let config: Self = config::read(text, &Format { class: Self::CLASS, harmless: &[], fixed: &[] })?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that an autoencoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.block_out_channels.iter().any(|channels| !channels.is_multiple_of(GROUPS)) {
            let reason = format!("expected multiples of {GROUPS}");
            return Err(ConfigError::value("block_out_channels", &self.block_out_channels, reason));
        }
        self.frames().validate()
    }

    /// The configuration of the layers in each frame.
    fn frames(&self) -> AutoencoderKlConfig {
        AutoencoderKlConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            down_block_types: self.down_block_types.clone(),
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; self.down_block_types.len()],
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            latent_channels: self.latent_channels,
            norm_num_groups: GROUPS,
            sample_size: self.sample_size,
            scaling_factor: self.scaling_factor,
            ..AutoencoderKlConfig::default()
        }
    }
}

/// A residual layer in each frame, one over time, and the mean of both.
#[derive(Module, Debug)]
pub struct MixedResnet {
    spatial_res_block: Resnet,
    temporal_res_block: TimeResnet,
    time_mixer: Blender,
}

impl MixedResnet {
    fn new(init: &Init, config: &AutoencoderKlConfig, inputs: usize, outputs: usize) -> Self {
        let time = init.at("temporal_res_block");
        Self {
            spatial_res_block: Resnet::new(&init.at("spatial_res_block"), config, inputs, outputs),
            temporal_res_block: TimeResnet::new(&time, outputs, TIME_EPS, None),
            time_mixer: Blender::new(&init.at("time_mixer"), 0.0, true),
        }
    }

    fn forward(&self, x: Tensor<4>, frames: usize) -> Tensor<4> {
        let x = self.spatial_res_block.forward(x);
        let over_time = self.temporal_res_block.forward(x.clone(), frames, None);
        self.time_mixer.blend_maps(x, over_time)
    }
}

/// Residual layers, with attention after the first.
#[derive(Module, Debug)]
pub struct MidBlock {
    attentions: Vec<Attention>,
    resnets: Vec<MixedResnet>,
}

/// Residual layers of one resolution, then a doubling of the resolution.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<MixedResnet>,
    upsamplers: Vec<ConvUp>,
}

/// Maps features of frames to frames.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    time_conv_out: FrameConv,
}

impl Decoder {
    fn new(init: &Init, config: &AutoencoderKlConfig) -> Self {
        let widths: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (deepest, last) = (widths[0], widths[widths.len() - 1]);
        let resnets = |init: Init, layers: usize, inputs: usize, outputs: usize| -> Vec<MixedResnet> {
            let inputs = |i: usize| if i == 0 { inputs } else { outputs };
            let resnet = |i: usize| MixedResnet::new(&init.at("resnets").at(i), config, inputs(i), outputs);
            (0..layers).map(resnet).collect()
        };
        let block = |i: usize| {
            let init = init.at("up_blocks").at(i);
            let up = (i + 1 < widths.len()).then(|| ConvUp::new(&init.at("upsamplers.0"), widths[i]));
            let inputs = widths[i.saturating_sub(1)];
            UpBlock {
                resnets: resnets(init, config.layers_per_block + 1, inputs, widths[i]),
                upsamplers: up.into_iter().collect(),
            }
        };
        let mid = init.at("mid_block");
        let attention = Attention::of_heads(&mid.at("attentions.0"), deepest, deepest, Some((GROUPS, EPS)));
        Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.latent_channels, deepest, 3, true),
            mid_block: MidBlock {
                attentions: vec![attention],
                resnets: resnets(mid, config.layers_per_block, deepest, deepest),
            },
            up_blocks: (0..widths.len()).map(block).collect(),
            conv_norm_out: norm(&init.at("conv_norm_out"), config, last),
            conv_out: Conv2d::new(&init.at("conv_out"), last, config.out_channels, 3, true),
            time_conv_out: FrameConv::new(&init.at("time_conv_out"), config.out_channels),
        }
    }

    /// `[B·F, latents, h, w]` to `[B·F, channels, H, W]` in `f32`.
    fn forward(&self, x: Tensor<4>, frames: usize, precision: Precision) -> Tensor<4> {
        let mut x = precision.lower(self.conv_in.forward(x, ConvOptions::same(1)));
        // As in diffusers, there is one attention, and no layer after the second has an effect.
        for (i, resnet) in self.mid_block.resnets.iter().take(2).enumerate() {
            if let Some(attention) = i.checked_sub(1).and_then(|i| self.mid_block.attentions.get(i)) {
                x = attention.forward(x);
            }
            x = resnet.forward(x, frames);
        }
        for block in &self.up_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, frames));
            x = block.upsamplers.iter().fold(x, |x, up| up.forward(x));
        }
        let x = self.conv_norm_out.then_last_conv(Activation::Silu, x, &self.conv_out, precision);
        let height = x.dims()[2];
        in_frames(
            ops::conv2d_with(over_time(x, frames), self.time_conv_out.kernel(), Added::default()),
            height,
        )
    }
}

/// The autoencoder. Parameters are named as in diffusers.
#[derive(Module, Debug)]
pub struct AutoencoderKlTemporalDecoder {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    #[module(skip)]
    config: AutoencoderKlTemporalDecoderConfig,
    #[module(skip)]
    context: ExecContext,
}

impl AutoencoderKlTemporalDecoder {
    constructors!(AutoencoderKlTemporalDecoderConfig);

    fn build(config: &AutoencoderKlTemporalDecoderConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (frames, moments) = (config.frames(), 2 * config.latent_channels);
        Ok(Self {
            encoder: Encoder::new(&init.at("encoder"), &frames, moments),
            decoder: Decoder::new(&init.at("decoder"), &frames),
            quant_conv: Conv2d::new(&init.at("quant_conv"), moments, moments, 1, true),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`; at any precision, the first and the last convolutions stay in `f32`. With
    /// [`Precision::Int8`] everything stays in `f32`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = match context.precision {
            Precision::Int8 => context.with_precision(Precision::F32),
            _ => context,
        };
        self
    }

    /// Mean and logarithm of the variance of the latents of clips `[B, in_channels, F, H, W]` in −1..1, both `[B,
    /// latent_channels, F, h, w]`. H and W must be multiples of the stride. Memory does not grow with the number of frames.
    ///
    /// # Errors
    /// Says which dimension is wrong and what was expected.
    pub fn encode(&self, x: Tensor<5>) -> Result<[Tensor<5>; 2], InputError> {
        let [b, c, frames, h, w] = x.dims();
        check_image([b, c, h, w], self.config.in_channels, self.config.frames().stride())?;
        check_frames(frames)?;
        let frame = |i: usize| -> Tensor<5> {
            let frame = frames_of(x.clone().narrow(2, i, 1));
            let moments = self.context.run(|| {
                let moments = self.encoder.forward(frame, self.context.precision);
                self.quant_conv.forward(moments, ConvOptions::same(0))
            });
            clips_of(moments, 1)
        };
        let moments = Tensor::cat((0..frames).map(frame).collect(), 2);
        let n = self.config.latent_channels;
        Ok([moments.clone().narrow(1, 0, n), moments.narrow(1, n, n).clamp(-30.0f32, 20.0f32)])
    }

    /// The clips of latents `[B, latent_channels, F, h, w]`, unscaled: `[B, out_channels, F, h·stride, w·stride]`.
    ///
    /// # Errors
    /// If the number of channels is wrong, or an axis is empty.
    pub fn decode(&self, z: Tensor<5>) -> Result<Tensor<5>, InputError> {
        let [b, c, frames, h, w] = z.dims();
        check_latents([b, c, h, w], self.config.latent_channels)?;
        check_frames(frames)?;
        Ok(self
            .context
            .run(|| clips_of(self.decoder.forward(frames_of(z), frames, self.context.precision), frames)))
    }
}

fn check_frames(frames: usize) -> Result<(), InputError> {
    match frames {
        0 => Err(InputError("the clip has no frames".into())),
        _ => Ok(()),
    }
}

impl Codec for AutoencoderKlTemporalDecoder {
    fn spec(&self) -> CodecSpec {
        let (c, n) = (&self.config, self.config.latent_channels);
        CodecSpec {
            class: AutoencoderKlTemporalDecoderConfig::CLASS,
            media: c.in_channels,
            latents: n,
            axes: 3,
            stride: c.frames().stride(),
            width: c.block_out_channels.first().copied().unwrap_or(0),
            scale: vec![c.scaling_factor; n],
            shift: vec![0.0; n],
        }
    }

    fn latent_axes(&self, media: &[usize]) -> Vec<usize> {
        let stride = self.config.frames().stride();
        media.iter().enumerate().map(|(i, n)| if i == 0 { *n } else { n / stride }).collect()
    }

    fn media_axes(&self, latents: &[usize]) -> Vec<usize> {
        let stride = self.config.frames().stride();
        latents.iter().enumerate().map(|(i, n)| if i == 0 { *n } else { n.saturating_mul(stride) }).collect()
    }

    fn decodes_parts(&self) -> bool {
        true
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let [mean, logvar] = AutoencoderKlTemporalDecoder::encode(self, clips(&media)?)?;
        Ok(Encoded { mean: Batch::of(mean), logvar: Some(Batch::of(logvar)) })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        AutoencoderKlTemporalDecoder::decode(self, clips(&latents)?).map(Batch::of)
    }

    module_object!(Codec);
}
