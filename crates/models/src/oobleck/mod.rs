//! `AutoencoderOobleck`: the autoencoder of waveforms of Stable Audio (Evans et al. 2024, arXiv:2404.10301), as in diffusers.

mod config;
mod weight_norm;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation::softplus},
};
use tweedie_ops::{Batch, ExecContext};

pub use config::AutoencoderOobleckConfig;

use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::ConfigError,
    layers::{Conv1d, Init},
    network::{InputError, module_object},
    params::constructors,
};
use weight_norm::Normalized;

/// Kernel lengths of the first and the last convolutions, and the dilations of the residual layers of a level.
const ENDS: usize = 7;
const LATENT_END: usize = 3;
const DILATIONS: [usize; 3] = [1, 3, 9];
/// Added to the frequency that divides, and to spreads of latents.
const LEAST_BETA: f64 = 1e-9;
const LEAST_STD: f64 = 1e-4;

/// `x + sin²(α·x)/β` per channel (Ziyin, Hartwig & Ueda 2020, arXiv:2006.08195); the logarithms of both are learned.
#[derive(Module, Debug)]
pub struct Snake {
    alpha: Param<Tensor<3>>,
    beta: Param<Tensor<3>>,
}

impl Snake {
    fn new(init: &Init, channels: usize) -> Self {
        let zeros = |name: &str| init.constant(name, [1, channels, 1], 0.0);
        Self { alpha: zeros("alpha"), beta: zeros("beta") }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let wave = (x.clone() * self.alpha.val().exp()).sin();
        x + wave.clone() * wave / self.beta.val().exp().add_scalar(LEAST_BETA)
    }
}

/// A dilated and a pointwise convolution with a residual connection.
#[derive(Module, Debug)]
pub struct ResidualUnit {
    snake1: Snake,
    conv1: Conv1d,
    snake2: Snake,
    conv2: Conv1d,
    dilation: usize,
}

impl ResidualUnit {
    fn new(init: &Init, channels: usize, dilation: usize) -> Self {
        let conv = |name: &str, k| Conv1d::new(&init.at(name), [channels, channels, k], true);
        Self {
            snake1: Snake::new(&init.at("snake1"), channels),
            conv1: conv("conv1", ENDS),
            snake2: Snake::new(&init.at("snake2"), channels),
            conv2: conv("conv2", 1),
            dilation,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let h = self.conv1.forward(self.snake1.forward(x.clone()), self.dilation);
        self.conv2.forward(self.snake2.forward(h), 1) + x
    }
}

/// The residual layers of a level.
fn units(init: &Init, channels: usize) -> [ResidualUnit; 3] {
    let unit = |i: usize| ResidualUnit::new(&init.at(format!("res_unit{}", i + 1)), channels, DILATIONS[i]);
    [unit(0), unit(1), unit(2)]
}

/// A level of the encoder, which shortens.
#[derive(Module, Debug)]
pub struct EncoderBlock {
    res_unit1: ResidualUnit,
    res_unit2: ResidualUnit,
    res_unit3: ResidualUnit,
    snake1: Snake,
    conv1: Conv1d,
    rate: usize,
}

impl EncoderBlock {
    fn new(init: &Init, [from, to]: [usize; 2], rate: usize) -> Self {
        let [res_unit1, res_unit2, res_unit3] = units(init, from);
        Self {
            res_unit1,
            res_unit2,
            res_unit3,
            snake1: Snake::new(&init.at("snake1"), from),
            conv1: Conv1d::new(&init.at("conv1"), [from, to, 2 * rate], true),
            rate,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.res_unit3.forward(self.res_unit2.forward(self.res_unit1.forward(x)));
        self.conv1.downsample(self.snake1.forward(x), self.rate)
    }
}

/// A level of the decoder, which lengthens.
#[derive(Module, Debug)]
pub struct DecoderBlock {
    snake1: Snake,
    conv_t1: Conv1d,
    res_unit1: ResidualUnit,
    res_unit2: ResidualUnit,
    res_unit3: ResidualUnit,
    rate: usize,
}

impl DecoderBlock {
    fn new(init: &Init, [from, to]: [usize; 2], rate: usize) -> Self {
        let [res_unit1, res_unit2, res_unit3] = units(init, to);
        Self {
            snake1: Snake::new(&init.at("snake1"), from),
            conv_t1: Conv1d::transposed(&init.at("conv_t1"), [from, to, 2 * rate]),
            res_unit1,
            res_unit2,
            res_unit3,
            rate,
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.conv_t1.upsample(self.snake1.forward(x), self.rate);
        self.res_unit3.forward(self.res_unit2.forward(self.res_unit1.forward(x)))
    }
}

/// Levels between two convolutions.
#[derive(Module, Debug)]
pub struct Half<B: Module> {
    conv1: Conv1d,
    block: Vec<B>,
    snake1: Snake,
    conv2: Conv1d,
}

impl<B: Module> Half<B> {
    fn forward(&self, x: Tensor<3>, level: impl Fn(&B, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let x = self.block.iter().fold(self.conv1.forward(x, 1), |x, block| level(block, x));
        self.conv2.forward(self.snake1.forward(x), 1)
    }
}

/// The autoencoder. Parameters are named as in diffusers' `AutoencoderOobleck`, except that weights are not normalized.
#[derive(Module, Debug)]
pub struct AutoencoderOobleck {
    encoder: Half<EncoderBlock>,
    decoder: Half<DecoderBlock>,
    #[module(skip)]
    config: AutoencoderOobleckConfig,
    #[module(skip)]
    context: ExecContext,
}

impl AutoencoderOobleck {
    constructors!(AutoencoderOobleckConfig, Normalized);

