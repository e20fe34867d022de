//! The configuration of a [`UNet2DConditionModel`](super::UNet2DConditionModel) in the format of diffusers'
//! `config.json`.

use serde::{Deserialize, Serialize};

use crate::{
    config::{self, ConfigError, Format},
    layers::Activation,
    unet::{SampleSize, TimeScaleShift, UNet2DConfig},
};

/// Keys whose other values belong to networks that are not supported.
const FIXED: [(&str, &str); 11] = [
    ("addition_embed_type_num_heads", "64"),
    ("attention_type", "\"default\""),
    ("cross_attention_norm", "null"),
    ("dual_cross_attention", "false"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("mid_block_only_cross_attention", "null"),
    ("num_attention_heads", "null"),
    ("resnet_out_scale_factor", "1.0"),
    ("resnet_skip_time_act", "false"),
    ("time_embedding_act_fn", "null"),
];

/// A value for all blocks, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerBlock<T> {
    /// The same value for all.
    All(T),
    /// One value for each, from the highest resolution.
    Each(Vec<T>),
}

impl<T: Copy> PerBlock<T> {
    /// The value of block `i`; `None` if the list is too short.
    pub fn get(&self, i: usize) -> Option<T> {
        match self {
            Self::All(value) => Some(*value),
            Self::Each(list) => list.get(i).copied(),
        }
    }
}

/// A block of the down path. Each but the last halves the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CrossDownBlockType {
    /// Residual layers.
    DownBlock2D,
    /// Residual layers, each followed by a transformer with attention to the text.
    CrossAttnDownBlock2D,
    /// Residual layers, another of which halves the resolution.
    ResnetDownsampleBlock2D,
    /// The same, each but that one followed by attention to the text and the image at once.
    SimpleCrossAttnDownBlock2D,
    /// Residual layers whose normalization is conditioned on time; a fixed filter halves the resolution.
    KDownBlock2D,
    /// The same, each followed by attention to the text; in the last block also to the image.
    KCrossAttnDownBlock2D,
}

impl CrossDownBlockType {
    /// Whether a residual layer halves the resolution, instead of a convolution.
    pub(super) fn by_resnet(self) -> bool {
        matches!(self, Self::ResnetDownsampleBlock2D | Self::SimpleCrossAttnDownBlock2D)
    }

    /// Whether it is one of the blocks "K".
    pub(crate) fn is_k(self) -> bool {
        matches!(self, Self::KDownBlock2D | Self::KCrossAttnDownBlock2D)
    }
}

/// The middle block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CrossMidBlockType {
    /// A residual layer, a transformer, a residual layer.
    UNetMidBlock2DCrossAttn,
    /// A residual layer, attention to the text and the image at once, a residual layer.
    UNetMidBlock2DSimpleCrossAttn,
}

/// A block of the up path. Each but the last doubles the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CrossUpBlockType {
    /// Residual layers.
    UpBlock2D,
    /// Residual layers, each followed by a transformer with attention to the text.
    CrossAttnUpBlock2D,
    /// Residual layers, another of which doubles the resolution.
    ResnetUpsampleBlock2D,
    /// The same, each but that one followed by attention to the text and the image at once.
    SimpleCrossAttnUpBlock2D,
    /// Residual layers whose normalization is conditioned on time; a fixed filter doubles the resolution.
    KUpBlock2D,
    /// The same, each followed by attention to the text; in the first block also to the image.
    KCrossAttnUpBlock2D,
}

impl CrossUpBlockType {
    /// Whether a residual layer doubles the resolution, instead of a convolution.
    pub(super) fn by_resnet(self) -> bool {
        matches!(self, Self::ResnetUpsampleBlock2D | Self::SimpleCrossAttnUpBlock2D)
    }

    /// Whether it is one of the blocks "K".
    pub(super) fn is_k(self) -> bool {
        matches!(self, Self::KUpBlock2D | Self::KCrossAttnUpBlock2D)
    }
}

