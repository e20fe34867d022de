//! Trains the stages of DALL·E 2 (Ramesh et al. 2022, arXiv:2204.06125) for a finished CLIP: the prior, which samples embeddings
//! of images for texts, and the decoder, which makes images of embeddings.

mod clip;
mod config;
mod export;
mod parts;

use burn::{module::Module, tensor::Tensor};
use tweedie_models::{
    Conditions, EmbeddingProjection, Entry, InputError, Mode, Network, PriorTransformer,
    UNet2DConditionModel,
    conditions::{EMBEDDING, LENGTHS, POOLED, TEXT},
    params::settle,
};
use tweedie_ops::{Batch, Device, from_host};

use crate::{config::RunConfig, error::TrainError};

pub use config::{PriorTable, UnClipConfig};

pub(crate) use clip::Frozen;
pub(crate) use export::{decoder_model, export_decoder, export_prior, prior_model};
pub(crate) use parts::Stages;

fn wrong(e: impl std::fmt::Display) -> TrainError {
    TrainError::Model(e.to_string())
}

/// The prior in training.
#[derive(Module, Debug)]
pub(crate) struct PriorModel {
    pub prior: PriorTransformer,
    #[module(skip)]
    frozen: Frozen,
}

impl PriorModel {
    /// Creates it with initial weights, for embeddings with this mean and standard deviation.
    ///
    /// # Errors
    /// If the configuration does not describe a network.
    pub fn new(
        config: &RunConfig,
        frozen: &Frozen,
        [mean, std]: [&[f32]; 2],
        device: &Device,
    ) -> Result<Self, TrainError> {
        let network = config.prior.network(frozen.text())?;
        let prior = PriorTransformer::new(&network, config.run.seed, device).map_err(wrong)?;
        let prior = prior.with_statistics(mean, std).with_context(config.run.context());
        Ok(settle(Self { prior, frozen: frozen.clone() }))
    }

    /// The raw output for standardized embeddings `x`, `[B, width]`, and texts of equal length.
    pub fn forward(
        &self,
        x: Batch,
        times: &[f32],
        texts: &[Vec<u32>],
        mode: Mode,
    ) -> Result<Batch, TrainError> {
        let text = self.frozen.read(texts, &x)?;
        let conditions = Conditions::none()
            .with(TEXT, Entry::Tokens(text.tokens))
            .with(POOLED, Entry::Vectors(text.pooled))
            .with(LENGTHS, Entry::Indices(text.lengths));
        self.prior.check(x.len(), x.shape(), times, &conditions).map_err(wrong)?;
        Ok(Network::forward(&self.prior, x, times, &conditions, mode))
    }
}

/// The decoder in training.
#[derive(Module, Debug)]
pub(crate) struct DecoderModel {
    pub unet: UNet2DConditionModel,
    /// What it reads of an embedding and a text.
    pub text_proj: EmbeddingProjection,
    #[module(skip)]
    frozen: Frozen,
}

/// What the decoder reads of some rows.
pub(crate) struct Seen<'a> {
    /// The clean images, `[B, 3, H, W]` in −1..1.
    pub images: &'a [f32],
    /// Which rows get no embedding.
    pub dropped: &'a [bool],
    /// One text per row, all of equal length.
    pub texts: &'a [Vec<u32>],
}

impl DecoderModel {
    /// Creates it with initial weights.
    ///
    /// # Errors
    /// If the configuration does not describe networks.
    pub fn new(config: &RunConfig, frozen: &Frozen, device: &Device) -> Result<Self, TrainError> {
        let (table, seed) = (&config.unclip, config.run.seed);
        let unet = table.decoder(&config.model, config.data.size)?;
        let projection = table.projection(frozen.text().projection_dim, &unet);
        Ok(settle(Self {
            unet: UNet2DConditionModel::new(&unet, seed, device)
                .map_err(wrong)?
                .with_context(config.run.context()),
            text_proj: EmbeddingProjection::new(&projection, seed, device),
            frozen: frozen.clone(),
        }))
    }

    /// The raw output for noisy images `x`.
    pub fn forward(&self, x: Batch, times: &[f32], seen: &Seen<'_>, mode: Mode) -> Result<Batch, TrainError> {
        let (rows, size) = (x.len(), x.shape().axes().first().copied().unwrap_or(1));
        let text = self.frozen.read(seen.texts, &x)?;
        let found = self.frozen.embed(seen.images, rows, size)?;
        let constant = |x: Tensor<2>, tracked: bool| if tracked { x.autodiff() } else { x };
        let tracked = x.rows().is_autodiff();
        let dropped: Vec<f32> = seen.dropped.iter().map(|dropped| f32::from(u8::from(*dropped))).collect();
        let dropped = constant(from_host(dropped, [rows, 1], &found.device()), tracked);
        let found = constant(found, tracked);
        let none = self.text_proj.no_image() - found.clone();
        let image = found + none * dropped;
        let made = self.text_proj.project(image, text.pooled, text.tokens).map_err(wrong)?;
        let added = self.text_proj.config().clip_extra_context_tokens;
        let lengths = text.lengths.iter().map(|length| added + length).collect();
        let conditions = Conditions::none()
            .with(TEXT, Entry::Tokens(made.tokens))
            .with(LENGTHS, Entry::Indices(lengths))
            .with(EMBEDDING, Entry::Vectors(made.embedding));
        let checked: Result<(), InputError> = Network::check(&self.unet, rows, x.shape(), times, &conditions);
        checked.map_err(wrong)?;
        Ok(Network::forward(&self.unet, x, times, &conditions, mode))
    }
}
