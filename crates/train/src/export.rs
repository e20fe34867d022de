//! Exports the trained model as a diffusers folder.

use std::path::Path;

use serde_json::{Map, Value, json};
use tweedie_core::spacing::Spacing;
use tweedie_hub::{
    model_dir::{self, Extras, SamplingDefaults},
    scheduler_config::SchedulerConfig,
    weights::Precision,
};
use tweedie_models::UNet2DModel;

use crate::{
    config::RunConfig, diffusion::DiffusionConfig, error::TrainError, event::Summary, task::TaskKind,
};

impl DiffusionConfig {
    /// The equivalent `scheduler_config.json` of a model in the folder `model`.
    ///
    /// # Errors
    /// If the schedule has no equivalent in diffusers.
    pub fn scheduler(&self, model: &Path) -> Result<SchedulerConfig, TrainError> {
        let text = self.scheduler_config().to_string();
        Ok(SchedulerConfig::from_json(&text, &model.join("scheduler/scheduler_config.json"))?)
    }
}

/// Writes `unet` to the folder `summary.model`, with its scheduler and `tweedie.json`, which contains class names, the null
/// class, sampling defaults and the training configuration.
pub(crate) fn model(
    unet: &UNet2DModel,
    config: &RunConfig,
    classes: &[String],
    summary: &Summary,
) -> Result<(), TrainError> {
    let extras = Extras { training: training(config, summary), ..extras(config, classes) };
    let scheduler = config.diffusion.scheduler(&summary.model)?;
    model_dir::save(&summary.model, unet, &scheduler, &extras, Precision::F32)?;
    Ok(())
}

/// Class names and sampling defaults.
pub(crate) fn extras(config: &RunConfig, classes: &[String]) -> Extras {
    let enlarges = config.task == TaskKind::SuperResolution;
    let conditional = !enlarges && config.conditioning.class_count(classes.len()).is_some();
    let guided = conditional && config.conditioning.label_dropout > 0.0;
    let multistep = config.diffusion.is_table() && !config.diffusion.zero_terminal_snr;
    Extras {
        class_names: if conditional { classes.to_vec() } else { Vec::new() },
        null_class: conditional.then_some(classes.len()),
        sampling: SamplingDefaults {
            // The small image determines most of the large one.
            steps: multistep.then_some(if enlarges { 5 } else { 30 }),
            solver: multistep.then(|| "dpmpp-2m".to_owned()),
            spacing: multistep.then_some(Spacing::Trailing),
            guidance: guided.then_some(config.conditioning.guidance),
            ..SamplingDefaults::default()
        },
        enlarging: enlarges.then(|| config.super_resolution.enlarging()),
        ..Extras::default()
    }
}

/// Sampling defaults of models of waveforms: enough steps for their scheduler's own solver.
pub(crate) fn waveforms() -> Extras {
    let sampling = SamplingDefaults { steps: Some(50), ..SamplingDefaults::default() };
    Extras { sampling, ..Extras::default() }
}

/// How the model was trained, for `tweedie.json`.
pub(crate) fn training(config: &RunConfig, summary: &Summary) -> Map<String, Value> {
    let entries: [(&str, Value); 5] = [
        ("steps", json!(summary.step)),
        ("images", json!(summary.images)),
        ("seconds", json!(summary.elapsed_s)),
        ("loss", json!(summary.loss)),
        ("config", recorded(config)),
    ];
    entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// The configuration without the path of the run.
pub(crate) fn recorded(config: &RunConfig) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    if let Some(run) = value.get_mut("run").and_then(Value::as_object_mut) {
        run.remove("out");
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Output, Process};

    #[test]
    fn the_scheduler_says_the_same_schedule() {
        let all = [
            (Process::Linear, Output::Eps),
            (Process::ScaledLinear, Output::X0),
            (Process::SquaredCosine, Output::V),
            (Process::Sigmoid, Output::V),
            (Process::Flow, Output::Flow),
            (Process::Edm, Output::Edm),
            (Process::Cosine, Output::V),
        ];
        for (schedule, parameterization) in all {
            let config = DiffusionConfig { schedule, parameterization, shift: 3.0, ..Default::default() };
            let said = config.scheduler(Path::new("m")).unwrap();
            let (ours, theirs) = (config.schedule().unwrap(), &said.process().schedule);
            assert_eq!(said.process().parameterization, config.parameterization());
            for t in [0.3, 1.0, 17.0, 60.0, 500.0, 999.0] {
                let (a, b) = (ours.level(t), theirs.level(t));
                let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs();
                let same = near(a.alpha, b.alpha) && near(a.sigma, b.sigma) && near(a.t, b.t);
                assert!(same, "{schedule:?}: {a:?} {b:?}");
            }
        }
    }
}