/// How the time is embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrossTimeEmbedType {
    /// Sines and cosines with fixed frequencies.
    Positional,
    /// Sines and cosines with random frequencies, which are part of the file. `time_cond_proj_dim` is then the width of a vector
    /// that joins the time, [`WITH_TIME`](crate::conditions::WITH_TIME).
    Fourier,
}

/// How the class is embedded, unless by a learned table with `num_class_embeds` entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossClassEmbedType {
    /// Like the time.
    Timestep,
    /// The class is already an embedding: [`EMBEDDING`](crate::conditions::EMBEDDING).
    Identity,
    /// The class is a vector, also [`EMBEDDING`](crate::conditions::EMBEDDING), that goes through two linear layers.
    Projection,
    /// The same through one linear layer.
    SimpleProjection,
}

/// Additional embeddings that are added to the time embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdditionEmbedType {
    /// Pooled text features, and values such as sizes, each embedded like the time (SDXL).
    TextTime,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConditionConfig {
    /// Size of the training latents; other sizes are supported too.
    pub sample_size: Option<SampleSize>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether to map the input from `0..1` to `-1..1` first.
    pub center_input_sample: bool,
    /// Whether cosines of the time come first.
    pub flip_sin_to_cos: bool,
    /// Offset of the exponent of the time's frequencies.
    pub freq_shift: f64,
    /// The blocks of the down path.
    pub down_block_types: Vec<CrossDownBlockType>,
    /// The middle block, if any.
    pub mid_block_type: Option<CrossMidBlockType>,
    /// The blocks of the up path, from the lowest resolution.
    pub up_block_types: Vec<CrossUpBlockType>,
    /// Whether the first attention of each transformer layer attends to the text instead of the image.
    pub only_cross_attention: PerBlock<bool>,
    /// Channels at each resolution, from the highest.
    pub block_out_channels: Vec<usize>,
    /// Residual layers in each block of the down path; the up path has one more.
    pub layers_per_block: PerBlock<usize>,
    /// Zero padding of convolutions that halve the resolution; 0 means one row and column at the bottom and right.
    pub downsample_padding: usize,
    /// Divisor of the outputs of the middle block's residual layers.
    pub mid_block_scale_factor: f64,
    /// Dropout probability of residual layers in training.
    pub dropout: f64,
    /// Activation of the residual layers.
    pub act_fn: Activation,
    /// Groups of the group normalizations. May be null with the blocks "K", which have one group for 32 channels; then there is no
    /// normalization before the last convolution.
    pub norm_num_groups: Option<usize>,
    /// Added to the variance in group normalizations.
    pub norm_eps: f64,
    /// Width of the text features.
    pub cross_attention_dim: PerBlock<usize>,
    /// Layers of each transformer in the down path; the middle block uses the last entry.
    pub transformer_layers_per_block: PerBlock<usize>,
    /// Layers of each transformer in the up path, from the lowest resolution; by default the reverse of the down path.
    pub reverse_transformer_layers_per_block: Option<Vec<usize>>,
    /// Number of attention heads of transformers: the misleading name is that of the published files. In the blocks
    /// "SimpleCrossAttn" it is the number of channels per head.
    pub attention_head_dim: PerBlock<usize>,
    /// Whether transformers use linear layers instead of 1×1 convolutions for projections.
    pub use_linear_projection: bool,
    /// How the class is embedded, unless by a table.
    pub class_embed_type: Option<CrossClassEmbedType>,
    /// Whether the embedding of the class follows that of the time, instead of being added to it.
    pub class_embeddings_concat: bool,
    /// Additional embeddings that are added to the time embedding.
    pub addition_embed_type: Option<AdditionEmbedType>,
    /// Width of the embedding of each additional number.
    pub addition_time_embed_dim: Option<usize>,
    /// Entries of the class embedding table, if there is one.
    pub num_class_embeds: Option<usize>,
    /// Unused; for half precision.
    pub upcast_attention: Option<bool>,
    /// How the time embedding is applied in a residual layer.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// How the time is embedded.
    pub time_embedding_type: CrossTimeEmbedType,
    /// Width of the time embedding; by default four times the first of `block_out_channels`, or twice with `fourier`.
    pub time_embedding_dim: Option<usize>,
    /// Activation of the embedded time.
    pub timestep_post_act: Option<Activation>,
    /// Width of the embedding of the guidance scale, in guidance-distilled U-Nets. With `fourier` it is that of any vector.
    pub time_cond_proj_dim: Option<usize>,
    /// Side of the kernel of the first convolution, odd.
    pub conv_in_kernel: usize,
    /// Side of the kernel of the last convolution, odd.
    pub conv_out_kernel: usize,
    /// Width of the concatenation of pooled text features and embedded values for `addition_embed_type`, or of the vector for
    /// `class_embed_type`.
    pub projection_class_embeddings_input_dim: Option<usize>,
}

