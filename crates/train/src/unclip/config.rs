//! The tables `[unclip]` and `[prior]`, and the networks of them and `[model]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tweedie_core::bound::ReverseVariance;
use tweedie_models::{
    ClipTextConfig, EmbeddingProjectionConfig, PriorConfig, UNet2DConditionConfig,
    unet::SampleSize,
    unet_condition::{
        CrossClassEmbedType, CrossDownBlockType, CrossMidBlockType, CrossUpBlockType, PerBlock,
    },
};

use crate::{
    config::RunConfig,
    diffusion::{DiffusionConfig, Output, Process},
    error::TrainError,
    model::{CompactUNet, ModelConfig, nulls},
    task::TaskKind,
};

/// The other stages of DALL·E 2, and what its decoder reads of an embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UnClipConfig {
    /// The finished CLIP, whose embeddings are sampled or read: its folder, or that of the run that trained it.
    pub clip: PathBuf,
    /// For the decoder: the finished prior, or the run that trained it. Without it, the model only makes variations of images.
    pub prior: PathBuf,
    /// For the decoder: a model that enlarges its images, trained with `super_resolution.blind`, or the run that trained it.
    /// Without it, the results have the size of the decoder's images.
    pub enlarger: PathBuf,
    /// For the decoder: number of tokens that an embedding becomes, before those of the text, 1 to 64.
    pub tokens: usize,
    /// For the decoder: width of these tokens.
    pub width: usize,
    /// For the decoder: probability, `0..=1`, of a learned embedding instead of the image's, for guidance (Ho & Salimans 2022,
    /// arXiv:2207.12598).
    pub dropout: f64,
}

impl Default for UnClipConfig {
    fn default() -> Self {
        Self {
            clip: PathBuf::new(),
            prior: PathBuf::new(),
            enlarger: PathBuf::new(),
            tokens: 4,
            width: 128,
            dropout: 0.1,
        }
    }
}

/// The transformer that samples embeddings for texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PriorTable {
    /// Number of attention heads.
    pub heads: usize,
    /// Width of a head; the network is `heads` times as wide.
    pub head_width: usize,
    /// Number of layers, at least 1.
    pub layers: usize,
    /// In sampling, clean standardized embeddings are clamped to −`range`..`range`.
    pub range: f64,
}

impl Default for PriorTable {
    fn default() -> Self {
        Self { heads: 4, head_width: 48, layers: 6, range: 5.0 }
    }
}

/// The keys of `[text]` that follow from CLIP.
const OF_CLIP: [&str; 6] = ["vae", "vocabulary", "tokens", "width", "layers", "heads"];

impl UnClipConfig {
    /// Checks all values, and whether the rest of `config` suits this task.
    pub(crate) fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        if self.clip.as_os_str().is_empty() {
            return Err(TrainError::config(
                "unclip.clip",
                "\"\"",
                "the folder of CLIP, or of its run (--clip)",
            ));
        }
        config.text.only_without(&OF_CLIP, "this follows from CLIP (unclip.clip)")?;
        config.text.check_texts()?;
        check_process(&config.diffusion)?;
        config.loss.check(&config.diffusion)?;
        if config.augment.has_labels() {
            let found = config.augment.edm.p.to_string();
            let expected = "0, because this network has no input for augmentation labels";
            return Err(TrainError::config("augment.edm.p", found, expected));
        }
        let variance = config.diffusion.variance;
        match config.task {
            TaskKind::Prior => {
                let usual = Self { clip: self.clip.clone(), ..Self::default() };
                if *self != usual {
                    let expected = "only the key clip, because the others are the decoder's";
                    return Err(TrainError::config("unclip", "given", expected));
                }
                if variance != ReverseVariance::FixedSmall {
                    let found = config.diffusion.scheduler_config()["variance_type"].to_string();
                    return Err(TrainError::config("diffusion.variance", found, "fixed-small for a prior"));
                }
                let range = config.prior.range;
                if !(range > 0.0 && range.is_finite()) {
                    return Err(TrainError::config("prior.range", range, "a value > 0"));
                }
                config.prior.network(&ClipTextConfig::default()).map(drop)
            }
            _ => {
                for (key, value, most) in
                    [("unclip.tokens", self.tokens, 64), ("unclip.width", self.width, 1 << 16)]
                {
                    if !(1..=most).contains(&value) {
                        return Err(TrainError::config(key, value, format!("1 to {most}")));
                    }
                }
                if !(0.0..=1.0).contains(&self.dropout) {
                    return Err(TrainError::config("unclip.dropout", self.dropout, "a probability in 0..=1"));
                }
                config.text.only_without(&["prompts"], "previews of a decoder are variations of images")?;
                config.text.only_without(&["latents"], "a decoder makes pixels")?;
                if variance != ReverseVariance::LearnedRange {
                    let found = config.diffusion.scheduler_config()["variance_type"].to_string();
                    let expected =
                        "learned-range, because diffusers' UnCLIPPipeline expects variances of its decoder";
                    return Err(TrainError::config("diffusion.variance", found, expected));
                }
                self.decoder(&config.model, config.data.size).map(drop)
            }
        }
    }

    /// The decoder for images of `size` pixels.
    ///
    /// # Errors
    /// [`TrainError::Config`] or [`TrainError::Model`] naming the key.
    pub(crate) fn decoder(
        &self,
        model: &ModelConfig,
        size: usize,
    ) -> Result<UNet2DConditionConfig, TrainError> {
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(format!("model: {e}"));
        let base = match model {
            ModelConfig::Compact(compact) => compact.decoder()?,
            ModelConfig::UNet(table) => {
                let value = nulls(serde_json::to_value(table).unwrap_or_default());
                UNet2DConditionConfig::from_json(&value.to_string()).map_err(wrong)?
            }
        };
        let unet = UNet2DConditionConfig {
            sample_size: Some(SampleSize::Square(size)),
            in_channels: 3,
            // Twice as many, for the variances.
            out_channels: 6,
            cross_attention_dim: PerBlock::All(self.width),
            class_embed_type: Some(CrossClassEmbedType::Identity),
            num_class_embeds: None,
            ..base
        };
        unet.validate().map_err(wrong)?;
        let stride = 1usize << (unet.block_out_channels.len() - 1);
        if !size.is_multiple_of(stride) {
            let expected =
                format!("a multiple of {stride}, because the network halves the resolution that often");
            return Err(TrainError::config("data.size", size, expected));
        }
        Ok(unet)
    }

    /// What a decoder reads of embeddings of width `width`.
    pub(crate) fn projection(
        &self,
        width: usize,
        decoder: &UNet2DConditionConfig,
    ) -> EmbeddingProjectionConfig {
        EmbeddingProjectionConfig {
            clip_extra_context_tokens: self.tokens,
            clip_embeddings_dim: width,
            time_embed_dim: decoder.time_width(),
            cross_attention_dim: self.width,
        }
    }
}

