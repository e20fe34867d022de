//! The `[text]` table, and the networks of it and `[model]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tweedie_data::CaptionConfig;
use tweedie_hub::{ClipTokenizer, tokenizer::LEAST_ENTRIES};
use tweedie_models::{
    ClipTextConfig, UNet2DConditionConfig, UNet3DConfig,
    unet::{SampleSize, TimeScaleShift},
    unet_3d::{DownBlock3DType, UpBlock3DType},
    unet_condition::{CrossDownBlockType, CrossUpBlockType, PerBlock},
};

use crate::{
    config::RunConfig,
    diffusion::Process,
    error::TrainError,
    model::{CompactUNet, ModelConfig, nulls},
    task::TaskKind,
};

/// Texts and latents of a text-to-image model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// The finished autoencoder: the folder of an `AutoencoderKL`, of a pipeline with one, or of the run that trained it.
    pub vae: PathBuf,
    /// Maximum size of the tokenizer's vocabulary, which is learned from the captions; at least 514.
    pub vocabulary: usize,
    /// Maximum length of a text in tokens, including begin and end, 3 to 1024.
    pub tokens: usize,
    /// Width of the text encoder, a multiple of `heads`.
    pub width: usize,
    /// Number of layers of the text encoder, at least 1.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Probability, `0..=1`, of an empty text instead of the caption, for guidance (Ho & Salimans 2022, arXiv:2207.12598).
    pub dropout: f64,
    /// Prompts of the previews, used in turn; if empty, captions of held-out images, or else of the first ones.
    pub prompts: Vec<String>,
    /// Guidance scale of previews, and default of the finished model; 1 means no guidance.
    pub guidance: f64,
    /// How captions are composed.
    pub captions: CaptionConfig,
    /// How images are encoded.
    pub latents: LatentConfig,
}

impl Default for TextConfig {
    fn default() -> Self {
        Self {
            vae: PathBuf::new(),
            vocabulary: 2048,
            tokens: 32,
            width: 128,
            layers: 4,
            heads: 4,
            dropout: 0.1,
            prompts: Vec::new(),
            guidance: 4.0,
            captions: CaptionConfig::default(),
            latents: LatentConfig::default(),
        }
    }
}

/// The `[text.latents]` table: images are encoded once, before training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatentConfig {
    /// Number of versions of each image, at least 1: the first is unchanged, the others are augmented by `[augment]`.
    pub variants: usize,
    /// Whether to draw latents from the autoencoder's posterior in each step instead of using its mean.
    pub sample: bool,
    /// Memory limit for all latents in MiB.
    pub cache_mb: usize,
}

impl Default for LatentConfig {
    fn default() -> Self {
        Self { variants: 1, sample: true, cache_mb: 4096 }
    }
}

impl TextConfig {
    /// Checks the values that only concern texts and latents.
    pub(crate) fn check_texts(&self) -> Result<(), TrainError> {
        let wrong =
            |key: &str, value: String, expected: &str| Err::<(), _>(TrainError::config(key, value, expected));
        for (key, value, least, most) in [
            ("text.vocabulary", self.vocabulary, LEAST_ENTRIES, 1 << 20),
            ("text.tokens", self.tokens, 3, 1024),
            ("text.heads", self.heads, 1, self.width),
            ("text.latents.variants", self.latents.variants, 1, 1 << 16),
        ] {
            if !(least..=most).contains(&value) {
                return wrong(key, value.to_string(), &format!("{least} to {most}"));
            }
        }
        if !(0.0..=1.0).contains(&self.dropout) {
            return wrong("text.dropout", self.dropout.to_string(), "a probability in 0..=1");
        }
        if !(self.guidance >= 0.0 && self.guidance.is_finite()) {
            return wrong("text.guidance", self.guidance.to_string(), "a finite value ≥ 0");
        }
        self.captions.validate()?;
        let text = ClipTextConfig { vocab_size: self.vocabulary, ..self.encoder_of(0) };
        text.validate().map_err(|e| TrainError::Model(format!("text: {e}")))
    }

