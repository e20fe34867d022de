//! Autoencoders between images and latents: [`AutoencoderKl`] (Kingma & Welling 2014, arXiv:1312.6114; as in
//! Rombach et al. 2022, arXiv:2112.10752), the small [`AutoencoderTiny`], and [`VqModel`] with a table of latents. The decoder
//! of [`AutoencoderKlTemporalDecoder`] sees the frames of clips together.
//!
//! Diffusion uses scaled latents: [`Codec`] converts between those and the latents of the networks.

mod blocks;
mod config;
mod temporal;
mod tiles;
mod tiny;
mod vq;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{Batch, ConvOptions, ExecContext, Precision};

pub use config::{AutoencoderKlConfig, AutoencoderTinyConfig, DecoderBlockType, EncoderBlockType};
pub use temporal::{AutoencoderKlTemporalDecoder, AutoencoderKlTemporalDecoderConfig};
pub use tiles::Tiles;
pub use tiny::AutoencoderTiny;
pub use vq::{VqModel, VqModelConfig};

use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::ConfigError,
    layers::{Conv2d, Init},
    network::{InputError, module_object},
    params::constructors,
    unet::{CurrentNames, shape_of},
};
use blocks::{Decoder, Encoder};

/// The distribution of an image's latents: independent normals.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `[B, latent channels, H/stride, W/stride]`.
    pub mean: Tensor<4>,
    /// Logarithm of the variance, between −30 and 20.
    pub logvar: Tensor<4>,
}

impl Posterior {
    /// `mean + exp(logvar/2)·noise`.
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        self.mean.clone() + self.logvar.clone().mul_scalar(0.5f32).exp() * noise
    }
}

/// The variational autoencoder. Parameters are named as in diffusers' `AutoencoderKL`.
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    #[module(skip)]
    config: AutoencoderKlConfig,
    #[module(skip)]
    context: ExecContext,
}

impl AutoencoderKl {
    constructors!(AutoencoderKlConfig, CurrentNames::new);

