//! The trained model as a diffusers folder.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use tweedie_hub::{
    files::{create_dir, write_atomic, write_dir_with, write_json},
    weights::{self, Precision},
};
use tweedie_models::{UNet2DModel, params::export};

use crate::{config::RunConfig, error::TrainError, event::Summary};

/// Writes `unet` to the folder `path`, with its schedule and `tweedie.json`: class names, the index of "no
/// class", and how it was trained.
pub(crate) fn model(
    path: &Path,
    unet: &UNet2DModel,
    config: &RunConfig,
    classes: &[String],
    summary: &Summary,
) -> Result<(), TrainError> {
    let schedule = config.diffusion.scheduler_config();
    let version = tweedie_models::unet::DIFFUSERS_VERSION;
    let pipeline = match schedule["_class_name"].as_str() {
        Some("DDPMScheduler") => "DDPMPipeline",
        _ => "DiffusionPipeline",
    };
    let index = json!({
        "_class_name": pipeline,
        "_diffusers_version": version,
        "scheduler": ["diffusers", schedule["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    });
    let mut notes = json!({
        "training": {
            "steps": summary.step,
            "images": summary.images,
            "seconds": summary.elapsed_s,
            "loss": summary.loss,
            "config": serde_json::to_value(config).unwrap_or(Value::Null),
        },
    });
    if config.conditioning.classes {
        notes["class_names"] = json!(classes);
        notes["null_class"] = json!(classes.len());
    }
    write_dir_with(path, "model_index.json", |aside| {
        let (network, scheduler) = (aside.join("unet"), aside.join("scheduler"));
        create_dir(&network)?;
        create_dir(&scheduler)?;
        write_atomic(&network.join("config.json"), unet.config().to_json().as_bytes())?;
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = network.join("diffusion_pytorch_model.safetensors");
        weights::write(&file, &export(unet), Precision::F32, &metadata)?;
        write_json(&scheduler.join("scheduler_config.json"), &schedule)?;
        write_json(&aside.join("tweedie.json"), &notes)?;
        write_json(&aside.join("model_index.json"), &index)
    })?;
    Ok(())
}
