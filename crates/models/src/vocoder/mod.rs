//! HiFi-GAN: waveforms of mel spectrograms (Kong, Kim & Bae 2020, arXiv:2010.05646), as transformers' `SpeechT5HifiGan`.

mod codec;
mod config;

use burn::{
    module::{Module, Param},
    tensor::{Tensor, activation},
};

pub use codec::MelAutoencoder;
pub use config::HifiGanConfig;

use crate::{
    config::ConfigError,
    layers::{Conv1d, Init},
    network::InputError,
    params::constructors,
};

/// Kernel length of the first and the last convolution.
const ENDS: usize = 7;
/// Slope of the last activation, torch's default.
const LAST_SLOPE: f64 = 0.01;

/// Pairs of a dilated and a dense convolution, each pair with a residual connection.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    convs1: Vec<Conv1d>,
    convs2: Vec<Conv1d>,
    #[module(skip)]
    dilations: Vec<usize>,
    #[module(skip)]
    slope: f64,
}

impl ResidualBlock {
    fn forward(&self, mut x: Tensor<3>) -> Tensor<3> {
        for ((dilated, dense), dilation) in self.convs1.iter().zip(&self.convs2).zip(&self.dilations) {
            let h = dilated.forward(activation::leaky_relu(x.clone(), self.slope), *dilation);
            x = dense.forward(activation::leaky_relu(h, self.slope), 1) + x;
        }
        x
    }
}

/// The vocoder. Parameters are named as in transformers' `SpeechT5HifiGan` without weight normalization.
#[derive(Module, Debug)]
pub struct HifiGan {
    conv_pre: Conv1d,
    upsampler: Vec<Conv1d>,
    resblocks: Vec<ResidualBlock>,
    conv_post: Conv1d,
    mean: Param<Tensor<1>>,
    scale: Param<Tensor<1>>,
    #[module(skip)]
    config: HifiGanConfig,
}

impl HifiGan {
    constructors!(HifiGanConfig);

    fn build(config: &HifiGanConfig, init: &Init) -> Result<Self, ConfigError> {
        config.validate()?;
        let (bands, first) = (config.model_in_dim, config.upsample_initial_channel);
        let (mut upsampler, mut resblocks, mut width) = (Vec::new(), Vec::new(), first);
        for (i, k) in config.upsample_kernel_sizes.iter().enumerate() {
            upsampler.push(Conv1d::transposed(&init.at("upsampler").at(i), [width, width / 2, *k]));
            width /= 2;
            for (k, dilations) in config.resblock_kernel_sizes.iter().zip(&config.resblock_dilation_sizes) {
                let at = init.at("resblocks").at(resblocks.len());
                let filters = |name: &str| -> Vec<Conv1d> {
                    (0..dilations.len())
                        .map(|j| Conv1d::new(&at.at(name).at(j), [width, width, *k], true))
                        .collect()
                };
                resblocks.push(ResidualBlock {
                    convs1: filters("convs1"),
                    convs2: filters("convs2"),
                    dilations: dilations.clone(),
                    slope: config.leaky_relu_slope,
                });
            }
        }
        Ok(Self {
            conv_pre: Conv1d::new(&init.at("conv_pre"), [bands, first, ENDS], true),
            upsampler,
            resblocks,
            conv_post: Conv1d::new(&init.at("conv_post"), [width, 1, ENDS], true),
            mean: init.constant("mean", [bands], 0.0).set_require_grad(false),
            scale: init.constant("scale", [bands], 1.0).set_require_grad(false),
            config: config.clone(),
        })
    }

    /// The waveforms `[B, 1, T·stride]` of logarithmic mel spectrograms `[B, T, bands]`.
    ///
    /// # Errors
    /// If the spectrograms are empty or have another number of bands.
    pub fn forward(&self, spectrograms: Tensor<3>) -> Result<Tensor<3>, InputError> {
        let [_, columns, found] = spectrograms.dims();
        let bands = self.config.model_in_dim;
        if columns == 0 || found != bands {
            return Err(InputError(format!(
                "spectrograms of {columns} columns and {found} bands; the vocoder needs at least 1 column and {bands} bands"
            )));
        }
        let mut x = spectrograms;
        if self.config.normalize_before {
            let row = |v: &Param<Tensor<1>>| v.val().reshape([1, 1, bands]);
            x = (x - row(&self.mean)) / row(&self.scale);
        }
        let slope = self.config.leaky_relu_slope;
        let each = self.config.resblock_kernel_sizes.len();
        let mut x = self.conv_pre.forward(x.swap_dims(1, 2), 1);
        let blocks = self.resblocks.chunks(each);
        for ((filter, rate), blocks) in self.upsampler.iter().zip(&self.config.upsample_rates).zip(blocks) {
            let h = filter.upsample(activation::leaky_relu(x, slope), *rate);
            let sum = blocks.iter().map(|block| block.forward(h.clone())).reduce(|a, b| a + b);
            x = sum.unwrap_or(h).div_scalar(each as f32);
        }
        Ok(self.conv_post.forward(activation::leaky_relu(x, LAST_SLOPE), 1).tanh())
    }
}
