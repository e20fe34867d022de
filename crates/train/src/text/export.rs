//! Exports the trained model as a diffusers folder.

use std::{path::Path, sync::Arc};

use serde_json::Value;
use tweedie_hub::{
    ClipTokenizer, Extras, Model, SamplingDefaults, SchedulerConfig, Speech, StableDiffusion, TextPart,
    weights::Precision,
};
use tweedie_models::{ClipTextModel, Network};
use tweedie_ops::Device;
use tweedie_pipe::Pipeline;

use super::Vae;
use crate::{
    config::RunConfig, diffusion::DiffusionConfig, error::TrainError, event::Summary, export::training,
    task::TaskKind,
};

/// Default number of solver steps for images, and for sounds.
const STEPS: [usize; 2] = [30, 10];

impl DiffusionConfig {
    /// The default scheduler of a latent model: a multistep solver if there is a signal at every level.
    fn latent_scheduler(&self) -> Value {
        let mut scheduler = self.scheduler_config();
        if let Some(entries) = scheduler.as_object_mut() {
            for key in ["clip_sample", "clip_sample_range"] {
                entries.remove(key);
            }
            // The multistep solver only needs to know of outputs that it ignores.
            if !self.learned_range() || self.zero_terminal_snr {
                entries.remove("variance_type");
            }
            entries.insert("timestep_spacing".into(), "trailing".into());
            // Has no effect with this spacing; diffusers warns about other values.
            entries.insert("steps_offset".into(), 1.into());
            if self.zero_terminal_snr {
                entries.insert("_class_name".into(), "DDIMScheduler".into());
                entries.insert("clip_sample".into(), false.into());
                entries.insert("set_alpha_to_one".into(), true.into());
            } else {
                entries.remove("rescale_betas_zero_snr");
                entries.insert("_class_name".into(), "DPMSolverMultistepScheduler".into());
                entries.insert("algorithm_type".into(), "dpmsolver++".into());
                entries.insert("solver_order".into(), 2.into());
            }
        }
        scheduler
    }
}

/// Writes the pipeline to the folder `summary.model`, with `tweedie.json`, which contains sampling defaults, what a model of
/// sounds can say, and the training configuration.
pub(crate) fn export(
    (unet, text_encoder): (&dyn Network, &ClipTextModel),
    vae: &Vae,
    tokenizer: &ClipTokenizer,
    config: &RunConfig,
    speech: Option<Speech>,
    summary: &Summary,
) -> Result<(), TrainError> {
    let extras = Extras { training: training(config, summary), speech, ..extras(config) };
    let scheduler = scheduler(config, &summary.model)?;
    let parts = StableDiffusion {
        vae: &**vae.codec(),
        unet,
        tokenizer,
        text_encoder,
        scheduler: &scheduler,
        extras: &extras,
    };
    Ok(parts.save(&summary.model, Precision::F32)?)
}

fn extras(config: &RunConfig) -> Extras {
    let steps = Some(STEPS[usize::from(config.task == TaskKind::TextToSound)]);
    let guidance = Some(config.text.guidance);
    let fps = (config.task == TaskKind::TextToVideo).then(|| config.data.window().fps);
    let sampling = SamplingDefaults { steps, guidance, fps, ..SamplingDefaults::default() };
    Extras { sampling, ..Extras::default() }
}

fn scheduler(config: &RunConfig, model: &Path) -> Result<SchedulerConfig, TrainError> {
    let text = config.diffusion.latent_scheduler().to_string();
    Ok(SchedulerConfig::from_json(&text, &model.join("scheduler/scheduler_config.json"))?)
}

/// The pipeline of the networks, for previews.
///
/// # Errors
/// If the schedule has no equivalent in diffusers.
pub(crate) fn pipeline(
    (unet, encoder): (Box<dyn Network>, ClipTextModel),
    vae: &Vae,
    tokenizer: &Arc<ClipTokenizer>,
    config: &RunConfig,
    device: &Device,
) -> Result<Pipeline, TrainError> {
    let parts = [TextPart { tokenizer: tokenizer.clone(), encoder }];
    let scheduler = scheduler(config, &config.run.out)?;
    let model = Model::of_texts(unet, vae.codec().clone(), parts.into(), scheduler, extras(config));
    Ok(Pipeline::of(model, device))
}
