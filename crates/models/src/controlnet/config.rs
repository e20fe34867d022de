//! The configuration of a [`ControlNetModel`](super::ControlNetModel) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format, in_range},
    layers::Activation,
    unet::TimeScaleShift,
    unet_condition::{
        AdditionEmbedType, CrossClassEmbedType, CrossDownBlockType, CrossMidBlockType, CrossUpBlockType,
        PerBlock, UNet2DConditionConfig,
    },
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 4] = [
    ("addition_embed_type_num_heads", "64"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("num_attention_heads", "null"),
];

/// The order of the channels that a network reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors. Those that are not described
/// here are described at [`UNet2DConditionConfig`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ControlNetConfig {
    pub in_channels: usize,
    /// Channels of the image that it follows.
    pub conditioning_channels: usize,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<CrossDownBlockType>,
    pub mid_block_type: CrossMidBlockType,
    pub only_cross_attention: PerBlock<bool>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub downsample_padding: usize,
    pub mid_block_scale_factor: f64,
    pub act_fn: Activation,
    pub norm_num_groups: usize,
    pub norm_eps: f64,
    pub cross_attention_dim: usize,
    pub transformer_layers_per_block: PerBlock<usize>,
    pub attention_head_dim: PerBlock<usize>,
    pub use_linear_projection: bool,
    pub class_embed_type: Option<CrossClassEmbedType>,
    pub addition_embed_type: Option<AdditionEmbedType>,
    pub addition_time_embed_dim: Option<usize>,
    pub num_class_embeds: Option<usize>,
    pub upcast_attention: Option<bool>,
    pub resnet_time_scale_shift: TimeScaleShift,
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// The order of the channels of the image.
    pub controlnet_conditioning_channel_order: ChannelOrder,
    /// Channels of the layers that embed the image; each but the last halves the resolution.
    pub conditioning_embedding_out_channels: Vec<usize>,
    /// Whether its outputs are averaged over all pixels.
    pub global_pool_conditions: bool,
}

impl Default for ControlNetConfig {
    fn default() -> Self {
        let unet = UNet2DConditionConfig::default();
        Self {
            in_channels: unet.in_channels,
            conditioning_channels: 3,
            flip_sin_to_cos: unet.flip_sin_to_cos,
            freq_shift: unet.freq_shift,
            down_block_types: unet.down_block_types,
            mid_block_type: CrossMidBlockType::UNetMidBlock2DCrossAttn,
            only_cross_attention: unet.only_cross_attention,
            block_out_channels: unet.block_out_channels,
            layers_per_block: 2,
            downsample_padding: unet.downsample_padding,
            mid_block_scale_factor: unet.mid_block_scale_factor,
            act_fn: unet.act_fn,
            norm_num_groups: 32,
            norm_eps: unet.norm_eps,
            cross_attention_dim: 1280,
            transformer_layers_per_block: unet.transformer_layers_per_block,
            attention_head_dim: unet.attention_head_dim,
            use_linear_projection: unet.use_linear_projection,
            class_embed_type: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            num_class_embeds: None,
            upcast_attention: unet.upcast_attention,
            resnet_time_scale_shift: unet.resnet_time_scale_shift,
            projection_class_embeddings_input_dim: None,
            controlnet_conditioning_channel_order: ChannelOrder::Rgb,
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            global_pool_conditions: false,
        }
    }
}

impl ControlNetConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "ControlNetModel";

    /// Parses `config.json` and checks whether it describes a network.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed, contradicts others, or belongs to a network that is not supported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &FIXED };
        let config: Self = config::read(text, &format)?;
        config.check()?;
        config.unet().validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Height and width of the image divided by those of the sample.
    pub fn stride(&self) -> usize {
        1 << self.conditioning_embedding_out_channels.len().saturating_sub(1)
    }

    /// The U-Net of which it is half a copy.
    pub fn unet(&self) -> UNet2DConditionConfig {
        let up = |down: &CrossDownBlockType| match down {
            CrossDownBlockType::DownBlock2D => CrossUpBlockType::UpBlock2D,
            CrossDownBlockType::CrossAttnDownBlock2D => CrossUpBlockType::CrossAttnUpBlock2D,
            CrossDownBlockType::ResnetDownsampleBlock2D => CrossUpBlockType::ResnetUpsampleBlock2D,
            CrossDownBlockType::SimpleCrossAttnDownBlock2D => CrossUpBlockType::SimpleCrossAttnUpBlock2D,
            CrossDownBlockType::KDownBlock2D => CrossUpBlockType::KUpBlock2D,
            CrossDownBlockType::KCrossAttnDownBlock2D => CrossUpBlockType::KCrossAttnUpBlock2D,
        };
        let c = self.clone();
        UNet2DConditionConfig {
            in_channels: c.in_channels,
            flip_sin_to_cos: c.flip_sin_to_cos,
            freq_shift: c.freq_shift,
            up_block_types: c.down_block_types.iter().rev().map(up).collect(),
            down_block_types: c.down_block_types,
            mid_block_type: Some(c.mid_block_type),
            only_cross_attention: c.only_cross_attention,
            block_out_channels: c.block_out_channels,
            layers_per_block: PerBlock::All(c.layers_per_block),
            downsample_padding: c.downsample_padding,
            mid_block_scale_factor: c.mid_block_scale_factor,
            act_fn: c.act_fn,
            norm_num_groups: Some(c.norm_num_groups),
            norm_eps: c.norm_eps,
            cross_attention_dim: PerBlock::All(c.cross_attention_dim),
            transformer_layers_per_block: c.transformer_layers_per_block,
            attention_head_dim: c.attention_head_dim,
            use_linear_projection: c.use_linear_projection,
            class_embed_type: c.class_embed_type,
            addition_embed_type: c.addition_embed_type,
            addition_time_embed_dim: c.addition_time_embed_dim,
            num_class_embeds: c.num_class_embeds,
            upcast_attention: c.upcast_attention,
            resnet_time_scale_shift: c.resnet_time_scale_shift,
            projection_class_embeddings_input_dim: c.projection_class_embeddings_input_dim,
            ..UNet2DConditionConfig::default()
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let widths = &self.conditioning_embedding_out_channels;
        if widths.is_empty() || widths.len() > 16 || widths.iter().any(|w| !(1..=1 << 16).contains(w)) {
            let reason = format!("expected 1 to 16 entries between 1 and {}", 1 << 16);
            return Err(ConfigError::value("conditioning_embedding_out_channels", widths, reason));
        }
        if let Some(kind) = self.down_block_types.iter().find(|kind| kind.is_k()) {
            return Err(ConfigError::value("down_block_types", kind, "is not supported in ControlNets"));
        }
        in_range(&[("conditioning_channels", self.conditioning_channels, 1, 1 << 16)])
    }
}
