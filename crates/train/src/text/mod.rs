//! Training a latent diffusion model that reads texts: a U-Net and the text encoder that it reads, jointly, in
//! the latents of a finished autoencoder (Rombach et al. 2022, arXiv:2112.10752).

mod batches;
mod config;
mod export;
mod latents;
mod preview;
mod vae;

use burn::{module::Module, tensor::Tensor};
use tweedie_hub::ClipTokenizer;
use tweedie_models::{
    ClipTextModel, Condition, InputError, Mode, Network, UNet2DConditionModel, params::settle,
};
use tweedie_ops::Device;

use crate::{config::RunConfig, error::TrainError};

pub use config::{LatentConfig, TextConfig};

pub(crate) use batches::{TextBatch, TextBatches, tokenizer};
pub(crate) use export::export;
pub(crate) use latents::Latents;
pub(crate) use preview::samples;
pub(crate) use vae::Vae;

/// What is trained.
#[derive(Module, Debug)]
pub(crate) struct TextModel {
    /// Denoises latents.
    pub unet: UNet2DConditionModel,
    /// Reads texts.
    pub text_encoder: ClipTextModel,
}

impl TextModel {
    /// With initial weights, for latents of `shape` (`[C, H, W]`) and a tokenizer.
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
        let (unet, text) = (config.text.unet(&config.model, shape)?, config.text.encoder(tokenizer));
        let seed = config.run.seed;
        Ok(settle(Self {
            unet: UNet2DConditionModel::new(&unet, seed, device).map_err(wrong)?,
            text_encoder: ClipTextModel::new(&text, seed, device).map_err(wrong)?,
        }))
    }

    /// The features of equally long texts, `[B, tokens, width]`.
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
        let condition = Condition { text: Some(self.encode(texts).map_err(wrong)?), ..Condition::default() };
        self.unet.check(x.dims(), times, &condition).map_err(wrong)?;
        Ok(self.unet.forward(x, times, &condition, mode))
    }
}

/// The tokens of a text as the encoder reads it: begun, cut to `length`, ended and filled up.
pub(crate) fn tokens(tokenizer: &ClipTokenizer, text: &str, length: usize) -> Vec<u32> {
    let mut tokens = vec![tokenizer.begin];
    tokens.extend(tokenizer.encode(text).into_iter().take(length.saturating_sub(2)));
    tokens.push(tokenizer.end);
    tokens.resize(length, tokenizer.pad);
    tokens
}
