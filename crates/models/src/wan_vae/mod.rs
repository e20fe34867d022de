//! Wan's autoencoder for clips (Wan et al. 2025, arXiv:2503.20314), as diffusers' `AutoencoderKLWan`: the first frame has a latent of
//! its own, and each four frames after it have one. Frames only see those before them.

mod blocks;
mod causal;
mod config;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{Batch, ExecContext, Precision};

use self::{
    blocks::{ChannelNorm, Halve, Middle, Residual, Up},
    causal::{CausalConv, Past},
    config::GROUP,
};
use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::ConfigError,
    layers::{Either, Init},
    network::{InputError, module_object},
    params::constructors,
    vae::{check_image, check_latents, clips},
};

pub use config::AutoencoderKlWanConfig;

/// Maps frames to features.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: CausalConv,
    down_blocks: Vec<Either<Residual, Halve>>,
    mid_block: Middle,
    norm_out: ChannelNorm<4>,
    conv_out: CausalConv,
}

impl Encoder {
    fn new(init: &Init, config: &AutoencoderKlWanConfig) -> Self {
        let widths: Vec<usize> = config.dim_mult.iter().map(|n| n * config.base_dim).collect();
        let (mut down_blocks, mut from) = (Vec::new(), config.base_dim);
        for (level, &to) in widths.iter().enumerate() {
            let at = |i: usize| init.at("down_blocks").at(i);
            for _ in 0..config.num_res_blocks {
                down_blocks.push(Either::A(Residual::new(&at(down_blocks.len()), from, to)));
                from = to;
            }
            if let Some(frames) = config.temperal_downsample.get(level) {
                down_blocks.push(Either::B(Halve::new(&at(down_blocks.len()), to, *frames)));
            }
        }
        Self {
            conv_in: CausalConv::new(&init.at("conv_in"), config.in_channels, config.base_dim, [3, 3]),
            down_blocks,
            mid_block: Middle::new(&init.at("mid_block"), from),
            norm_out: ChannelNorm::new(&init.at("norm_out"), from),
            conv_out: CausalConv::new(&init.at("conv_out"), from, 2 * config.z_dim, [3, 3]),
        }
    }

    fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let mut x = self.conv_in.forward(x, past);
        for block in &self.down_blocks {
            x = match block {
                Either::A(residual) => residual.forward(x, past),
                Either::B(halve) => halve.forward(x, past),
            };
        }
        let x = self.norm_out.then_silu(self.mid_block.forward(x, past));
        self.conv_out.forward(x, past)
    }
}

/// Maps features to frames.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: CausalConv,
    mid_block: Middle,
    up_blocks: Vec<Up>,
    norm_out: ChannelNorm<4>,
    conv_out: CausalConv,
}

impl Decoder {
    fn new(init: &Init, config: &AutoencoderKlWanConfig) -> Self {
        let widths: Vec<usize> = config.dim_mult.iter().rev().map(|n| n * config.decoder_base()).collect();
        let (deepest, last) = (widths[0], widths[widths.len() - 1]);
        let frames: Vec<bool> = config.temperal_downsample.iter().rev().copied().collect();
        let block = |i: usize| {
            // A change of resolution halves the channels.
            let inputs = if i == 0 { deepest } else { widths[i - 1] / 2 };
            let init = init.at("up_blocks").at(i);
            Up::new(&init, config.num_res_blocks + 1, inputs, widths[i], frames.get(i).copied())
        };
        Self {
            conv_in: CausalConv::new(&init.at("conv_in"), config.z_dim, deepest, [3, 3]),
            mid_block: Middle::new(&init.at("mid_block"), deepest),
            up_blocks: (0..widths.len()).map(block).collect(),
            norm_out: ChannelNorm::new(&init.at("norm_out"), last),
            conv_out: CausalConv::new(&init.at("conv_out"), last, config.out_channels, [3, 3]),
        }
    }

    fn forward(&self, x: Tensor<5>, past: &mut Past) -> Tensor<5> {
        let x = self.conv_in.forward(x, past);
        let x = self.mid_block.forward(x, past);
        let x = self.up_blocks.iter().fold(x, |x, block| block.forward(x, past));
        self.conv_out.forward(self.norm_out.then_silu(x), past)
    }
}

/// The autoencoder. Parameters are named as in diffusers.
#[derive(Module, Debug)]
pub struct AutoencoderKlWan {
    encoder: Encoder,
    quant_conv: CausalConv,
    post_quant_conv: CausalConv,
    decoder: Decoder,
    #[module(skip)]
    config: AutoencoderKlWanConfig,
    #[module(skip)]
    context: ExecContext,
}

