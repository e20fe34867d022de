//! diffusers' `model_index.json`: the class of a pipeline, and library and class of its components.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tweedie_models::unet::DIFFUSERS_VERSION;

use crate::{error::HubError, files};

/// Name of the file.
pub const FILE: &str = "model_index.json";

/// A pipeline of one U-Net and one scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineClass {
    /// `DDPMPipeline`: samples with its scheduler.
    Ddpm,
    /// `DDIMPipeline`: samples with DDIM, whatever its scheduler is.
    Ddim,
    /// Our own class for networks that enlarge images, which diffusers does not have.
    SuperResolution,
}

/// The supported classes.
const CLASSES: [(&str, PipelineClass); 3] = [
    ("DDPMPipeline", PipelineClass::Ddpm),
    ("DDIMPipeline", PipelineClass::Ddim),
    ("SuperResolutionPipeline", PipelineClass::SuperResolution),
];

impl PipelineClass {
    /// The name in diffusers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "DDPMPipeline",
            Self::Ddim => "DDIMPipeline",
            Self::SuperResolution => "SuperResolutionPipeline",
        }
    }
}

/// Reads `model_index.json` at `path`.
///
/// # Errors
/// If the pipeline or one of its components is not supported; lists what is.
pub fn read(path: &Path) -> Result<PipelineClass, HubError> {
    let entries: Map<String, Value> = files::read_json(path)?;
    let class = entries.get("_class_name").and_then(Value::as_str);
    let class = class.ok_or_else(|| HubError::key(path, "_class_name", "missing or not a string"))?;
    let found = CLASSES.iter().find(|(name, _)| *name == class).map(|(_, class)| *class);
    let found = found.ok_or_else(|| {
        let names = CLASSES.map(|(name, _)| name).join(", ");
        HubError::key(path, "_class_name", format!("unsupported pipeline `{class}`; expected one of {names}"))
    })?;
    for (key, value) in entries.iter().filter(|(key, _)| !key.starts_with('_')) {
        let component = value.get(1).and_then(Value::as_str).unwrap_or_default();
        match &**key {
            "unet" if component == "UNet2DModel" => {}
            "scheduler" => {}
            "unet" => {
                let reason = format!("unsupported network {value}; expected UNet2DModel");
                return Err(HubError::key(path, key, reason));
            }
            _ => return Err(HubError::key(path, key, format!("not a component of {class}"))),
        }
    }
    if !entries.contains_key("unet") {
        return Err(HubError::key(path, "unet", "missing"));
    }
    Ok(found)
}

/// Writes `model_index.json` to `dir`, for a U-Net and a scheduler of class `scheduler`.
///
/// # Errors
/// If the file cannot be written.
pub fn write(dir: &Path, class: PipelineClass, scheduler: &str) -> Result<(), HubError> {
    let index = json!({
        "_class_name": class.name(),
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DModel"],
    });
    files::write_json(&dir.join(FILE), &index)
}

/// The folder of a component: its subfolder, or `dir` itself, where older pipelines have all files.
pub(crate) fn component(dir: &Path, name: &str) -> PathBuf {
    let own = dir.join(name);
    if own.is_dir() { own } else { dir.to_path_buf() }
}
