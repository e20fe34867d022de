//! ControlNets: copies of the first half of a U-Net that read an image, such as edges or depth, and whose outputs are added
//! to those of the U-Net's layers (Zhang et al. 2023, arXiv:2302.05543), as in diffusers; and a U-Net with ControlNets or
//! adapters.

mod config;
mod controlled;
mod guide;

use burn::{module::Module, tensor::Tensor};
use tweedie_ops::{ConvOptions, ExecContext};

pub use config::{ChannelOrder, ControlNetConfig};
pub use controlled::Controlled;
pub use guide::Guide;

use crate::{
    conditions::Conditions,
    config::ConfigError,
    layers::{Activation, Conv2d, Init},
    network::{InputError, IoSpec, Mode},
    params::constructors,
    unet::embed::TimestepEmbedding,
    unet_condition::{
        UNet2DConditionConfig,
        encoder::{ClassLayer, Down, Encoder, EncoderLayers, Given, MidBlock},
    },
};

/// Convolutions that bring an image to the resolution of the samples.
#[derive(Module, Debug)]
pub struct ImageEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl ImageEmbedding {
    fn new(init: &Init, config: &ControlNetConfig) -> Self {
        let widths = &config.conditioning_embedding_out_channels;
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let block = |i: usize| {
            let outputs = widths[i / 2 + i % 2];
            Conv2d::new(&init.at("blocks").at(i), widths[i / 2], outputs, 3, true)
        };
        Self {
            conv_in: Conv2d::new(&init.at("conv_in"), config.conditioning_channels, first, 3, true),
            blocks: (0..2 * (widths.len() - 1)).map(block).collect(),
            conv_out: zeros(&init.at("conv_out"), last, config.block_out_channels[0], 3),
        }
    }

    fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        let act = |x| Activation::Silu.apply(x);
        let mut x = act(self.conv_in.forward(image, ConvOptions::same(1)));
        for (i, block) in self.blocks.iter().enumerate() {
            x = act(block.forward(x, ConvOptions::strided(1 + i % 2, 1)));
        }
        self.conv_out.forward(x, ConvOptions::same(1))
    }
}

/// A convolution whose output is zero until it is trained.
fn zeros(init: &Init, inputs: usize, outputs: usize, k: usize) -> Conv2d {
    Conv2d {
        weight: init.constant("weight", [outputs, inputs, k, k], 0.0),
        bias: Some(init.constant("bias", [outputs], 0.0)),
    }
}

/// A ControlNet. Parameters are named as in diffusers' `ControlNetModel`.
#[derive(Module, Debug)]
pub struct ControlNetModel {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<ClassLayer>,
    add_embedding: Option<TimestepEmbedding>,
    controlnet_cond_embedding: ImageEmbedding,
    down_blocks: Vec<Down>,
    controlnet_down_blocks: Vec<Conv2d>,
    mid_block: Option<MidBlock>,
    controlnet_mid_block: Conv2d,
    #[module(skip)]
    config: ControlNetConfig,
    #[module(skip)]
    unet: UNet2DConditionConfig,
    #[module(skip)]
    context: ExecContext,
}

impl ControlNetModel {
    constructors!(ControlNetConfig);

    fn build(config: &ControlNetConfig, init: &Init) -> Result<Self, ConfigError> {
        config.check()?;
        let unet = config.unet();
        let EncoderLayers {
            conv_in,
            time_embedding,
            class_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            ..
        } = EncoderLayers::new(&unet, init)?;
        let mut widths = unet.residuals();
        let last = widths.pop().unwrap_or(1);
        let at = init.at("controlnet_down_blocks");
        let downs = widths.iter().enumerate().map(|(i, &width)| zeros(&at.at(i), width, width, 1));
        Ok(Self {
            conv_in,
            time_embedding,
            class_embedding,
            add_embedding,
            controlnet_cond_embedding: ImageEmbedding::new(&init.at("controlnet_cond_embedding"), config),
            down_blocks,
            controlnet_down_blocks: downs.collect(),
            mid_block,
            controlnet_mid_block: zeros(&init.at("controlnet_mid_block"), last, last, 1),
            config: config.clone(),
            unet,
            context: ExecContext::default(),
        })
    }