    fn build(config: &AutoencoderOobleckConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let ratios = &config.downsampling_ratios;
        let (levels, audio) = (ratios.len(), config.audio_channels);
        // Channels before the first level and after each.
        let multiple = |level: usize| level.checked_sub(1).map_or(1, |i| config.channel_multiples[i]);
        let (at, first, outputs) =
            (init.at("encoder"), config.encoder_hidden_size, config.encoder_hidden_size);
        let last = first * multiple(levels);
        let down = |i: usize| {
            let widths = [i, i + 1].map(|level| first * multiple(level));
            EncoderBlock::new(&at.at("block").at(i), widths, ratios[i])
        };
        let encoder = Half {
            conv1: Conv1d::new(&at.at("conv1"), [audio, first, ENDS], true),
            block: (0..levels).map(down).collect(),
            snake1: Snake::new(&at.at("snake1"), last),
            conv2: Conv1d::new(&at.at("conv2"), [last, outputs, LATENT_END], true),
        };
        let (at, width) = (init.at("decoder"), config.decoder_channels);
        let up = |i: usize| {
            let widths = [levels - i, levels - i - 1].map(|level| width * multiple(level));
            DecoderBlock::new(&at.at("block").at(i), widths, ratios[levels - i - 1])
        };
        let inputs = config.decoder_input_channels;
        let decoder = Half {
            conv1: Conv1d::new(&at.at("conv1"), [inputs, width * multiple(levels), ENDS], true),
            block: (0..levels).map(up).collect(),
            snake1: Snake::new(&at.at("snake1"), width),
            conv2: Conv1d::new(&at.at("conv2"), [width, audio, ENDS], false),
        };
        Ok(Self { encoder, decoder, config: config.clone(), context: ExecContext::default() })
    }

    /// The same autoencoder, whose calls run in `context`, at any precision in `f32`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }
}

impl Codec for AutoencoderOobleck {
    fn spec(&self) -> CodecSpec {
        let latents = self.config.decoder_input_channels;
        CodecSpec {
            class: AutoencoderOobleckConfig::CLASS,
            media: self.config.audio_channels,
            latents,
            axes: 1,
            stride: self.config.stride(),
            width: self.config.width(),
            scale: vec![1.0; latents],
            shift: vec![0.0; latents],
        }
    }

    fn rate(&self) -> Option<u32> {
        Some(self.config.sampling_rate)
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let (channels, stride) = (self.config.audio_channels, self.config.stride());
        match *media.shape().dims() {
            [found, length] if found == channels && length > 0 && length.is_multiple_of(stride) => {}
            _ => {
                return Err(InputError(format!(
                    "a sound of shape {}, expected {channels}×length with a multiple of {stride}",
                    media.shape()
                )));
            }
        }
        let n = self.config.decoder_input_channels;
        let moments = self.context.run(|| self.encoder.forward(media.tensor(), EncoderBlock::forward));
        let std = softplus(moments.clone().narrow(1, n, n), 1.0).add_scalar(LEAST_STD);
        let logvar = std.log().mul_scalar(2.0f32);
        Ok(Encoded { mean: Batch::of(moments.narrow(1, 0, n)), logvar: Some(Batch::of(logvar)) })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        let expected = self.config.decoder_input_channels;
        match *latents.shape().dims() {
            [found, length] if found == expected && length > 0 => {
                let decode = || self.decoder.forward(latents.tensor(), DecoderBlock::forward);
                Ok(Batch::of(self.context.run(decode)))
            }
            _ => Err(InputError(format!("latents of shape {}, expected {expected}×length", latents.shape()))),
        }
    }

    module_object!(Codec);
}
