//! A small autoencoder for previews: TAESD, convolutions and ReLU without normalization.

use burn::{
    module::Module,
    tensor::{Tensor, activation},
};
use tweedie_ops::{self as ops, Batch, ConvOptions, ExecContext, Precision};

use super::{AutoencoderTinyConfig, check_image, check_latents, images};
use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::ConfigError,
    layers::{Activation, Conv2d, Either, Init, channels_last},
    network::{InputError, module_object},
    params::constructors,
    unet::resample::Resample,
};

/// Three convolutions with a residual connection.
#[derive(Module, Debug)]
pub struct TinyBlock {
    /// Activations take the positions in between.
    conv: Vec<Option<Conv2d>>,
    #[module(skip)]
    activation: Activation,
}

impl TinyBlock {
    fn new(init: &Init, channels: usize, activation: Activation) -> Self {
        let conv = |i: usize| {
            let init = init.at("conv").at(i);
            i.is_multiple_of(2).then(|| Conv2d::new(&init, channels, channels, 3, true))
        };
        Self { conv: (0..5).map(conv).collect(), activation }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut h = x.clone();
        for layer in &self.conv {
            h = match layer {
                Some(conv) => conv.forward(h, ConvOptions::same(1)),
                None => self.activation.apply(h),
            };
        }
        channels_last(ops::add(h, x), activation::relu)
    }
}

/// A position in a sequence of layers; empty ones have no parameters.
type Layer = Option<Either<Conv2d, TinyBlock>>;

/// A sequence of layers.
#[derive(Module, Debug)]
pub struct Layers {
    layers: Vec<Layer>,
}

/// The small autoencoder. Parameters are named as in diffusers' `AutoencoderTiny`.
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    encoder: Layers,
    decoder: Layers,
    #[module(skip)]
    config: AutoencoderTinyConfig,
    #[module(skip)]
    context: ExecContext,
}

impl AutoencoderTiny {
    constructors!(AutoencoderTinyConfig);

    fn build(config: &AutoencoderTinyConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let stages = config.encoder_block_out_channels.len();

        let at = init.at("encoder.layers");
        let mut encoder: Vec<Layer> = Vec::new();
        let width = config.encoder_block_out_channels[0];
        for (stage, count) in config.num_encoder_blocks.iter().enumerate() {
            let inputs = if stage == 0 { config.in_channels } else { width };
            let conv = Conv2d::new(&at.at(encoder.len()), inputs, width, 3, stage == 0);
            encoder.push(Some(Either::A(conv)));
            for _ in 0..*count {
                encoder.push(Some(Either::B(TinyBlock::new(&at.at(encoder.len()), width, config.act_fn))));
            }
        }
        let conv = Conv2d::new(&at.at(encoder.len()), width, config.latent_channels, 3, true);
        encoder.push(Some(Either::A(conv)));

        let at = init.at("decoder.layers");
        let width = config.decoder_block_out_channels[0];
        let conv = Conv2d::new(&at.at(0), config.latent_channels, width, 3, true);
        let mut decoder: Vec<Layer> = vec![Some(Either::A(conv)), None];
        for (stage, count) in config.num_decoder_blocks.iter().enumerate() {
            let last = stage + 1 == stages;
            for _ in 0..*count {
                decoder.push(Some(Either::B(TinyBlock::new(&at.at(decoder.len()), width, config.act_fn))));
            }
            if !last {
                decoder.push(None);
            }
            let outputs = if last { config.out_channels } else { width };
            decoder.push(Some(Either::A(Conv2d::new(&at.at(decoder.len()), width, outputs, 3, last))));
        }
        Ok(Self {
            encoder: Layers { layers: encoder },
            decoder: Layers { layers: decoder },
            config: config.clone(),
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`, but in `f32` at any precision. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context.with_precision(Precision::F32);
        self
    }

    /// The latents of images `[B, in_channels, H, W]` in −1..1.
    ///
    /// # Errors
    /// Those of [`super::AutoencoderKl::encode`].
    pub fn encode(&self, x: Tensor<4>) -> Result<Tensor<4>, InputError> {
        check_image(x.dims(), self.config.in_channels, self.config.stride())?;
        let x = x.add_scalar(1.0f32).div_scalar(2.0f32);
        let last = self.encoder.layers.len() - 1;
        let layers = self.encoder.layers.iter().enumerate();
        Ok(self.context.run(|| {
            layers.fold(x, |x, (i, layer)| match layer {
                Some(Either::A(conv)) => {
                    let halves = i > 0 && i < last;
                    conv.forward(x, ConvOptions::strided(if halves { 2 } else { 1 }, 1))
                }
                Some(Either::B(block)) => block.forward(x),
                None => x,
            })
        }))
    }

    /// The images of latents `[B, latent_channels, h, w]`.
    ///
    /// # Errors
    /// Those of [`super::AutoencoderKl::decode`].
    pub fn decode(&self, z: Tensor<4>) -> Result<Tensor<4>, InputError> {
        check_latents(z.dims(), self.config.latent_channels)?;
        let x = z.div_scalar(3.0f32).tanh().mul_scalar(3.0f32);
        let layers = self.decoder.layers.iter().enumerate();
        let x = self.context.run(|| {
            layers.fold(x, |x, (i, layer)| match layer {
                Some(Either::A(conv)) => conv.forward(x, ConvOptions::same(1)),
                Some(Either::B(block)) => block.forward(x),
                None if i == 1 => self.config.act_fn.apply(x),
                None => Resample::NearestUp.apply(x),
            })
        });
        Ok(channels_last(x, |x| x.mul_scalar(2.0f32).sub_scalar(1.0f32)))
    }
}

impl Codec for AutoencoderTiny {
    fn spec(&self) -> CodecSpec {
        let (c, n) = (&self.config, self.config.latent_channels);
        CodecSpec {
            class: AutoencoderTinyConfig::CLASS,
            media: c.in_channels,
            latents: n,
            axes: 2,
            stride: c.stride(),
            width: c.decoder_block_out_channels.last().copied().unwrap_or(0),
            scale: vec![c.scaling_factor; n],
            shift: vec![c.shift_factor; n],
        }
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        Ok(Encoded { mean: Batch::of(AutoencoderTiny::encode(self, images(&media)?)?), logvar: None })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        AutoencoderTiny::decode(self, images(&latents)?).map(Batch::of)
    }

    module_object!(Codec);
}
