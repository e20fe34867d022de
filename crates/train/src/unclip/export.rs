//! The stages as models: for previews, and as folders.

use std::path::Path;

use serde_json::{Map, Value, json};
use tweedie_hub::{
    Extras, Model, SamplingDefaults, SchedulerConfig, UnClip, UnClipParts,
    model::{StagePart, save_stage},
    weights::Precision,
};
use tweedie_models::PriorTransformer;

use super::{DecoderModel, Frozen, Stages};
use crate::{
    config::RunConfig, diffusion::Output, error::TrainError, event::Summary, export::recorded, task::TaskKind,
};

/// Default number of steps of the prior and the decoder.
const STEPS: usize = 25;

/// The `UnCLIPScheduler` of a stage, which clamps clean samples to −`range`..`range`.
pub(super) fn scheduler(
    train_steps: usize,
    output: Output,
    learned: bool,
    range: f64,
    model: &Path,
) -> Result<SchedulerConfig, TrainError> {
    let text = json!({
        "_class_name": "UnCLIPScheduler",
        "beta_schedule": "squaredcos_cap_v2",
        "clip_sample": true,
        "clip_sample_range": range,
        "num_train_timesteps": train_steps,
        "prediction_type": if output == Output::X0 { "sample" } else { "epsilon" },
        "variance_type": if learned { "learned_range" } else { "fixed_small_log" },
    });
    Ok(SchedulerConfig::from_json(&text.to_string(), &model.join("scheduler_config.json"))?)
}

fn own_scheduler(config: &RunConfig, model: &Path) -> Result<SchedulerConfig, TrainError> {
    let range = if config.task == TaskKind::Prior { config.prior.range } else { 1.0 };
    let diffusion = &config.diffusion;
    scheduler(diffusion.train_steps, diffusion.parameterization, diffusion.learned_range(), range, model)
}

fn extras(config: &RunConfig) -> Extras {
    let sampling = SamplingDefaults {
        steps: Some(STEPS),
        guidance: Some(config.text.guidance),
        ..SamplingDefaults::default()
    };
    Extras { sampling, ..Extras::default() }
}

/// The same with what people may want to know, and a checksum of the CLIP that it belongs to.
fn told(config: &RunConfig, frozen: &Frozen, summary: &Summary) -> Extras {
    let training: [(&str, Value); 6] = [
        ("steps", json!(summary.step)),
        ("images", json!(summary.images)),
        ("seconds", json!(summary.elapsed_s)),
        ("loss", json!(summary.loss)),
        (super::parts::CLIP, json!(frozen.fingerprint())),
        ("config", recorded(config)),
    ];
    let training = training.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>();
    Extras { training, ..extras(config) }
}

/// The prior, for previews.
///
/// # Errors
/// If the scheduler is invalid.
pub(crate) fn prior_model(
    prior: PriorTransformer,
    frozen: &Frozen,
    statistics: [&[f32]; 2],
    config: &RunConfig,
) -> Result<Model, TrainError> {
    let texts = vec![frozen.clip().text.clone()];
    let scheduler = own_scheduler(config, &config.run.out)?;
    Ok(Model::of_prior(Box::new(prior), texts, statistics, scheduler, extras(config)))
}

/// Writes the prior to the folder `summary.model`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn export_prior(
    prior: &PriorTransformer,
    frozen: &Frozen,
    config: &RunConfig,
    summary: &Summary,
) -> Result<(), TrainError> {
    let scheduler = own_scheduler(config, &summary.model)?;
    let extras = told(config, frozen, summary);
    let stage = StagePart { network: prior, scheduler: &scheduler, extras: &extras };
    Ok(save_stage(&summary.model, stage, Precision::F32)?)
}

/// The decoder, for previews: it makes variations of images.
///
/// # Errors
/// If the scheduler is invalid.
pub(crate) fn decoder_model(
    model: DecoderModel,
    frozen: &Frozen,
    config: &RunConfig,
) -> Result<Model, TrainError> {
    let clip = frozen.clip();
    let unclip = UnClip {
        prior: None,
        images: Some(clip.images.clone()),
        projection: model.text_proj,
        enlarger: None,
        last: None,
    };
    let texts = vec![clip.text.clone()];
    let scheduler = own_scheduler(config, &config.run.out)?;
    Ok(Model::of_decoder(Box::new(model.unet), texts, unclip, scheduler, extras(config)))
}

/// Writes the decoder with the other stages to the folder `summary.model`.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn export_decoder(
    model: &DecoderModel,
    frozen: &Frozen,
    stages: &Stages,
    config: &RunConfig,
    summary: &Summary,
) -> Result<(), TrainError> {
    let parts = UnClipParts {
        decoder: &model.unet,
        scheduler: &own_scheduler(config, &summary.model)?,
        projection: &model.text_proj,
        text: &frozen.clip().text,
        images: Some(&frozen.clip().images),
        prior: stages.prior.as_ref().map(super::parts::Stage::part),
        enlarger: stages.enlarger.as_ref().map(super::parts::Stage::part),
        last: None,
        extras: &told(config, frozen, summary),
    };
    Ok(parts.save(&summary.model, Precision::F32)?)
}
