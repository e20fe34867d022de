//! U-Nets for clips, as in diffusers: `UNet3DConditionModel` (Wang et al. 2023, arXiv:2308.06571), `UNetMotionModel` (Guo et
//! al. 2023, arXiv:2307.04725), and `UNetSpatioTemporalConditionModel` (Blattmann et al. 2023, arXiv:2311.15127).
//!
//! The layers of `UNet2DConditionModel` see each frame; convolutions and transformers over time, or motion modules, follow
//! them, or are mixed with them (a space-time factorization as in Ho et al. 2022, arXiv:2204.03458).

mod blocks;
mod config;
pub(crate) mod mixed;
mod motion;
mod spatio_temporal;
pub(crate) mod time;

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};
use tweedie_ops::{Batch, ConvOptions, ExecContext, Precision, SampleShape};

pub use config::{DownBlock3DType, UNet3DConfig, UpBlock3DType};
pub use motion::{DownBlockMotionType, UNetMotionConfig, UpBlockMotionType};
pub use spatio_temporal::{DownBlockSpatioTemporalType, UNetSpatioTemporalConfig, UpBlockSpatioTemporalType};

use self::{
    blocks::{Block, Blocks, Inputs},
    spatio_temporal::ADDED_NUMBERS,
    time::{TimeSpec, TimeTransformer, clips_of, frames_of},
};
use crate::{
    conditions::{ADDED, Conditions, TEXT},
    config::ConfigError,
    layers::{Activation, Conv2d, GroupNorm, Init},
    memory::unet_row,
    network::{InputError, IoSpec, Mode, Network, module_object},
    params::{self, TensorSource},
    unet::{
        LoadError,
        embed::{self, TimestepEmbedding},
        positional,
        resnet::{Time, check_groups},
    },
    unet_condition::UNet2DConditionConfig,
};

/// Number of heads of the transformer before the first block, fixed in diffusers.
const FIRST_HEADS: usize = 8;

/// The configuration of a [`VideoUNet`], by its class in diffusers.
#[derive(Clone, Debug, PartialEq)]
pub enum VideoUNetConfig {
    /// `UNet3DConditionModel`.
    UNet3D(UNet3DConfig),
    /// `UNetMotionModel`.
    Motion(UNetMotionConfig),
    /// `UNetSpatioTemporalConditionModel`.
    SpatioTemporal(UNetSpatioTemporalConfig),
}

impl From<&UNet3DConfig> for VideoUNetConfig {
    fn from(config: &UNet3DConfig) -> Self {
        Self::UNet3D(config.clone())
    }
}

impl From<&UNetMotionConfig> for VideoUNetConfig {
    fn from(config: &UNetMotionConfig) -> Self {
        Self::Motion(config.clone())
    }
}

impl From<&UNetSpatioTemporalConfig> for VideoUNetConfig {
    fn from(config: &UNetSpatioTemporalConfig) -> Self {
        Self::SpatioTemporal(config.clone())
    }
}

impl VideoUNetConfig {
    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        match self {
            Self::UNet3D(config) => config.to_json(),
            Self::Motion(config) => config.to_json(),
            Self::SpatioTemporal(config) => config.to_json(),
        }
    }

    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        match self {
            Self::UNet3D(config) => config.spec(),
            Self::Motion(config) => config.spec(),
            Self::SpatioTemporal(config) => config.spec(),
        }
    }

    /// The configuration of the layers in each frame.
    pub fn frames(&self) -> UNet2DConditionConfig {
        match self {
            Self::UNet3D(config) => config.frames(),
            Self::Motion(config) => config.frames(),
            Self::SpatioTemporal(config) => config.frames(),
        }
    }

    fn check_values(&self) -> Result<(), ConfigError> {
        match self {
            Self::UNet3D(config) => config.check_values(),
            Self::Motion(config) => config.check_values(),
            Self::SpatioTemporal(config) => config.check_values(),
        }
    }
}

/// The U-Net for clips. Parameters are named as in diffusers' classes.
#[derive(Module, Debug)]
pub struct VideoUNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    transformer_in: Option<TimeTransformer>,
    down_blocks: Vec<Block>,
    mid_block: Block,
    up_blocks: Vec<Block>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: VideoUNetConfig,
    /// Of the layers in each frame.
    #[module(skip)]
    frames: UNet2DConditionConfig,
    #[module(skip)]
    context: ExecContext,
}

