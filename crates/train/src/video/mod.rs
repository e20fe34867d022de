//! Trains text-to-video models: a U-Net that sees space and time, and its text encoder, in the latents that a finished
//! autoencoder for images has for each frame (Blattmann et al. 2023, arXiv:2304.08818).

mod latents;

use burn::{module::Module, tensor::Tensor};
use tweedie_data::{AugmentConfig, Source};
use tweedie_hub::ClipTokenizer;
use tweedie_models::{
    ClipTextModel, Conditions, Entry, ExecContext, InputError, Mode, Network, VideoUNet, conditions::TEXT,
    params::settle,
};
use tweedie_ops::{Batch, Device};

use crate::{config::RunConfig, error::TrainError};

pub(crate) use latents::ClipLatents;

/// Checks what the data and its augmentation must be.
///
/// # Errors
/// [`TrainError::Config`] naming the key.
pub(crate) fn check_source(config: &RunConfig) -> Result<(), TrainError> {
    if !matches!(config.data.source, Source::MovingEmoji | Source::Folder(_)) {
        let expected = "a folder of clips (--data DIR), or \"moving_emoji\"";
        return Err(TrainError::config("data.source", &config.data.source, expected));
    }
    if config.augment != AugmentConfig::default() {
        let expected = "no table [augment], which is for images";
        return Err(TrainError::config("augment", "given", expected));
    }
    Ok(())
}

/// The trained networks.
#[derive(Module, Debug)]
pub(crate) struct VideoModel {
    /// Denoises the latents of clips.
    pub unet: VideoUNet,
    /// Encodes texts.
    pub text_encoder: ClipTextModel,
}

impl VideoModel {
    /// Creates it with initial weights, for frames with latents of `shape` (`[C, H, W]`) and a tokenizer.
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
        let unet = config.text.unet_3d(&config.model, shape, config.diffusion.learned_range())?;
        let text = config.text.encoder(tokenizer);
        let seed = config.run.seed;
        Ok(settle(Self {
            unet: VideoUNet::new(&unet, seed, device).map_err(wrong)?,
            text_encoder: ClipTextModel::new(&text, seed, device).map_err(wrong)?,
        }))
    }

    /// The same, with calls of the U-Net in `context`.
    #[must_use]
    pub fn with_context(mut self, context: ExecContext) -> Self {
        self.unet = self.unet.with_context(context);
        self
    }

    /// The raw output for the latents of clips, `[B, C, F, H, W]`, and texts of equal length.
    pub fn forward(
        &self,
        x: Batch,
        times: &[f32],
        texts: &[Vec<u32>],
        mode: Mode,
    ) -> Result<Batch, TrainError> {
        let wrong = |e: InputError| TrainError::Model(e.to_string());
        let text: Tensor<3> = self.text_encoder.encode(texts, 0).map_err(wrong)?.last;
        let conditions = Conditions::none().with(TEXT, Entry::Tokens(text));
        self.unet.check(x.len(), x.shape(), times, &conditions).map_err(wrong)?;
        Ok(Network::forward(&self.unet, x, times, &conditions, mode))
    }
}
