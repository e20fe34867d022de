//! T2I-Adapters: small networks that read an image, such as a sketch or depth, once, and whose outputs are added inside the
//! blocks of a U-Net's down path (Mou et al. 2023, arXiv:2302.08453), as in diffusers.

use burn::{
    module::Module,
    tensor::{Tensor, ops::PadMode},
};
use serde::{Deserialize, Serialize};
use tweedie_ops::{self as ops, ConvOptions, ExecContext};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::{Activation, Conv2d, Init},
    network::{InputError, IoSpec},
    params::constructors,
};

/// The layers of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterType {
    /// Each block but the first halves the resolution.
    FullAdapter,
    /// Only the third block halves the resolution: for SDXL.
    FullAdapterXl,
    /// Narrow layers; each block but the first halves the resolution, and there is one more than `channels`.
    LightAdapter,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct T2iAdapterConfig {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the outputs, from the highest resolution.
    pub channels: Vec<usize>,
    /// Residual layers in each block.
    pub num_res_blocks: usize,
    /// Side of the squares of pixels that become the channels of one.
    pub downscale_factor: usize,
    /// Its layers.
    pub adapter_type: AdapterType,
}

impl Default for T2iAdapterConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            channels: vec![320, 640, 1280, 1280],
            num_res_blocks: 2,
            downscale_factor: 8,
            adapter_type: AdapterType::FullAdapter,
        }
    }
}

impl T2iAdapterConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "T2IAdapter";

    /// Parses `config.json` and checks whether it describes a network.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or out of range.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &[] };
        let config: Self = config::read(text, &format)?;
        config.check()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let widths = &self.channels;
        let light = self.adapter_type == AdapterType::LightAdapter;
        let least = if light { 4 } else { 1 };
        if widths.is_empty() || widths.len() > 16 || widths.iter().any(|w| !(least..=1 << 16).contains(w)) {
            let reason = format!("expected 1 to 16 entries between {least} and {}", 1 << 16);
            return Err(ConfigError::value("channels", widths, reason));
        }
        if self.adapter_type == AdapterType::FullAdapterXl {
            // Blocks besides the second and the third read as many channels as they write.
            let changes = (3..widths.len()).find(|i| widths[*i] != widths[i - 1]);
            if let Some(i) = changes {
                let reason =
                    format!("entry {i} differs from the one before, which diffusers does not support");
                return Err(ConfigError::value("channels", widths, reason));
            }
        }
        in_range(&[
            ("in_channels", self.in_channels, 1, 1 << 16),
            ("num_res_blocks", self.num_res_blocks, 0, 256),
            ("downscale_factor", self.downscale_factor, 1, 256),
        ])
    }

    /// Channels of each output, and the sides of the image divided by its sides.
    pub fn outputs(&self) -> Vec<(usize, usize)> {
        let first = self.downscale_factor;
        let halvings = |i: usize| match self.adapter_type {
            AdapterType::FullAdapterXl => usize::from(i >= 2),
            _ => i,
        };
        let light = (self.adapter_type == AdapterType::LightAdapter).then(|| self.channels.last().copied());
        let widths = self.channels.iter().copied().chain(light.flatten());
        widths.enumerate().map(|(i, width)| (width, first << halvings(i))).collect()
    }
}

/// A convolution, ReLU, a convolution, a residual connection.
#[derive(Module, Debug)]
pub struct AdapterResnet {
    block1: Conv2d,
    block2: Conv2d,
    /// Padding of the second convolution.
    padding: usize,
}

impl AdapterResnet {
    /// `k` is the side of the second kernel.
    fn new(init: &Init, channels: usize, k: usize) -> Self {
        Self {
            block1: Conv2d::new(&init.at("block1"), channels, channels, 3, true),
            block2: Conv2d::new(&init.at("block2"), channels, channels, k, true),
            padding: k / 2,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = Activation::Relu.apply(self.block1.forward(x.clone(), ConvOptions::same(1)));
        ops::add(self.block2.forward(h, ConvOptions::same(self.padding)), x)
    }
}

/// A block, whose output is one of the adapter's.
#[derive(Module, Debug)]
pub struct AdapterBlock {
    in_conv: Option<Conv2d>,
    resnets: Vec<AdapterResnet>,
    out_conv: Option<Conv2d>,
    halves: bool,
}

impl AdapterBlock {
    fn full(init: &Init, [inputs, outputs]: [usize; 2], layers: usize, halves: bool) -> Self {
        let layer = |i: usize| AdapterResnet::new(&init.at("resnets").at(i), outputs, 1);
        Self {
            in_conv: (inputs != outputs).then(|| Conv2d::new(&init.at("in_conv"), inputs, outputs, 1, true)),
            resnets: (0..layers).map(layer).collect(),
            out_conv: None,
            halves,
        }
    }