    /// The same network, whose calls run in `context`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    /// Number of maps that it adds.
    pub fn outputs(&self) -> usize {
        self.controlnet_down_blocks.len() + 1
    }

    /// Checks whether its outputs can be added to a network with this spec.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check_fit(&self, spec: &IoSpec) -> Result<(), InputError> {
        let fail = |reason: String| Err(InputError(reason));
        if spec.residuals.is_empty() {
            return fail(format!("a {} cannot be used with ControlNets", spec.class));
        }
        let (own, text) = (self.unet.residuals(), self.unet.text_width());
        if text != spec.text {
            let width = |width: Option<usize>| width.map_or("none".into(), |n| n.to_string());
            return fail(format!(
                "it reads texts of width {}, but the model has {}; it was made for another family of models",
                width(text),
                width(spec.text)
            ));
        }
        let pooled = self.unet.addition_embed_type.is_some();
        if pooled != spec.pooled {
            let reason = match pooled {
                true => "it reads pooled text features, which the model does not",
                false => "it does not read pooled text features, which the model does",
            };
            return fail(format!("{reason}; it was made for another family of models"));
        }
        if own != spec.residuals {
            return fail(format!(
                "its outputs have {own:?} channels, but the layers of the model have {:?}; it was made for another \
                 family of models",
                spec.residuals
            ));
        }
        match self.config.in_channels <= spec.inputs {
            true => Ok(()),
            false => fail(format!(
                "its input has {} channels, but that of the model has {}",
                self.config.in_channels, spec.inputs
            )),
        }
    }

    /// Embeds an image, `[B, conditioning_channels, H, W]` in `0..=1`, as an input of [`Self::forward`], `[B, C, H/s, W/s]` with
    /// the [stride](ControlNetConfig::stride) `s`.
    ///
    /// # Panics
    /// If the image has other channels.
    pub fn embed(&self, image: Tensor<4>) -> Tensor<4> {
        let channels = image.dims()[1];
        let bgr = self.config.controlnet_conditioning_channel_order == ChannelOrder::Bgr;
        let image = if bgr {
            Tensor::cat((0..channels).rev().map(|c| image.clone().narrow(1, c, 1)).collect(), 1)
        } else {
            image
        };
        self.context.run(|| self.controlnet_cond_embedding.forward(image))
    }

    /// What is added to the skip connections of the U-Net and, last, to its middle, for `x: [B, in_channels, H, W]`, `times` and
    /// `conditions` as of the U-Net, and the embedded image `hint`.
    ///
    /// # Panics
    /// For inputs that the U-Net would reject.
    pub fn forward(
        &self,
        x: Tensor<4>,
        times: &[f32],
        conditions: &Conditions,
        hint: Tensor<4>,
        mode: Mode,
    ) -> Vec<Tensor<4>> {
        if let Err(e) = self.unet.check_input(x.dims(), times, conditions) {
            panic!("{e}");
        }
        let precision = self.context.precision;
        self.context.run(|| {
            let encoder = Encoder {
                conv_in: &self.conv_in,
                time_proj: None,
                time_embedding: &self.time_embedding,
                class_embedding: self.class_embedding.as_ref(),
                add_embedding: self.add_embedding.as_ref(),
                down_blocks: &self.down_blocks,
                mid_block: self.mid_block.as_ref(),
                config: &self.unet,
                precision,
            };
            let halfway = encoder.run(Given { x, times, conditions, mode, hint: Some(hint) });
            let maps = halfway.skips.into_iter().chain([halfway.x]);
            let layers = self.controlnet_down_blocks.iter().chain([&self.controlnet_mid_block]);
            let output = |(map, layer): (Tensor<4>, &Conv2d)| {
                let map = precision.raise(layer.forward(map, ConvOptions::same(0)));
                if !self.config.global_pool_conditions {
                    return map;
                }
                let [_, _, h, w] = map.dims();
                map.mean_dim(2).mean_dim(3).repeat(&[1, 1, h, w])
            };
            maps.zip(layers).map(output).collect()
        })
    }
}