    /// Checks that `keys`, which a task does not use, have their defaults.
    pub(crate) fn only_without(&self, keys: &[&str], reason: &str) -> Result<(), TrainError> {
        let of = |config: &Self| toml::Table::try_from(config).unwrap_or_default();
        let (own, usual) = (of(self), of(&Self::default()));
        match keys.iter().find(|key| own.get(**key) != usual.get(**key)) {
            Some(key) => {
                let found = own.get(*key).map(ToString::to_string).unwrap_or_default();
                Err(TrainError::config(format!("text.{key}"), found, format!("nothing: {reason}")))
            }
            None => Ok(()),
        }
    }

    /// Checks all values, and whether the rest of `config` suits this task.
    pub(crate) fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        let wrong =
            |key: &str, value: String, expected: &str| Err::<(), _>(TrainError::config(key, value, expected));
        self.check_texts()?;
        if config.augment.has_labels() {
            let found = config.augment.edm.p.to_string();
            return wrong(
                "augment.edm.p",
                found,
                "0, because this network has no input for augmentation labels",
            );
        }
        if matches!(config.diffusion.schedule, Process::Flow | Process::Edm | Process::Sigmoid) {
            let found = format!("{:?}", config.diffusion.schedule).to_lowercase();
            return wrong("diffusion.schedule", found, "linear, scaled-linear or squared-cosine");
        }
        // The number of channels follows from the autoencoder.
        let learned = config.diffusion.learned_range();
        match config.task {
            TaskKind::TextToVideo => self.unet_3d(&config.model, [4, 1, 1], learned).map(drop),
            _ => self.unet(&config.model, [4, 1, 1], learned).map(drop),
        }
    }

    fn encoder_of(&self, end: u32) -> ClipTextConfig {
        ClipTextConfig {
            vocab_size: end as usize + 1,
            hidden_size: self.width,
            intermediate_size: 4 * self.width,
            projection_dim: self.width,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            max_position_embeddings: self.tokens,
            eos_token_id: end,
            ..ClipTextConfig::default()
        }
    }

    /// The text encoder for a tokenizer.
    pub(crate) fn encoder(&self, tokenizer: &ClipTokenizer) -> ClipTextConfig {
        ClipTextConfig { vocab_size: tokenizer.bound() as usize, ..self.encoder_of(tokenizer.end) }
    }

    /// The U-Net for latents of `shape` (`[C, H, W]`).
    ///
    /// # Errors
    /// [`TrainError::Config`] or [`TrainError::Model`] naming the key.
    pub(crate) fn unet(
        &self,
        model: &ModelConfig,
        [channels, height, width]: [usize; 3],
        learned_variance: bool,
    ) -> Result<UNet2DConditionConfig, TrainError> {
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(format!("model: {e}"));
        let base = match model {
            ModelConfig::Compact(compact) => compact.condition_unet()?,
            ModelConfig::UNet(table) => {
                let value = nulls(serde_json::to_value(table).unwrap_or_default());
                UNet2DConditionConfig::from_json(&value.to_string()).map_err(wrong)?
            }
        };
        let unet = UNet2DConditionConfig {
            sample_size: Some(if height == width {
                SampleSize::Square(height)
            } else {
                SampleSize::Rectangle([height, width])
            }),
            in_channels: channels,
            out_channels: if learned_variance { 2 * channels } else { channels },
            cross_attention_dim: PerBlock::All(self.width),
            ..base
        };
        if unet.class_embed_type.is_some() || unet.num_class_embeds.is_some() {
            let expected = "no classes, because this network is conditioned on text";
            return Err(TrainError::config("model.unet.num_class_embeds", "given", expected));
        }
        if unet.addition_embed_type.is_some() {
            let expected = "none, because a StableDiffusionPipeline only supports text";
            return Err(TrainError::config("model.unet.addition_embed_type", "given", expected));
        }
        unet.validate().map_err(wrong)?;
        Ok(unet)
    }
}