impl PriorTable {
    /// The network for the embeddings and texts of this encoder.
    ///
    /// # Errors
    /// [`TrainError::Model`] naming the key.
    pub(crate) fn network(&self, text: &ClipTextConfig) -> Result<PriorConfig, TrainError> {
        let prior = PriorConfig {
            num_attention_heads: self.heads,
            attention_head_dim: self.head_width,
            num_layers: self.layers,
            embedding_dim: text.projection_dim,
            num_embeddings: text.max_position_embeddings,
            ..PriorConfig::default()
        };
        prior.validate().map_err(|e| TrainError::Model(format!("prior: {e}")))?;
        Ok(prior)
    }
}

/// The process must be that of an `UnCLIPScheduler`.
fn check_process(diffusion: &DiffusionConfig) -> Result<(), TrainError> {
    diffusion.check()?;
    let name = |value: String| value.to_lowercase();
    if diffusion.schedule != Process::SquaredCosine {
        let found = name(format!("{:?}", diffusion.schedule));
        let expected = "squared-cosine, the only one of an UnCLIPScheduler";
        return Err(TrainError::config("diffusion.schedule", found, expected));
    }
    if !matches!(diffusion.parameterization, Output::Eps | Output::X0) {
        let found = name(format!("{:?}", diffusion.parameterization));
        let expected = "x0 or eps, as an UnCLIPScheduler has";
        return Err(TrainError::config("diffusion.parameterization", found, expected));
    }
    match diffusion.zero_terminal_snr {
        true => {
            let expected = "false, because an UnCLIPScheduler does not have it";
            Err(TrainError::config("diffusion.zero_terminal_snr", true, expected))
        }
        false => Ok(()),
    }
}

impl CompactUNet {
    /// The U-Net whose blocks attend to tokens and pixels at once (Nichol et al. 2021, arXiv:2112.10741), where
    /// [`CompactUNet::unet`] has self-attention.
    fn decoder(&self) -> Result<UNet2DConditionConfig, TrainError> {
        let base = self.condition_unet()?;
        if self.head_channels == 0 {
            return Err(TrainError::config("model.head_channels", 0, "the width of a head, at least 1"));
        }
        let down = |kind: &CrossDownBlockType| match kind {
            CrossDownBlockType::CrossAttnDownBlock2D => CrossDownBlockType::SimpleCrossAttnDownBlock2D,
            _ => CrossDownBlockType::ResnetDownsampleBlock2D,
        };
        let up = |kind: &CrossUpBlockType| match kind {
            CrossUpBlockType::CrossAttnUpBlock2D => CrossUpBlockType::SimpleCrossAttnUpBlock2D,
            _ => CrossUpBlockType::ResnetUpsampleBlock2D,
        };
        Ok(UNet2DConditionConfig {
            down_block_types: base.down_block_types.iter().map(down).collect(),
            mid_block_type: Some(CrossMidBlockType::UNetMidBlock2DSimpleCrossAttn),
            up_block_types: base.up_block_types.iter().map(up).collect(),
            // The number of channels of a head in these blocks.
            attention_head_dim: PerBlock::All(self.head_channels),
            use_linear_projection: false,
            ..base
        })
    }
}
