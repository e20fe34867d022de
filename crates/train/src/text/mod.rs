//! Trains text-to-image latent diffusion models: a U-Net and its text encoder, jointly, in the latents of a finished
//! autoencoder (Rombach et al. 2022, arXiv:2112.10752).

mod batches;
mod config;
mod export;
mod latents;
mod pairs;
mod vae;

use std::collections::HashSet;

use burn::{module::Module, tensor::Tensor};
use tweedie_data::{Dataset, Decode, NoCaption};
use tweedie_hub::ClipTokenizer;
use tweedie_models::{
    ClipTextModel, Conditions, Entry, ExecContext, InputError, Mode, UNet2DConditionModel, conditions::TEXT,
    params::settle,
};
use tweedie_ops::Device;

use crate::{config::RunConfig, error::TrainError};

pub use config::{LatentConfig, TextConfig};

pub(crate) use batches::{
    Clean, Part, TOKENIZER, TextBatch, TextBatches, checked_tokenizer, plain, tokenizer,
};
pub(crate) use export::{export, pipeline};
pub(crate) use latents::{LatentFile, Latents};
pub(crate) use pairs::{CaptionedBatch, CaptionedBatches};
pub(crate) use vae::Vae;

/// The trained networks.
#[derive(Module, Debug)]
pub(crate) struct TextModel {
    /// Denoises latents.
    pub unet: UNet2DConditionModel,
    /// Encodes texts.
    pub text_encoder: ClipTextModel,
}

impl TextModel {
    /// Creates it with initial weights, for latents of `shape` (`[C, H, W]`) and a tokenizer.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key.
    pub fn new(
        config: &RunConfig,
        shape: [usize; 3],
        tokenizer: &ClipTokenizer,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(e.to_string());
        let (unet, text) = (
            config.text.unet(&config.model, shape, config.diffusion.learned_range())?,
            config.text.encoder(tokenizer),
        );
        let seed = config.run.seed;
        Ok(settle(Self {
            unet: UNet2DConditionModel::new(&unet, seed, device).map_err(wrong)?,
            text_encoder: ClipTextModel::new(&text, seed, device).map_err(wrong)?,
        }))
    }

    /// The same, with calls of the U-Net in `context`.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.unet = self.unet.with_context(context);
        self
    }

    /// The features of texts of equal length, `[B, tokens, width]`.
    pub fn encode(&self, texts: &[Vec<u32>]) -> Result<Tensor<3>, InputError> {
        Ok(self.text_encoder.encode(texts, 0)?.last)
    }

    /// The raw output for latents `[B, C, H, W]`.
    pub fn forward(
        &self,
        x: Tensor<4>,
        times: &[f32],
        texts: &[Vec<u32>],
        mode: Mode,
    ) -> Result<Tensor<4>, TrainError> {
        let wrong = |e: InputError| TrainError::Model(e.to_string());
        let text = self.encode(texts).map_err(wrong)?;
        let conditions = Conditions::none().with(TEXT, Entry::Tokens(text));
        self.unet.config().check_input(x.dims(), times, &conditions).map_err(wrong)?;
        Ok(self.unet.forward(x, times, &conditions, mode))
    }
}

/// The items of `data` that a run uses, depending on `text.captions.missing`. A note about the others is added to
/// `notes`.
///
/// # Errors
/// If an image has no caption and `missing = "fail"`, or no image has one.
pub(crate) fn captioned<D: Decode>(
    config: &RunConfig,
    data: Dataset<D>,
    mut notes: Vec<String>,
) -> Result<(Dataset<D>, Vec<String>), TrainError> {
    let with = data.captioned();
    let missing = data.len() - with.len();
    if missing == 0 {
        return Ok((data, notes));
    }
    let noun = data.noun();
    let known: HashSet<&str> = with.names().collect();
    let without: Vec<&str> = data.names().filter(|name| !known.contains(name)).take(3).collect();
    let found =
        format!("{missing} of {} {noun} have no caption, for example {}", data.len(), without.join(", "));
    let says = match config.text.captions.missing {
        NoCaption::Fail => {
            let expected = "a caption for each: in metadata.csv, metadata.jsonl or captions.jsonl, or in a .txt file \
                            beside it; or text.captions.missing = \"skip\", \"class\" or \"empty\"";
            return Err(TrainError::config(
                "data.source",
                format!("{} ({found})", config.data.source),
                expected,
            ));
        }
        NoCaption::Skip if with.is_empty() => {
            let found = format!("{} (none of the {noun} has a caption)", config.data.source);
            return Err(TrainError::config("data.source", found, format!("{noun} with captions")));
        }
        NoCaption::Skip => "they are skipped",
        NoCaption::Class => "using the name of their class",
        NoCaption::Empty => "using an empty text",
    };
    notes.push(format!("{found}: {says}"));
    let skips = config.text.captions.missing == NoCaption::Skip;
    Ok((if skips { with } else { data }, notes))
}

/// The tokens of a text for the encoder: with a begin token, truncated to `length`, with an end token and padding.
pub(crate) fn tokens(tokenizer: &ClipTokenizer, text: &str, length: usize) -> Vec<u32> {
    let mut tokens = vec![tokenizer.begin];
    tokens.extend(tokenizer.encode(text).into_iter().take(length.saturating_sub(2)));
    tokens.push(tokenizer.end);
    tokens.resize(length, tokenizer.pad);
    tokens
}
