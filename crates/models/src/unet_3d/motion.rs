//! The configuration of diffusers' `UNetMotionModel`: the U-Net of an image model with motion modules (AnimateDiff, Guo et al.
//! 2023, arXiv:2307.04725), in the format of `config.json`.

use serde::{Deserialize, Serialize};

use super::{VideoUNet, config::FRAMES};
use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
    network::IoSpec,
    unet::SampleSize,
    unet_condition::{
        CrossDownBlockType, CrossMidBlockType, CrossUpBlockType, PerBlock, UNet2DConditionConfig,
    },
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 12] = [
    ("addition_embed_type", "null"),
    ("addition_time_embed_dim", "null"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("mid_block_layers", "1"),
    ("projection_class_embeddings_input_dim", "null"),
    ("reverse_motion_num_attention_heads", "null"),
    ("reverse_temporal_transformer_layers_per_block", "null"),
    ("reverse_transformer_layers_per_block", "null"),
    ("temporal_transformer_layers_per_mid_block", "1"),
    ("time_cond_proj_dim", "null"),
    ("transformer_layers_per_mid_block", "null"),
];

/// Most frames that a table of positions may have.
const MAX_FRAMES: usize = 1 << 16;

/// A block of the down path. Each but the last halves the resolution of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockMotionType {
    /// Residual layers, each followed by a motion module.
    DownBlockMotion,
    /// The same, with attention to the text in between.
    CrossAttnDownBlockMotion,
}

/// A block of the up path. Each but the last doubles the resolution of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockMotionType {
    /// Residual layers, each followed by a motion module.
    UpBlockMotion,
    /// The same, with attention to the text in between.
    CrossAttnUpBlockMotion,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetMotionConfig {
    /// Height and width of the training latents; other sizes are supported too.
    pub sample_size: Option<SampleSize>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The blocks of the down path.
    pub down_block_types: Vec<DownBlockMotionType>,
    /// The blocks of the up path, from the lowest resolution.
    pub up_block_types: Vec<UpBlockMotionType>,
    /// Channels at each resolution, from the highest.
    pub block_out_channels: Vec<usize>,
    /// Residual layers in each block of the down path; the up path has one more.
    pub layers_per_block: PerBlock<usize>,
    /// Zero padding of convolutions that halve the resolution; 0 means one row and column at the bottom and right.
    pub downsample_padding: usize,
    /// Divisor of the outputs of the middle block's residual layers.
    pub mid_block_scale_factor: f64,
    /// Activation of the residual layers.
    pub act_fn: Activation,
    /// Groups of the group normalizations.
    pub norm_num_groups: usize,
    /// Added to the variance in group normalizations of residual layers.
    pub norm_eps: f64,
    /// Width of the text features.
    pub cross_attention_dim: PerBlock<usize>,
    /// Layers of each transformer in the frames.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Layers of each motion module outside the middle block.
    pub temporal_transformer_layers_per_block: PerBlock<usize>,
    /// Whether transformers use linear layers instead of 1×1 convolutions for projections.
    pub use_linear_projection: bool,
    /// Attention heads of the transformers in the frames.
    pub num_attention_heads: PerBlock<usize>,
    /// Most frames.
    pub motion_max_seq_length: usize,
    /// Attention heads of the motion modules.
    pub motion_num_attention_heads: PerBlock<usize>,
    /// Whether the middle block has a motion module.
    pub use_motion_mid_block: bool,
}

impl Default for UNetMotionConfig {
    fn default() -> Self {
        use {DownBlockMotionType as Down, UpBlockMotionType as Up};
        let (down, up) = (Down::CrossAttnDownBlockMotion, Up::CrossAttnUpBlockMotion);
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: vec![down, down, down, Down::DownBlockMotion],
            up_block_types: vec![Up::UpBlockMotion, up, up, up],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: Activation::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::All(1280),
            transformer_layers_per_block: PerBlock::All(1),
            temporal_transformer_layers_per_block: PerBlock::All(1),
            use_linear_projection: false,
            num_attention_heads: PerBlock::All(8),
            motion_max_seq_length: 32,
            motion_num_attention_heads: PerBlock::All(8),
            use_motion_mid_block: true,
        }
    }
}

impl UNetMotionConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "UNetMotionModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to a network that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &FIXED };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that a network can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        VideoUNet::check(&self.into())
    }

    /// Checks what the layers of frames do not check.
    pub(super) fn check_values(&self) -> Result<(), ConfigError> {
        in_range(&[("motion_max_seq_length", self.motion_max_seq_length, 1, MAX_FRAMES)])?;
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.motion_num_attention_heads.get(level);
            if heads.is_none_or(|heads| heads == 0 || !channels.is_multiple_of(heads)) {
                let reason = format!(
                    "the {channels} channels of block {level} are not divisible by its number of heads"
                );
                return Err(ConfigError::value(
                    "motion_num_attention_heads",
                    &self.motion_num_attention_heads,
                    reason,
                ));
            }
            if self.temporal_transformer_layers_per_block.get(level).is_none() {
                let reason = format!("block {level} has no entry in the list");
                let key = "temporal_transformer_layers_per_block";
                return Err(ConfigError::value(key, &self.temporal_transformer_layers_per_block, reason));
            }
        }
        Ok(())
    }

    /// The configuration of the image model, whose layers see each frame.
    pub fn frames(&self) -> UNet2DConditionConfig {
        use {CrossDownBlockType as Down, CrossUpBlockType as Up};
        let down = |kind: &DownBlockMotionType| match kind {
            DownBlockMotionType::DownBlockMotion => Down::DownBlock2D,
            DownBlockMotionType::CrossAttnDownBlockMotion => Down::CrossAttnDownBlock2D,
        };
        let up = |kind: &UpBlockMotionType| match kind {
            UpBlockMotionType::UpBlockMotion => Up::UpBlock2D,
            UpBlockMotionType::CrossAttnUpBlockMotion => Up::CrossAttnUpBlock2D,
        };
        UNet2DConditionConfig {
            sample_size: self.sample_size,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            down_block_types: self.down_block_types.iter().map(down).collect(),
            mid_block_type: Some(CrossMidBlockType::UNetMidBlock2DCrossAttn),
            up_block_types: self.up_block_types.iter().map(up).collect(),
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block.clone(),
            downsample_padding: self.downsample_padding,
            mid_block_scale_factor: self.mid_block_scale_factor,
            act_fn: self.act_fn,
            norm_num_groups: Some(self.norm_num_groups),
            norm_eps: self.norm_eps,
            cross_attention_dim: self.cross_attention_dim.clone(),
            transformer_layers_per_block: self.transformer_layers_per_block.clone(),
            attention_head_dim: self.num_attention_heads.clone(),
            use_linear_projection: self.use_linear_projection,
            ..UNet2DConditionConfig::default()
        }
    }

    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        let frames = FRAMES.min(self.motion_max_seq_length);
        IoSpec {
            native: self.sample_size.map(|size| [&[frames][..], &size.dims()].concat()),
            multiple: 1,
            text: self.cross_attention_dim.get(0),
            ..IoSpec::new(Self::CLASS, 3, [self.in_channels, self.out_channels])
        }
    }
}
