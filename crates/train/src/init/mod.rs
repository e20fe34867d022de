//! Starting from a trained model instead of random weights: `run.init`.

mod settings;
mod weights;

use std::path::{Path, PathBuf};

use serde_json::Value;
use tweedie_hub::model::kind_of;

use crate::{error::TrainError, task::TaskKind};

pub(crate) use settings::settings;
pub(crate) use weights::{autoencoder, text, tokenizer, unet, waveform};

/// The model folder at `path`: itself, or that of a run.
fn folder(path: &Path) -> PathBuf {
    let of_run = path.join("model");
    let itself = ["model_index.json", "config.json"].iter().any(|file| path.join(file).exists());
    if !itself && of_run.is_dir() { of_run } else { path.into() }
}

/// The task that can train the model at `path` further.
///
/// # Errors
/// If there is no model, or no task supports it.
pub fn task_of(path: &Path) -> Result<TaskKind, TrainError> {
    let dir = folder(path);
    if let Some(kind) = kind_of(&dir)? {
        return match (kind.network.1, kind.autoencoder, kind.xl) {
            _ if kind.name == "SuperResolutionPipeline" => Ok(TaskKind::SuperResolution),
            ("UNet2DModel", None, _) => Ok(TaskKind::Diffusion),
            ("UNet1DModel", None, _) => Ok(TaskKind::Waveform),
            ("UNet2DConditionModel", Some("vae"), false) => Ok(TaskKind::TextToImage),
            ("UNet3DConditionModel", Some(_), _) => Ok(TaskKind::TextToVideo),
            _ => {
                let expected = "a DDPMPipeline, a StableDiffusionPipeline, a DanceDiffusionPipeline, a UNet2DModel or an AutoencoderKL";
                let found = format!("{} ({})", dir.display(), kind.name);
                Err(TrainError::config("run.init", found, expected))
            }
        };
    }
    let of_autoencoder = tweedie_hub::ComponentDir::open(&dir).is_ok_and(|c| c.class() == "AutoencoderKL");
    Ok(if of_autoencoder { TaskKind::Vae } else { TaskKind::Diffusion })
}

/// Checks that two network configurations are equal except for the keys in `free`; `table` is the configuration table of
/// `ours`.
fn same_network(table: &str, ours: &str, theirs: &str, free: &[&str], path: &Path) -> Result<(), TrainError> {
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let (ours, theirs) = (read(ours), read(theirs));
    let keys = [&ours, &theirs].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
    for key in keys.filter(|key| !key.starts_with('_') && !free.contains(&key.as_str())) {
        let (a, b) = (&ours[key.as_str()], &theirs[key.as_str()]);
        if a != b {
            let expected = format!("{b}, as in the initial model {}", path.display());
            return Err(TrainError::config(format!("{table}.{key}"), a, expected));
        }
    }
    Ok(())
}
