//! The configuration of diffusers' `UNetSpatioTemporalConditionModel` (Stable Video Diffusion, Blattmann et al. 2023,
//! arXiv:2311.15127), in the format of `config.json`.

use serde::{Deserialize, Serialize};

use super::{VideoUNet, mixed::GROUPS};
use crate::{
    config::{self, ConfigError, Format, in_range},
    network::IoSpec,
    unet::SampleSize,
    unet_condition::{
        CrossDownBlockType, CrossMidBlockType, CrossUpBlockType, PerBlock, UNet2DConditionConfig,
    },
};

/// The frame rate, how much moves, and the noise on the image.
pub(super) const ADDED_NUMBERS: usize = 3;
/// Added to variances in residual layers, fixed in diffusers: in the middle and in blocks of the down path without
/// attention, and in the others.
const EPS: f64 = 1e-5;
pub(super) const CROSS_EPS: f64 = 1e-6;

const MAX_WIDTH: usize = 1 << 16;
const MAX_FRAMES: usize = 1 << 16;

/// A block of the down path. Each but the last halves the resolution of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockSpatioTemporalType {
    /// Residual layers.
    DownBlockSpatioTemporal,
    /// Residual layers, each followed by a transformer.
    CrossAttnDownBlockSpatioTemporal,
}

/// A block of the up path. Each but the last doubles the resolution of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockSpatioTemporalType {
    /// Residual layers.
    UpBlockSpatioTemporal,
    /// Residual layers, each followed by a transformer.
    CrossAttnUpBlockSpatioTemporal,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetSpatioTemporalConfig {
    /// Height and width of the training latents; other sizes are supported too.
    pub sample_size: Option<SampleSize>,
    /// Channels of the input: those of the latents and of an image's latents.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// The blocks of the down path.
    pub down_block_types: Vec<DownBlockSpatioTemporalType>,
    /// The blocks of the up path, from the lowest resolution.
    pub up_block_types: Vec<UpBlockSpatioTemporalType>,
    /// Channels at each resolution, from the highest; multiples of 32.
    pub block_out_channels: Vec<usize>,
    /// Width of the embedding of each additional number; even.
    pub addition_time_embed_dim: usize,
    /// Width of the embeddings of all: three times that.
    pub projection_class_embeddings_input_dim: usize,
    /// Residual layers in each block of the down path; the up path has one more.
    pub layers_per_block: PerBlock<usize>,
    /// Width of the embedding of the image.
    pub cross_attention_dim: PerBlock<usize>,
    /// Layers of each transformer.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Attention heads of each transformer.
    pub num_attention_heads: PerBlock<usize>,
    /// Number of frames that the network was trained with; others are supported too.
    pub num_frames: usize,
}

impl Default for UNetSpatioTemporalConfig {
    fn default() -> Self {
        use {DownBlockSpatioTemporalType as Down, UpBlockSpatioTemporalType as Up};
        let (down, up) = (Down::CrossAttnDownBlockSpatioTemporal, Up::CrossAttnUpBlockSpatioTemporal);
        Self {
            sample_size: None,
            in_channels: 8,
            out_channels: 4,
            down_block_types: vec![down, down, down, Down::DownBlockSpatioTemporal],
            up_block_types: vec![Up::UpBlockSpatioTemporal, up, up, up],
            block_out_channels: vec![320, 640, 1280, 1280],
            addition_time_embed_dim: 256,
            projection_class_embeddings_input_dim: 768,
            layers_per_block: PerBlock::All(2),
            cross_attention_dim: PerBlock::All(1024),
            transformer_layers_per_block: PerBlock::All(1),
            num_attention_heads: PerBlock::Each(vec![5, 10, 20, 20]),
            num_frames: 25,
        }
    }
}

impl UNetSpatioTemporalConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "UNetSpatioTemporalConditionModel";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to a network that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &[] };
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
        let each = self.addition_time_embed_dim;
        in_range(&[
            ("num_frames", self.num_frames, 1, MAX_FRAMES),
            ("addition_time_embed_dim", each, 2, MAX_WIDTH),
        ])?;
        if self.projection_class_embeddings_input_dim != ADDED_NUMBERS * each {
            let expected = ADDED_NUMBERS * each;
            let reason = format!("expected {expected}, three times `addition_time_embed_dim`");
            let key = "projection_class_embeddings_input_dim";
            return Err(ConfigError::value(key, self.projection_class_embeddings_input_dim, reason));
        }
        if self.block_out_channels.iter().any(|channels| !channels.is_multiple_of(GROUPS)) {
            let reason = format!("expected multiples of {GROUPS}");
            return Err(ConfigError::value("block_out_channels", &self.block_out_channels, reason));
        }
        for (level, channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.num_attention_heads.get(level);
            if heads.is_none_or(|heads| heads == 0 || !channels.is_multiple_of(heads)) {
                let reason = format!(
                    "the {channels} channels of block {level} are not divisible by its number of heads"
                );
                return Err(ConfigError::value("num_attention_heads", &self.num_attention_heads, reason));
            }
            if self.cross_attention_dim.get(level).is_none_or(|width| width == 0) {
                let reason = format!("block {level} has no width");
                return Err(ConfigError::value("cross_attention_dim", &self.cross_attention_dim, reason));
            }
        }
        Ok(())
    }

    /// The configuration of the layers in each frame.
    pub fn frames(&self) -> UNet2DConditionConfig {
        use {CrossDownBlockType as Down, CrossUpBlockType as Up};
        let down = |kind: &DownBlockSpatioTemporalType| match kind {
            DownBlockSpatioTemporalType::DownBlockSpatioTemporal => Down::DownBlock2D,
            DownBlockSpatioTemporalType::CrossAttnDownBlockSpatioTemporal => Down::CrossAttnDownBlock2D,
        };
        let up = |kind: &UpBlockSpatioTemporalType| match kind {
            UpBlockSpatioTemporalType::UpBlockSpatioTemporal => Up::UpBlock2D,
            UpBlockSpatioTemporalType::CrossAttnUpBlockSpatioTemporal => Up::CrossAttnUpBlock2D,
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
            norm_num_groups: Some(GROUPS),
            norm_eps: EPS,
            cross_attention_dim: self.cross_attention_dim.clone(),
            transformer_layers_per_block: self.transformer_layers_per_block.clone(),
            attention_head_dim: self.num_attention_heads.clone(),
            use_linear_projection: true,
            ..UNet2DConditionConfig::default()
        }
    }

    /// What a network of this configuration takes and gives.
    pub fn spec(&self) -> IoSpec {
        IoSpec {
            native: self.sample_size.map(|size| [&[self.num_frames][..], &size.dims()].concat()),
            text: self.cross_attention_dim.get(0),
            ..IoSpec::new(Self::CLASS, 3, [self.in_channels, self.out_channels])
        }
    }
}