impl TextConfig {
    /// The U-Net for clips whose frames have latents of `shape` (`[C, H, W]`).
    ///
    /// # Errors
    /// [`TrainError::Config`] or [`TrainError::Model`] naming the key.
    pub(crate) fn unet_3d(
        &self,
        model: &ModelConfig,
        [channels, height, width]: [usize; 3],
        learned_variance: bool,
    ) -> Result<UNet3DConfig, TrainError> {
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(format!("model: {e}"));
        let base = match model {
            ModelConfig::Compact(compact) => compact.unet_3d()?,
            ModelConfig::UNet(table) => {
                let value = nulls(serde_json::to_value(table).unwrap_or_default());
                UNet3DConfig::from_json(&value.to_string()).map_err(wrong)?
            }
        };
        let unet = UNet3DConfig {
            sample_size: Some(match height == width {
                true => SampleSize::Square(height),
                false => SampleSize::Rectangle([height, width]),
            }),
            in_channels: channels,
            out_channels: if learned_variance { 2 * channels } else { channels },
            cross_attention_dim: self.width,
            ..base
        };
        unet.validate().map_err(wrong)?;
        Ok(unet)
    }
}

impl CompactUNet {
    /// The text-conditional U-Net for clips: [`Self::condition_unet`] in each frame, and layers over time.
    fn unet_3d(&self) -> Result<UNet3DConfig, TrainError> {
        let UNet2DConditionConfig { block_out_channels, .. } = self.condition_unet()?;
        let levels = block_out_channels.len();
        for (key, set) in [("model.dropout", self.dropout != 0.0), ("model.scale_shift", self.scale_shift)] {
            if set {
                let expected = "not set, because a UNet3DConditionModel does not have it";
                return Err(TrainError::config(key, "given", expected));
            }
        }
        if self.head_channels == 0 {
            return Err(TrainError::config("model.head_channels", 0, "the width of a head, at least 1"));
        }
        let attends = |level: usize| self.attention_levels.contains(&level);
        let down = |level: usize| match attends(level) {
            true => DownBlock3DType::CrossAttnDownBlock3D,
            false => DownBlock3DType::DownBlock3D,
        };
        let up = |level: usize| match attends(level) {
            true => UpBlock3DType::CrossAttnUpBlock3D,
            false => UpBlock3DType::UpBlock3D,
        };
        Ok(UNet3DConfig {
            down_block_types: (0..levels).map(down).collect(),
            up_block_types: (0..levels).rev().map(up).collect(),
            block_out_channels,
            layers_per_block: self.layers_per_block,
            norm_num_groups: self.norm_groups,
            attention_head_dim: self.head_channels,
            ..UNet3DConfig::default()
        })
    }

    /// The text-conditional U-Net, with transformers where [`CompactUNet::unet`] has self-attention.
    pub(crate) fn condition_unet(&self) -> Result<UNet2DConditionConfig, TrainError> {
        // All values are checked there.
        let plain = self.unet()?;
        let levels = plain.block_out_channels.len();
        if !self.mid_attention {
            let expected = "true, because the middle block needs attention to the text";
            return Err(TrainError::config("model.mid_attention", false, expected));
        }
        let attends = |level: usize| self.attention_levels.contains(&level);
        let heads = |channels: &usize| match self.head_channels {
            0 => 1,
            head => channels.div_ceil(head).max(1),
        };
        Ok(UNet2DConditionConfig {
            down_block_types: (0..levels)
                .map(|l| match attends(l) {
                    true => CrossDownBlockType::CrossAttnDownBlock2D,
                    false => CrossDownBlockType::DownBlock2D,
                })
                .collect(),
            up_block_types: (0..levels)
                .rev()
                .map(|l| match attends(l) {
                    true => CrossUpBlockType::CrossAttnUpBlock2D,
                    false => CrossUpBlockType::UpBlock2D,
                })
                .collect(),
            layers_per_block: PerBlock::All(self.layers_per_block),
            attention_head_dim: PerBlock::Each(plain.block_out_channels.iter().map(heads).collect()),
            use_linear_projection: true,
            dropout: self.dropout,
            norm_num_groups: Some(self.norm_groups),
            resnet_time_scale_shift: match self.scale_shift {
                true => TimeScaleShift::ScaleShift,
                false => TimeScaleShift::Default,
            },
            block_out_channels: plain.block_out_channels,
            ..UNet2DConditionConfig::default()
        })
    }
}
