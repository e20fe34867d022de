//! The configuration of diffusers' `UNet3DConditionModel` in the format of `config.json`.

use serde::{Deserialize, Serialize};

use super::VideoUNet;
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
const FIXED: [(&str, &str); 2] = [("num_attention_heads", "null"), ("time_cond_proj_dim", "null")];

/// Number of frames that diffusers' pipelines make unless asked otherwise; the configuration does not say it.
pub(super) const FRAMES: usize = 16;
/// Widest head, and most frames.
const MAX_HEAD: usize = 1 << 12;

/// A block of the down path. Each but the last halves the resolution of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock3DType {
    /// Residual layers, each followed by convolutions over time.
    DownBlock3D,
    /// The same, followed by a transformer in each frame and one over time.
    CrossAttnDownBlock3D,
}

/// A block of the up path. Each but the last doubles the resolution of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock3DType {
    /// Residual layers, each followed by convolutions over time.
    UpBlock3D,
    /// The same, followed by a transformer in each frame and one over time.
    CrossAttnUpBlock3D,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet3DConfig {
    /// Height and width of the training latents; other sizes are supported too.
    pub sample_size: Option<SampleSize>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The blocks of the down path.
    pub down_block_types: Vec<DownBlock3DType>,
    /// The blocks of the up path, from the lowest resolution.
    pub up_block_types: Vec<UpBlock3DType>,
    /// Channels at each resolution, from the highest.
    pub block_out_channels: Vec<usize>,
    /// Residual layers in each block of the down path; the up path has one more.
    pub layers_per_block: usize,
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
    pub cross_attention_dim: usize,
    /// Width of each attention head.
    pub attention_head_dim: usize,
}

impl Default for UNet3DConfig {
    fn default() -> Self {
        use {DownBlock3DType as Down, UpBlock3DType as Up};
        let down = Down::CrossAttnDownBlock3D;
        let up = Up::CrossAttnUpBlock3D;
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            down_block_types: vec![down, down, down, Down::DownBlock3D],
            up_block_types: vec![Up::UpBlock3D, up, up, up],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: Activation::Silu,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1024,
            attention_head_dim: 64,
        }
    }
}

impl UNet3DConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "UNet3DConditionModel";

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
        in_range(&[("attention_head_dim", self.attention_head_dim, 1, MAX_HEAD)])?;
        let head = self.attention_head_dim;
        match self.block_out_channels.iter().find(|channels| !channels.is_multiple_of(head)) {
            None => Ok(()),
            Some(channels) => {
                let reason = format!("the {channels} channels of a block are not divisible by this width");
                Err(ConfigError::value("attention_head_dim", head, reason))
            }
        }
    }

    /// The equivalent configuration for the layers in each frame, which are those of `UNet2DConditionModel`.
    pub fn frames(&self) -> UNet2DConditionConfig {
        use {CrossDownBlockType as Down, CrossUpBlockType as Up};
        let down = |kind: &DownBlock3DType| match kind {
            DownBlock3DType::DownBlock3D => Down::DownBlock2D,
            DownBlock3DType::CrossAttnDownBlock3D => Down::CrossAttnDownBlock2D,
        };
        let up = |kind: &UpBlock3DType| match kind {
            UpBlock3DType::UpBlock3D => Up::UpBlock2D,
            UpBlock3DType::CrossAttnUpBlock3D => Up::CrossAttnUpBlock2D,
        };
        let heads = |channels: &usize| channels / self.attention_head_dim.max(1);
        UNet2DConditionConfig {
            sample_size: self.sample_size,
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            down_block_types: self.down_block_types.iter().map(down).collect(),
            mid_block_type: Some(CrossMidBlockType::UNetMidBlock2DCrossAttn),
            up_block_types: self.up_block_types.iter().map(up).collect(),
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: PerBlock::All(self.layers_per_block),
            downsample_padding: self.downsample_padding,
            mid_block_scale_factor: self.mid_block_scale_factor,
            act_fn: self.act_fn,
            norm_num_groups: Some(self.norm_num_groups),
            norm_eps: self.norm_eps,
            cross_attention_dim: PerBlock::All(self.cross_attention_dim),
            attention_head_dim: PerBlock::Each(self.block_out_channels.iter().map(heads).collect()),
            use_linear_projection: true,
            ..UNet2DConditionConfig::default()
        }
    }

    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        IoSpec {
            native: self.sample_size.map(|size| [&[FRAMES][..], &size.dims()].concat()),
            multiple: 1,
            text: Some(self.cross_attention_dim),
            ..IoSpec::new(Self::CLASS, 3, [self.in_channels, self.out_channels])
        }
    }
}