impl AutoencoderKlWan {
    constructors!(AutoencoderKlWanConfig);

    fn build(config: &AutoencoderKlWanConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let mix = |name: &str, channels| CausalConv::new(&init.at(name), channels, channels, [1, 1]);
        Ok(Self {
            encoder: Encoder::new(&init.at("encoder"), config),
            quant_conv: mix("quant_conv", 2 * config.z_dim),
            post_quant_conv: mix("post_quant_conv", config.z_dim),
            decoder: Decoder::new(&init.at("decoder"), config),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`, in `f32` at any precision. Parameters are
    /// shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context.with_precision(Precision::F32);
        self
    }

    /// Mean and logarithm of the variance of the latents of clips `[B, in_channels, 1 + 4n, H, W]` in −1..1, both `[B, z_dim, 1 + n,
    /// h, w]`. H and W must be multiples of the stride. Four frames are in memory at once.
    ///
    /// # Errors
    /// Says which dimension is wrong and what was expected.
    pub fn encode(&self, x: Tensor<5>) -> Result<[Tensor<5>; 2], InputError> {
        let [b, c, frames, h, w] = x.dims();
        check_image([b, c, h, w], self.config.in_channels, self.config.stride())?;
        if frames % GROUP != 1 {
            let reason = format!(
                "the clip has {frames} frames, expected 1, 5, 9 …: one more than a multiple of {GROUP}"
            );
            return Err(InputError(reason));
        }
        let moments = self.context.run(|| {
            let mut past = Past::default();
            let parts = (0..frames.div_ceil(GROUP)).map(|i| {
                past.begin();
                let (start, n) = if i == 0 { (0, 1) } else { (1 + GROUP * (i - 1), GROUP) };
                self.encoder.forward(x.clone().narrow(2, start, n), &mut past)
            });
            self.quant_conv.alone(Tensor::cat(parts.collect(), 2))
        });
        let n = self.config.z_dim;
        Ok([moments.clone().narrow(1, 0, n), moments.narrow(1, n, n).clamp(-30.0f32, 20.0f32)])
    }

    /// The clips of latents `[B, z_dim, 1 + n, h, w]`, unscaled: `[B, out_channels, 1 + 4n, h·stride, w·stride]` in −1..1. Four
    /// frames are in memory at once, besides the result.
    ///
    /// # Errors
    /// If the number of channels is wrong, or an axis is empty.
    pub fn decode(&self, z: Tensor<5>) -> Result<Tensor<5>, InputError> {
        let [b, c, frames, h, w] = z.dims();
        check_latents([b, c, h, w], self.config.z_dim)?;
        if frames == 0 {
            return Err(InputError("the clip has no frames".into()));
        }
        Ok(self.context.run(|| {
            let (z, mut past) = (self.post_quant_conv.alone(z), Past::default());
            let parts = (0..frames).map(|i| {
                past.begin();
                self.decoder.forward(z.clone().narrow(2, i, 1), &mut past)
            });
            Tensor::cat(parts.collect(), 2).clamp(-1.0f32, 1.0f32)
        }))
    }
}

impl Codec for AutoencoderKlWan {
    fn spec(&self) -> CodecSpec {
        let c = &self.config;
        CodecSpec {
            class: AutoencoderKlWanConfig::CLASS,
            media: c.in_channels,
            latents: c.z_dim,
            axes: 3,
            stride: c.stride(),
            width: c.base_dim.max(c.decoder_base()),
            scale: c.latents_std.iter().map(|std| 1.0 / std).collect(),
            shift: c.latents_mean.clone(),
        }
    }

    fn latent_axes(&self, media: &[usize]) -> Vec<usize> {
        let stride = self.config.stride();
        let axis =
            |(i, n): (usize, &usize)| if i == 0 { n.saturating_sub(1) / GROUP + 1 } else { n / stride };
        media.iter().enumerate().map(axis).collect()
    }

    fn media_axes(&self, latents: &[usize]) -> Vec<usize> {
        let stride = self.config.stride();
        let axis = |(i, n): (usize, &usize)| match i {
            0 => n.saturating_sub(1).saturating_mul(GROUP).saturating_add(1),
            _ => n.saturating_mul(stride),
        };
        latents.iter().enumerate().map(axis).collect()
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let [mean, logvar] = AutoencoderKlWan::encode(self, clips(&media)?)?;
        Ok(Encoded { mean: Batch::of(mean), logvar: Some(Batch::of(logvar)) })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        AutoencoderKlWan::decode(self, clips(&latents)?).map(Batch::of)
    }

    module_object!(Codec);
}