impl VideoUNet {
    /// Creates a network with initial weights drawn from PyTorch's default distributions.
    ///
    /// # Errors
    /// Those of the configuration's `validate`.
    pub fn new(config: impl Into<VideoUNetConfig>, seed: u64, device: &Device) -> Result<Self, ConfigError> {
        Ok(params::settle(Self::build(config.into(), &Init::new(seed, device))?))
    }

    /// Creates a network with the weights of `source`.
    ///
    /// # Errors
    /// Those of the configuration's `validate`, and of [`params::import`].
    pub fn load(
        config: impl Into<VideoUNetConfig>,
        source: &dyn TensorSource,
        device: &Device,
    ) -> Result<Self, LoadError> {
        Ok(params::import(Self::build(config.into(), &Init::new(0, device))?, source)?)
    }

    /// Checks that a network can be built from `config`.
    fn check(config: &VideoUNetConfig) -> Result<(), ConfigError> {
        Self::build(config.clone(), &Init::new(0, &Device::flex())).map(drop)
    }

    /// The network's configuration.
    pub fn config(&self) -> &VideoUNetConfig {
        &self.config
    }

    /// The same network, whose calls run in `context`; at any precision, the first and the last convolution and the time
    /// embedding stay in `f32`. Parameters are shared.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.context = context;
        self
    }

    fn build(config: VideoUNetConfig, init: &Init) -> Result<Self, ConfigError> {
        config.check_values()?;
        let frames = config.frames();
        frames.check_values()?;
        frames.layers(0)?;
        let (first, groups, blocks) = (
            frames.block_out_channels[0],
            frames.norm_num_groups.unwrap_or(0),
            frames.block_out_channels.len(),
        );
        let at = init.at("conv_norm_out");
        check_groups(&at, "norm_num_groups", groups, groups, first)?;
        let make = Blocks { config: &config, frames: &frames };
        let transformer_in = match &config {
            VideoUNetConfig::UNet3D(config) => {
                let head = config.attention_head_dim;
                let spec = TimeSpec { heads: FIRST_HEADS, head, layers: 1, positions: None };
                Some(TimeTransformer::new(&init.at("transformer_in"), first, spec, groups))
            }
            VideoUNetConfig::Motion(_) | VideoUNetConfig::SpatioTemporal(_) => None,
        };
        let add_embedding = match &config {
            VideoUNetConfig::SpatioTemporal(config) => {
                let width = config.projection_class_embeddings_input_dim;
                Some(TimestepEmbedding::new(&init.at("add_embedding"), width, frames.time_width()))
            }
            _ => None,
        };
        Ok(Self {
            conv_in: Conv2d::new(&init.at("conv_in"), frames.in_channels, first, 3, true),
            time_embedding: TimestepEmbedding::new(&init.at("time_embedding"), first, frames.time_width()),
            add_embedding,
            transformer_in,
            down_blocks: (0..blocks)
                .map(|level| make.down(&init.at("down_blocks").at(level), level))
                .collect::<Result<_, _>>()?,
            mid_block: make.mid(&init.at("mid_block"))?,
            up_blocks: (0..blocks)
                .map(|i| make.up(&init.at("up_blocks").at(i), i))
                .collect::<Result<_, _>>()?,
            conv_norm_out: GroupNorm::new(&at, groups, first, frames.norm_eps),
            conv_out: Conv2d::new(&init.at("conv_out"), first, frames.out_channels, 3, true),
            config,
            frames,
            context: ExecContext::default(),
        })
    }

    fn check_input(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        match &self.config {
            VideoUNetConfig::SpatioTemporal(_) => {
                conditions.only(&[TEXT, ADDED], rows)?;
                let numbers = conditions.numbers(ADDED).unwrap_or_default();
                if numbers.len() != rows || numbers.iter().any(|all| all.len() != ADDED_NUMBERS) {
                    let reason = "this network needs three additional numbers: frame rate, motion and noise";
                    return Err(InputError(reason.into()));
                }
            }
            _ => conditions.only(&[TEXT], rows)?,
        }
        let &[channels, frames, height, width] = shape.dims() else {
            let expected = "expected channels×frames×height×width";
            return Err(InputError(format!("the samples have the shape {shape}, {expected}")));
        };
        if frames == 0 || height == 0 || width == 0 {
            return Err(InputError(format!(
                "the samples have the shape {shape}, expected sizes of at least 1"
            )));
        }
        if let VideoUNetConfig::Motion(config) = &self.config
            && frames > config.motion_max_seq_length
        {
            return Err(InputError(format!(
                "the clips have {frames} frames, expected at most {} (`motion_max_seq_length`)",
                config.motion_max_seq_length
            )));
        }
        self.frames.check_input([rows, channels, height, width], times, conditions)
    }

    /// The raw output `[B, out_channels, F, H, W]` for `x: [B, in_channels, F, H, W]` at `times`, one per row. See
    /// [`Network::forward`].
    ///
    /// # Panics
    /// For inputs that [`Network::check`] rejects.
    pub fn forward(&self, x: Tensor<5>, times: &[f32], conditions: &Conditions, mode: Mode) -> Tensor<5> {
        let [rows, channels, frames, height, width] = x.dims();
        let shape = SampleShape::from([channels, frames, height, width]);
        let text = match (self.check_input(rows, &shape, times, conditions), conditions.text()) {
            (Ok(()), Some(text)) => text,
            (checked, _) => panic!("{checked:?}"),
        };
        let added = conditions.numbers(ADDED);
        self.context.run(|| self.run(x, times, text, added, mode))
    }

    /// The activated embedding of times and of additional numbers, `[B, width]`, with the embedding itself.
    fn embed(&self, times: &[f32], added: Option<&[Vec<f32>]>) -> Time {
        let (act, device) = (self.frames.act_fn, self.time_embedding.device());
        let first = self.frames.block_out_channels[0];
        let numbers = embed::rows(positional(times, first, 0.0, true), times.len(), &device);
        let mut raw = self.time_embedding.forward_with(act, numbers);
        if let (VideoUNetConfig::SpatioTemporal(config), Some(layers), Some(added)) =
            (&self.config, &self.add_embedding, added)
        {
            let numbers = positional(&added.concat(), config.addition_time_embed_dim, 0.0, true);
            raw = raw + layers.forward_with(act, embed::rows(numbers, times.len(), &device));
        }
        Time { active: act.apply(raw.clone()), raw }
    }

    fn run(
        &self,
        x: Tensor<5>,
        times: &[f32],
        text: &Tensor<3>,
        added: Option<&[Vec<f32>]>,
        mode: Mode,
    ) -> Tensor<5> {
        let [b, _, frames, ..] = x.dims();
        let Time { raw, active: clip_time } = self.embed(times, added);
        let width = raw.dims()[1];
        let each = |x: Tensor<2>| -> Tensor<2> {
            x.unsqueeze_dim::<3>(1).expand([b, frames, width]).reshape([b * frames, width])
        };
        let time = Time { raw: each(raw), active: each(clip_time.clone()) };
        let [_, tokens, features] = text.dims();
        let clip_text = self.context.precision.lower(text.clone());
        let text = clip_text.clone().unsqueeze_dim::<4>(1).expand([b, frames, tokens, features]);
        let text = text.reshape([b * frames, tokens, features]);
        let (clip_time, clip_text) = (&clip_time, &clip_text);
        let inputs = Inputs { time: &time, text: &text, clip_time, clip_text, frames, mode };

        let x = self.conv_in.forward(frames_of(x), ConvOptions::same(1));
        let x = self.context.precision.lower(x);
        let mut x = self.transformer_in.iter().fold(x, |x, time| time.forward(x, frames));
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.down(x, &mut skips, &inputs);
        }
        x = self.mid_block.mid(x, &inputs);
        for block in &self.up_blocks {
            x = block.up(x, &mut skips, &inputs);
        }
        let precision = self.context.precision;
        let x = self.conv_norm_out.then_last_conv(Activation::Silu, x, &self.conv_out, precision);
        clips_of(x, frames)
    }
}

impl Network for VideoUNet {
    fn spec(&self) -> IoSpec {
        self.config.spec()
    }

    fn check(
        &self,
        rows: usize,
        shape: &SampleShape,
        times: &[f32],
        conditions: &Conditions,
    ) -> Result<(), InputError> {
        self.check_input(rows, shape, times, conditions)
    }

    fn forward(&self, x: Batch, times: &[f32], conditions: &Conditions, mode: Mode) -> Batch {
        Batch::of(VideoUNet::forward(self, x.tensor(), times, conditions, mode))
    }

    fn row_bytes(&self, shape: &SampleShape, precision: Precision) -> u64 {
        let &[channels, frames, height, width] = shape.dims() else { return 0 };
        let frame = SampleShape::from([channels, height, width]);
        let layers = |level| self.frames.layers_per_block.get(level).unwrap_or(1);
        let each = unet_row(&self.frames.block_out_channels, layers, true, &frame, precision);
        each.saturating_mul(frames as u64)
    }

    module_object!(Network);
}
