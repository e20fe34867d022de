//! Samples of prompts during training, with the run's own networks and schedule.

use burn::tensor::{Device, Tensor};
use tweedie_core::{Denoiser, Halt, Level, Parameterization, Prediction, lin, sample};
use tweedie_data::Image;
use tweedie_models::{Condition, NetworkDenoiser, UNet2DConditionModel};
use tweedie_ops::{Batch, RowNoise};

use super::{TextBatches, TextModel, Vae};
use crate::{
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, key},
    preview::plan,
};

/// Draws `run.preview_images` samples with about `run.preview_steps` steps each, always from the same noise. Sample `i` has
/// prompt `i mod prompts`.
pub(crate) fn samples(
    config: &RunConfig,
    model: &TextModel,
    batches: &TextBatches,
    vae: &Vae,
    device: &Device,
) -> Result<Vec<Image>, TrainError> {
    let (run, text) = (&config.run, &config.text);
    let schedule = config.diffusion.schedule()?;
    let (plan, solver) = plan(schedule, config.diffusion.shift, run.preview_steps)?;
    let [c, h, w] = batches.shape();
    let wrong = |e: tweedie_models::InputError| TrainError::Model(e.to_string());
    let null = model.encode(&[batches.tokens("")]).map_err(wrong)?;
    let prompts = batches.prompts();
    let mut images = Vec::with_capacity(run.preview_images);
    for start in (0..run.preview_images).step_by(run.batch) {
        let rows: Vec<usize> = (start..(start + run.batch).min(run.preview_images)).collect();
        let prompt = |row: &usize| batches.tokens(&prompts[row % prompts.len()]);
        let given = model.encode(&rows.iter().map(prompt).collect::<Vec<_>>()).map_err(wrong)?;
        let guided = Guided {
            unet: &model.unet,
            parameterization: config.parameterization(),
            both: Tensor::cat(vec![given, null.clone().repeat_dim(0, rows.len())], 0),
            // Up to 1 is none, as when sampling.
            scale: text.guidance.max(1.0),
        };
        let seeds = rows.iter().map(|&i| key(run.seed, Purpose::Preview, i as u64)).collect();
        let mut noise = RowNoise(seeds);
        // The draws of a plan start at 0.
        let x = noise.tensor([rows.len(), c, h, w], u64::MAX, device).mul_scalar(plan.start_std);
        let x = sample(&plan, &*solver, &guided, Batch(x), &mut noise).finish()?;
        images.extend(vae.decode(x.0)?);
    }
    Ok(images)
}

/// `F_null + scale·(F_given − F_null)` (Ho & Salimans 2022, arXiv:2207.12598).
struct Guided<'a> {
    unet: &'a UNet2DConditionModel,
    parameterization: Parameterization,
    /// The features of the prompts, then of the empty text, `[2·B, tokens, width]`.
    both: Tensor<3>,
    scale: f64,
}

impl Denoiser<Batch<4>> for Guided<'_> {
    fn denoise(&self, x: &Batch<4>, at: Level) -> Result<Prediction<Batch<4>>, Halt> {
        let rows = x.0.dims()[0];
        let condition = Condition { text: Some(self.both.clone()), ..Condition::default() };
        let network = NetworkDenoiser::new(self.unet, self.parameterization, condition);
        let (raw, _) = network.raw(&Tensor::cat(vec![x.0.clone(), x.0.clone()], 0), at)?;
        let given = Batch(raw.clone().narrow(0, 0, rows));
        let null = Batch(raw.narrow(0, rows, rows));
        let raw = lin![self.scale => &given, 1.0 - self.scale => &null];
        Ok(self.parameterization.read(x, &raw, at))
    }
}
