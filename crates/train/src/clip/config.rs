//! The `[clip]` table and its networks.

use serde::{Deserialize, Serialize};
use tweedie_hub::ClipTokenizer;
use tweedie_models::{ClipTextConfig, ClipVisionConfig};

use crate::{config::RunConfig, error::TrainError, text::TextConfig};

/// The encoder of images of CLIP, and the loss. `[text]` says what the encoder of texts is; both give embeddings of its width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipConfig {
    /// Width and height of a patch in pixels; must divide `data.size`. Each patch is a token.
    pub patch: usize,
    /// Width of the encoder, a multiple of `heads`.
    pub width: usize,
    /// Number of layers, at least 1.
    pub layers: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// The temperature of the scores before the first step, 0.01 to 1; then it is learned. It never falls below 0.01.
    pub temperature: f64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self { patch: 4, width: 128, layers: 4, heads: 4, temperature: 0.07 }
    }
}

impl ClipConfig {
    /// Checks all values, and whether the rest of `config` suits this task.
    pub(crate) fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        let size = config.data.size;
        if self.patch == 0 || !size.is_multiple_of(self.patch) {
            let expected = format!("a divisor of data.size = {size}");
            return Err(TrainError::config("clip.patch", self.patch, expected));
        }
        if !(0.01..=1.0).contains(&self.temperature) {
            return Err(TrainError::config("clip.temperature", self.temperature, "0.01 to 1"));
        }
        if config.run.batch < 2 {
            let expected = "at least 2: each pair is told from the others of its pass";
            return Err(TrainError::config("run.batch", config.run.batch, expected));
        }
        let unused = ["vae", "dropout", "prompts", "guidance", "latents"];
        config.text.only_without(&unused, "the task clip does not use it")?;
        config.text.check_texts()?;
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(format!("clip: {e}"));
        self.encoder(&config.text, size).validate().map_err(wrong)
    }

    /// The encoder of images of `size` pixels.
    pub(crate) fn encoder(&self, text: &TextConfig, size: usize) -> ClipVisionConfig {
        ClipVisionConfig {
            hidden_size: self.width,
            intermediate_size: 4 * self.width,
            projection_dim: text.width,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            image_size: size,
            patch_size: self.patch,
            ..ClipVisionConfig::default()
        }
    }

    /// The encoder of texts.
    pub(crate) fn text_encoder(text: &TextConfig, tokenizer: &ClipTokenizer) -> ClipTextConfig {
        ClipTextConfig {
            architectures: vec!["CLIPTextModelWithProjection".into()],
            ..text.encoder(tokenizer)
        }
    }
}