    fn build(config: &AutoencoderKlConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let latents = config.latent_channels;
        let mix = |name: &str, channels| Conv2d::new(&init.at(name), channels, channels, 1, true);
        Ok(Self {
            encoder: Encoder::new(&init.at("encoder"), config, 2 * latents),
            decoder: Decoder::new(&init.at("decoder"), config),
            quant_conv: config.use_quant_conv.then(|| mix("quant_conv", 2 * latents)),
            post_quant_conv: config.use_post_quant_conv.then(|| mix("post_quant_conv", latents)),
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The latents of images `[B, in_channels, H, W]` in −1..1. H and W must be multiples of the stride.
    ///
    /// # Errors
    /// Says which dimension is wrong and what was expected.
    pub fn encode(&self, x: Tensor<4>) -> Result<Posterior, InputError> {
        check_image(x.dims(), self.config.in_channels, self.config.stride())?;
        let moments = self.context.run(|| {
            let moments = self.encoder.forward(x, self.context.precision);
            match &self.quant_conv {
                Some(conv) => conv.forward(moments, ConvOptions::same(0)),
                None => moments,
            }
        });
        let n = self.config.latent_channels;
        let logvar = moments.clone().narrow(1, n, n).clamp(-30.0f32, 20.0f32);
        Ok(Posterior { mean: moments.narrow(1, 0, n), logvar })
    }

    /// The images of latents `[B, latent_channels, h, w]`, unscaled: `[B, out_channels, h·stride, w·stride]`.
    ///
    /// # Errors
    /// If the number of channels is wrong.
    pub fn decode(&self, z: Tensor<4>) -> Result<Tensor<4>, InputError> {
        Ok(self.finish(self.decode_features(z)?))
    }

    /// The input of the decoder's last layer, `[B, first of block_out_channels, H, W]`, for [`Self::finish`].
    ///
    /// # Errors
    /// Those of [`Self::decode`].
    pub fn decode_features(&self, z: Tensor<4>) -> Result<Tensor<4>, InputError> {
        check_latents(z.dims(), self.config.latent_channels)?;
        Ok(self.context.run(|| {
            let z = match &self.post_quant_conv {
                Some(conv) => conv.forward(z, ConvOptions::same(0)),
                None => z,
            };
            self.decoder.features(z, self.context.precision)
        }))
    }

    /// Applies the decoder's last layer.
    pub fn finish(&self, features: Tensor<4>) -> Tensor<4> {
        self.context.run(|| self.decoder.conv_out.forward(features, ConvOptions::same(1)))
    }

    /// The weight of the decoder's last layer, `[out_channels, in, 3, 3]`.
    pub fn last_weight(&self) -> Tensor<4> {
        self.decoder.conv_out.weight.val()
    }

    /// The same network, whose calls run in `context`; at any precision, the first and the last convolution stay in `f32`. With
    /// [`Precision::Int8`] everything stays in `f32`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = match context.precision {
            Precision::Int8 => context.with_precision(Precision::F32),
            _ => context,
        };
        self
    }

    /// The same network with another scaling factor of the latents.
    pub fn with_scaling_factor(mut self, factor: f64) -> Self {
        self.config.scaling_factor = factor;
        self
    }
}

impl Codec for AutoencoderKl {
    fn spec(&self) -> CodecSpec {
        let (c, n) = (&self.config, self.config.latent_channels);
        let (scale, shift) = match (&c.latents_mean, &c.latents_std) {
            (Some(mean), Some(std)) => (std.iter().map(|s| c.scaling_factor / s).collect(), mean.clone()),
            _ => (vec![c.scaling_factor; n], vec![c.shift_factor.unwrap_or(0.0); n]),
        };
        CodecSpec {
            class: AutoencoderKlConfig::CLASS,
            media: c.in_channels,
            latents: n,
            axes: 2,
            stride: c.stride(),
            width: c.block_out_channels.first().copied().unwrap_or(0),
            scale,
            shift,
        }
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let Posterior { mean, logvar } = AutoencoderKl::encode(self, images(&media)?)?;
        Ok(Encoded { mean: Batch::of(mean), logvar: Some(Batch::of(logvar)) })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        AutoencoderKl::decode(self, images(&latents)?).map(Batch::of)
    }

    module_object!(Codec);
}

/// `[B, C, H, W]`, if that is the rank of the samples.
fn images(x: &Batch) -> Result<Tensor<4>, InputError> {
    shape_of(x.len(), x.shape()).map(|_| x.tensor())
}

/// `[B, C, F, H, W]`, if that is the rank of the samples.
pub(crate) fn clips(x: &Batch) -> Result<Tensor<5>, InputError> {
    match x.shape().axes().len() {
        3 => Ok(x.tensor()),
        _ => {
            let expected = "expected channels×frames×height×width";
            Err(InputError(format!("the samples have the shape {}, {expected}", x.shape())))
        }
    }
}

pub(crate) fn check_image(
    [_, c, h, w]: [usize; 4],
    channels: usize,
    stride: usize,
) -> Result<(), InputError> {
    if c != channels {
        return Err(InputError(format!("the images have {c} channels, expected {channels}")));
    }
    if h == 0 || w == 0 || !h.is_multiple_of(stride) || !w.is_multiple_of(stride) {
        return Err(InputError(format!("the images have {h}×{w} pixels, expected multiples of {stride}")));
    }
    Ok(())
}

pub(crate) fn check_latents([_, c, h, w]: [usize; 4], channels: usize) -> Result<(), InputError> {
    if c != channels || h == 0 || w == 0 {
        let found = format!("the latents have {c} channels and {h}×{w} pixels");
        return Err(InputError(format!("{found}, expected {channels} channels and at least one pixel")));
    }
    Ok(())
}