impl Default for UNet2DConditionConfig {
    fn default() -> Self {
        use {CrossDownBlockType as Down, CrossUpBlockType as Up};
        Self {
            sample_size: None,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                Down::CrossAttnDownBlock2D,
                Down::CrossAttnDownBlock2D,
                Down::CrossAttnDownBlock2D,
                Down::DownBlock2D,
            ],
            mid_block_type: Some(CrossMidBlockType::UNetMidBlock2DCrossAttn),
            up_block_types: vec![
                Up::UpBlock2D,
                Up::CrossAttnUpBlock2D,
                Up::CrossAttnUpBlock2D,
                Up::CrossAttnUpBlock2D,
            ],
            only_cross_attention: PerBlock::All(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerBlock::All(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            dropout: 0.0,
            act_fn: Activation::Silu,
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: PerBlock::All(1280),
            transformer_layers_per_block: PerBlock::All(1),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerBlock::All(8),
            use_linear_projection: false,
            class_embed_type: None,
            class_embeddings_concat: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            num_class_embeds: None,
            upcast_attention: Some(false),
            resnet_time_scale_shift: TimeScaleShift::Default,
            time_embedding_type: CrossTimeEmbedType::Positional,
            time_embedding_dim: None,
            timestep_post_act: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            projection_class_embeddings_input_dim: None,
        }
    }
}

impl UNet2DConditionConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "UNet2DConditionModel";

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

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        let first = self.block_out_channels.first().copied().unwrap_or(0);
        match (self.time_embedding_dim, self.time_embedding_type) {
            (Some(width), _) if width > 0 => width,
            (_, CrossTimeEmbedType::Positional) => 4 * first,
            (_, CrossTimeEmbedType::Fourier) => 2 * first,
        }
    }

    /// Width of the embedding of the guidance scale, if the network reads that.
    pub fn guidance_width(&self) -> Option<usize> {
        self.time_cond_proj_dim.filter(|_| self.time_embedding_type == CrossTimeEmbedType::Positional)
    }

    /// Width of the vector that joins the time, if the network reads one.
    pub fn with_time(&self) -> Option<usize> {
        self.time_cond_proj_dim.filter(|_| self.time_embedding_type == CrossTimeEmbedType::Fourier)
    }

    /// Whether its blocks are those with fixed filters.
    pub(super) fn has_k_blocks(&self) -> bool {
        self.down_block_types.iter().any(|kind| kind.is_k())
    }

    /// Width of the vector that it reads instead of a class.
    pub fn embedding_width(&self) -> Option<usize> {
        match self.class_embed_type? {
            CrossClassEmbedType::Timestep => None,
            CrossClassEmbedType::Identity => Some(self.time_width()),
            CrossClassEmbedType::Projection | CrossClassEmbedType::SimpleProjection => {
                self.projection_class_embeddings_input_dim
            }
        }
    }

    /// Whether it reads text features. A network that reads a vector, and whose transformers have the text's width at each
    /// resolution (AudioLDM), attends to the sample again instead.
    pub fn reads_text(&self) -> bool {
        use CrossClassEmbedType::{Projection, SimpleProjection};
        let vector = matches!(self.class_embed_type, Some(Projection | SimpleProjection));
        let mut widths = self.block_out_channels.iter().enumerate();
        !vector
            || self.has_k_blocks()
            || self.skips_padding()
            || !widths.all(|(level, width)| self.cross_attention_dim.get(level) == Some(*width))
    }

    /// Whether a block attends to the text and the image at once, and so can skip padding tokens.
    pub(super) fn skips_padding(&self) -> bool {
        let down = self.down_block_types.contains(&CrossDownBlockType::SimpleCrossAttnDownBlock2D);
        let up = self.up_block_types.contains(&CrossUpBlockType::SimpleCrossAttnUpBlock2D);
        down || up || self.mid_block_type == Some(CrossMidBlockType::UNetMidBlock2DSimpleCrossAttn)
    }

    /// The channels of each skip connection, from the highest resolution, and of the middle block; none if nothing can be added
    /// to them.
    pub fn residuals(&self) -> Vec<usize> {
        if self.has_k_blocks() {
            return Vec::new();
        }
        let widths = &self.block_out_channels;
        let level = |(i, &width): (usize, &usize)| {
            let layers = self.layers_per_block.get(i).unwrap_or(0);
            std::iter::repeat_n(width, layers + usize::from(i + 1 < widths.len()))
        };
        let skips = widths.iter().enumerate().flat_map(level);
        widths.first().copied().into_iter().chain(skips).chain(widths.last().copied()).collect()
    }

    /// The channels of maps that can be added inside the blocks of the down path and, last, to the middle, and the sides of the
    /// sample divided by theirs; none if nothing can be added.
    pub fn intrablock(&self) -> Vec<(usize, usize)> {
        use CrossDownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        let plain = |kind: &CrossDownBlockType| matches!(kind, CrossAttnDownBlock2D | DownBlock2D);
        let (Some(last), true) =
            (self.block_out_channels.len().checked_sub(1), self.down_block_types.iter().all(plain))
        else {
            return Vec::new();
        };
        let kinds = self.block_out_channels.iter().zip(&self.down_block_types).enumerate();
        // A block without attention adds after it has halved the resolution.
        let block = |(i, (&width, &kind)): (usize, (&usize, &CrossDownBlockType))| {
            (width, 1 << if kind == DownBlock2D && i < last { i + 1 } else { i })
        };
        let middle = self.mid_block_type.map(|_| (self.block_out_channels[last], 1 << last));
        kinds.map(block).chain(middle).collect()
    }

    /// Width of the text features in the first block with attention to the text.
    pub fn text_width(&self) -> Option<usize> {
        self.cross_attention_dim.get(0).filter(|_| self.reads_text())
    }

    /// The number of numeric conditions that `addition_embed_type` needs besides pooled features of width `pooled`.
    pub fn added_numbers(&self, pooled: usize) -> Option<usize> {
        let (width, each) = (self.projection_class_embeddings_input_dim?, self.addition_time_embed_dim?);
        let rest = width.checked_sub(pooled)?;
        (each > 0 && rest.is_multiple_of(each)).then(|| rest / each)
    }

    /// The equivalent configuration for residual layers, which are shared with `UNet2DModel`.
    pub(super) fn resnets(&self) -> UNet2DConfig {
        UNet2DConfig {
            block_out_channels: self.block_out_channels.clone(),
            time_embedding_dim: Some(self.time_width() * if self.class_embeddings_concat { 2 } else { 1 }),
            dropout: self.dropout,
            act_fn: self.act_fn,
            norm_num_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            resnet_time_scale_shift: self.resnet_time_scale_shift,
            ..UNet2DConfig::default()
        }
    }
}
