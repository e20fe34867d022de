//! The configuration of a [`UNet2DModel`](super::UNet2DModel) in the format of diffusers' `config.json`.

use serde::{Deserialize, Deserializer, Serialize};

pub use crate::config::ConfigError;
use crate::{
    config::{self, Format},
    layers::Activation,
};

const CLASS: &str = "UNet2DModel";

/// The diffusers release whose `config.json` and behaviour are reproduced.
pub const DIFFUSERS_VERSION: &str = "0.42.1";

/// Keys that diffusers' training scripts add; they do not affect the network.
const HARMLESS: [&str; 7] =
    ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"];

/// Height and width of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    /// The same height and width.
    Square(usize),
    /// `[height, width]`.
    Rectangle([usize; 2]),
}

impl SampleSize {
    /// `[height, width]`.
    pub fn dims(self) -> [usize; 2] {
        match self {
            Self::Square(n) => [n, n],
            Self::Rectangle(hw) => hw,
        }
    }
}

/// How the time is embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeEmbeddingType {
    /// Sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017).
    Positional,
    /// Sines and cosines of the time's logarithm at random frequencies (Song et al. 2021); the output is divided by the
    /// time.
    Fourier,
    /// One learned vector for each of `num_train_timesteps`.
    Learned,
}

/// A block of the down path. Each but the last halves the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)]
pub enum DownBlockType {
    /// Residual layers.
    #[serde(alias = "UNetResDownBlock2D")]
    DownBlock2D,
    /// Residual layers, each followed by attention.
    #[serde(alias = "UNetResAttnDownBlock2D")]
    AttnDownBlock2D,
    /// Residual layers, plus one that halves the resolution.
    #[serde(alias = "UNetResResnetDownsampleBlock2D")]
    ResnetDownsampleBlock2D,
    /// As in NCSN++ (Song et al. 2021): the filtered input image is added at every resolution.
    #[serde(alias = "UNetResSkipDownBlock2D")]
    SkipDownBlock2D,
    /// The same with attention.
    #[serde(alias = "UNetResAttnSkipDownBlock2D")]
    AttnSkipDownBlock2D,
    /// Residual layers whose normalization is conditioned on time; a fixed filter halves the resolution.
    #[serde(alias = "UNetResKDownBlock2D")]
    KDownBlock2D,
}

/// The middle block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlockType {
    /// A residual layer, attention, a residual layer.
    UNetMidBlock2D,
}

/// A block of the up path. Each but the last doubles the resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)]
pub enum UpBlockType {
    /// Residual layers.
    #[serde(alias = "UNetResUpBlock2D")]
    UpBlock2D,
    /// Residual layers, each followed by attention.
    #[serde(alias = "UNetResAttnUpBlock2D")]
    AttnUpBlock2D,
    /// Residual layers, plus one that doubles the resolution.
    #[serde(alias = "UNetResResnetUpsampleBlock2D")]
    ResnetUpsampleBlock2D,
    /// As in NCSN++: every resolution adds to the output image.
    #[serde(alias = "UNetResSkipUpBlock2D")]
    SkipUpBlock2D,
    /// The same with attention.
    #[serde(alias = "UNetResAttnSkipUpBlock2D")]
    AttnSkipUpBlock2D,
    /// Residual layers whose normalization is conditioned on time; a fixed filter doubles the resolution.
    #[serde(alias = "UNetResKUpBlock2D")]
    KUpBlock2D,
}

/// How blocks with attention change the resolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResampleType {
    /// A convolution.
    #[default]
    Conv,
    /// A residual layer.
    Resnet,
}

/// How the time embedding is applied in a residual layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added between the two convolutions.
    Default,
    /// As scale and shift of the second normalization (Dhariwal & Nichol 2021).
    ScaleShift,
}

/// How the class is embedded, unless by a learned table with `num_class_embeds` entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassEmbedType {
    /// Like the time.
    Timestep,
    /// The class is already an embedding: [`EMBEDDING`](crate::conditions::EMBEDDING).
    Identity,
}

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNet2DConfig {
    /// Size of the training images; other sizes are supported too.
    pub sample_size: Option<SampleSize>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether to map the input from `0..1` to `-1..1` first.
    pub center_input_sample: bool,
    /// How the time is embedded.
    pub time_embedding_type: TimeEmbeddingType,
    /// Width of the time embedding; by default four times the first of `block_out_channels`.
    pub time_embedding_dim: Option<usize>,
    /// Positional embedding: offset of the frequencies' exponent.
    pub freq_shift: f64,
    /// Positional embedding: whether cosines come first.
    pub flip_sin_to_cos: bool,
    /// The blocks of the down path.
    pub down_block_types: Vec<DownBlockType>,
    /// The middle block, if any.
    pub mid_block_type: Option<MidBlockType>,
    /// The blocks of the up path, from the lowest resolution.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels at each resolution, from the highest.
    pub block_out_channels: Vec<usize>,
    /// Residual layers in each block of the down path; the up path has one more.
    pub layers_per_block: usize,
    /// Divisor of the outputs of the middle block's layers.
    pub mid_block_scale_factor: f64,
    /// Zero padding of convolutions that halve the resolution; 0 means one row and column at the bottom and right.
    pub downsample_padding: usize,
    /// How `AttnDownBlock2D` halves the resolution.
    #[serde(deserialize_with = "null_is_default")]
    pub downsample_type: ResampleType,
    /// How `AttnUpBlock2D` doubles the resolution.
    #[serde(deserialize_with = "null_is_default")]
    pub upsample_type: ResampleType,
    /// Dropout probability of residual layers in training.
    pub dropout: f64,
    /// Activation of the residual layers.
    pub act_fn: Activation,
    /// Channels per attention head; null means a single head.
    pub attention_head_dim: Option<usize>,
    /// Groups of the group normalizations. May be null if no block needs it.
    pub norm_num_groups: Option<usize>,
    /// Groups of the normalization before the middle block's attention. If null, `norm_num_groups` with
    /// `resnet_time_scale_shift = "default"`, otherwise no normalization.
    pub attn_norm_num_groups: Option<usize>,
    /// Added to the variance in normalizations.
    pub norm_eps: f64,
    /// How the time embedding is applied in a residual layer.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the middle block has attention.
    pub add_attention: bool,
    /// How the class is embedded, unless by a table.
    pub class_embed_type: Option<ClassEmbedType>,
    /// Entries of the class embedding table, if there is one.
    pub num_class_embeds: Option<usize>,
    /// Entries of the time embedding table, if `time_embedding_type` is `learned`.
    pub num_train_timesteps: Option<usize>,
}

impl Default for UNet2DConfig {
    fn default() -> Self {
        use {DownBlockType as Down, UpBlockType as Up};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: vec![
                Down::DownBlock2D,
                Down::AttnDownBlock2D,
                Down::AttnDownBlock2D,
                Down::AttnDownBlock2D,
            ],
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            up_block_types: vec![Up::AttnUpBlock2D, Up::AttnUpBlock2D, Up::AttnUpBlock2D, Up::UpBlock2D],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            dropout: 0.0,
            act_fn: Activation::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: Some(32),
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

impl UNet2DConfig {
    /// Parses `config.json` and [validates](Self::validate) it. Keys that start with an underscore are metadata of the
    /// program that wrote the file and are ignored, except `_class_name`.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: CLASS, harmless: &HARMLESS, fixed: &[] };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, CLASS)
    }

    /// Width of the time embedding.
    pub fn time_width(&self) -> usize {
        match self.time_embedding_dim {
            Some(width) if width > 0 => width,
            _ => 4 * self.block_out_channels.first().copied().unwrap_or(0),
        }
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