    fn light(init: &Init, [inputs, outputs]: [usize; 2], layers: usize, halves: bool) -> Self {
        let inner = outputs / 4;
        let layer = |i: usize| AdapterResnet::new(&init.at("resnets").at(i), inner, 3);
        Self {
            in_conv: Some(Conv2d::new(&init.at("in_conv"), inputs, inner, 1, true)),
            resnets: (0..layers).map(layer).collect(),
            out_conv: Some(Conv2d::new(&init.at("out_conv"), inner, outputs, 1, true)),
            halves,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = if self.halves { halved(x) } else { x };
        let plain = |x, conv: &Conv2d| conv.forward(x, ConvOptions::same(0));
        let x = self.in_conv.iter().fold(x, plain);
        let x = self.resnets.iter().fold(x, |x, resnet| resnet.forward(x));
        self.out_conv.iter().fold(x, plain)
    }
}

/// The mean of 2×2 pixels, or of those that there are at the border of odd sizes.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let x = match [h % 2, w % 2] {
        [0, 0] => x,
        [bottom, right] => x.pad((0, right, 0, bottom), PadMode::Edge),
    };
    ops::avg_pool2d(x, 2)
}

/// The blocks in order, and the convolution before them.
#[derive(Module, Debug)]
pub struct AdapterBody {
    conv_in: Option<Conv2d>,
    body: Vec<AdapterBlock>,
}

/// A T2I-Adapter. Parameters are named as in diffusers' `T2IAdapter`.
#[derive(Module, Debug)]
pub struct T2iAdapter {
    adapter: AdapterBody,
    #[module(skip)]
    config: T2iAdapterConfig,
    #[module(skip)]
    context: ExecContext,
}

impl T2iAdapter {
    constructors!(T2iAdapterConfig);

    fn build(config: &T2iAdapterConfig, init: &Init) -> Result<Self, ConfigError> {
        config.check()?;
        let (widths, layers) = (&config.channels, config.num_res_blocks);
        let pixels = config.in_channels * config.downscale_factor * config.downscale_factor;
        let init = init.at("adapter");
        let at = |i: usize| init.at("body").at(i);
        let conv_in = || Some(Conv2d::new(&init.at("conv_in"), pixels, widths[0], 3, true));
        let (conv_in, body) = match config.adapter_type {
            AdapterType::LightAdapter => {
                let inputs = std::iter::once(&pixels).chain(widths);
                let outputs = widths.iter().chain(widths.last());
                let block = |(i, (a, b)): (usize, (&usize, &usize))| {
                    AdapterBlock::light(&at(i), [*a, *b], layers, i > 0)
                };
                (None, inputs.zip(outputs).enumerate().map(block).collect())
            }
            kind => {
                let xl = kind == AdapterType::FullAdapterXl;
                let block = |i: usize| {
                    let from = match xl && !(1..=2).contains(&i) {
                        true => widths[i],
                        false => widths[i.saturating_sub(1)],
                    };
                    let halves = if xl { i == 2 } else { i > 0 };
                    AdapterBlock::full(&at(i), [from, widths[i]], layers, halves)
                };
                (conv_in(), (0..widths.len()).map(block).collect())
            }
        };
        let adapter = AdapterBody { conv_in, body };
        Ok(Self { adapter, config: config.clone(), context: ExecContext::default() })
    }

    /// The same network, whose calls run in `context`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    /// Checks whether its outputs can be added to a network with this spec, whose samples have sides of 1/`stride` of the images'.
    ///
    /// # Errors
    /// Says what differs.
    pub fn check_fit(&self, spec: &IoSpec, stride: usize) -> Result<(), InputError> {
        if spec.intrablock.is_empty() {
            return Err(InputError(format!("a {} cannot be used with T2I-Adapters", spec.class)));
        }
        let own = self.config.outputs();
        let expected: Vec<_> =
            spec.intrablock.iter().map(|(width, halved)| (*width, stride * halved)).collect();
        if expected.starts_with(&own) {
            return Ok(());
        }
        let listed = |all: &[(usize, usize)]| {
            all.iter().map(|(width, side)| format!("{width} at 1/{side}")).collect::<Vec<_>>().join(", ")
        };
        Err(InputError(format!(
            "its outputs have {} channels of the image's size, but the blocks of the model have {}; it was made for another family \
             of models",
            listed(&own),
            listed(&expected)
        )))
    }

    /// What is added inside the blocks of a U-Net for an image `[B, in_channels, H, W]` in `0..=1`, whose sides are multiples of
    /// `downscale_factor`: one map for each entry of [`T2iAdapterConfig::outputs`], `[B, channels, H/side, W/side]`, rounded up.
    ///
    /// # Panics
    /// For images of other sizes or channels.
    pub fn forward(&self, image: Tensor<4>) -> Vec<Tensor<4>> {
        let factor = self.config.downscale_factor;
        self.context.run(|| {
            let [b, c, h, w] = image.dims();
            let squares: Tensor<6> = image.reshape([b, c, h / factor, factor, w / factor, factor]);
            let pixels = squares.permute([0, 1, 3, 5, 2, 4]);
            let x: Tensor<4> = pixels.reshape([b, c * factor * factor, h / factor, w / factor]);
            let mut x = self.adapter.conv_in.iter().fold(x, |x, conv| conv.forward(x, ConvOptions::same(1)));
            let mut maps = Vec::new();
            for block in &self.adapter.body {
                x = block.forward(x);
                maps.push(x.clone());
            }
            maps
        })
    }
}
