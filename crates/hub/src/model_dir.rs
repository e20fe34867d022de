//! A model folder in diffusers' layout:
//!
//! ```text
//! model_index.json
//! unet/config.json
//! unet/diffusion_pytorch_model.safetensors
//! scheduler/scheduler_config.json
//! tweedie.json                               optional: class names, sampling defaults
//! ```
//!
//! The folder of a single component (`config.json` beside the weights) is a model, too. It has no scheduler unless it also
//! contains `scheduler_config.json`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tweedie_core::{solver::Bespoke, spacing::Spacing};
use tweedie_models::unet::{LoadError, UNet2DConfig, UNet2DModel};

use crate::{
    component,
    error::HubError,
    files,
    model_index::{self, PipelineClass},
    scheduler_config::SchedulerConfig,
    weights::{Precision, SafetensorsFile},
};

/// File name of a network's weights, without the extension.
pub const WEIGHTS: &str = "diffusion_pytorch_model";
const CONFIG: &str = "config.json";
pub(crate) const SCHEDULER: &str = "scheduler_config.json";
pub(crate) const EXTRAS: &str = "tweedie.json";

/// The content of `tweedie.json`: what diffusers' files do not store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Extras {
    /// Names of the classes by index.
    pub class_names: Vec<String>,
    /// The class that means "no class", for guidance.
    pub null_class: Option<usize>,
    /// Default sampling settings.
    pub sampling: SamplingDefaults,
    /// Learned samplers, each for a number of evaluations and a guidance scale.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tuned: Vec<Tuned>,
    /// Set if the network enlarges images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enlarging: Option<Enlarging>,
    /// Set if the model speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speech: Option<Speech>,
    /// How the model was trained: free text and figures for people.
    pub training: Map<String, Value>,
}

/// What a model that speaks can say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speech {
    /// The names of its voices. A prompt is a unit, a comma and a voice; without voices, a unit alone.
    pub voices: Vec<String>,
    /// The words that it was trained on, each of which is a unit. If empty, the units are sentences.
    pub words: Vec<String>,
}

/// What a network that enlarges images was trained for. Its further input channels are the small image, resized to the size of
/// the result; its classes are the level of the noise on it, in thousandths of the noise's standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enlarging {
    /// How many times larger the result is, per side.
    pub factor: usize,
    /// The level of the noise unless a request says another.
    pub noise_level: usize,
    /// The largest level in training.
    pub most_noise: usize,
}

/// A sampler that was learned for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The guidance scale for which it was learned.
    pub guidance: f64,
    /// Noise levels and weights.
    pub sampler: Bespoke,
    /// How it was learned and how good it is, for people.
    #[serde(default)]
    pub report: Map<String, Value>,
}

impl Extras {
    /// The learned sampler for this number of evaluations and this guidance scale.
    pub fn tuned(&self, evaluations: usize, guidance: f64) -> Option<&Tuned> {
        self.tuned.iter().find(|t| t.sampler.evaluations() == evaluations && t.guidance == guidance)
    }
}

/// A model's recommended settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingDefaults {
    /// Number of steps.
    pub steps: Option<usize>,
    /// Name of the solver.
    pub solver: Option<String>,
    /// Spacing of the noise levels.
    pub spacing: Option<Spacing>,
    /// Amount of fresh noise.
    pub eta: Option<f64>,
    /// Guidance scale; 1 means no guidance.
    pub guidance: Option<f64>,
    /// Frames of clips per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fps: Option<u32>,
}

/// A model folder with its configuration; the weights are not read yet.
#[derive(Debug)]
pub struct ModelDir {
    /// Path of the folder.
    pub path: PathBuf,
    /// The pipeline's class, if there is a `model_index.json`.
    pub pipeline: Option<PipelineClass>,
    /// Configuration of the network.
    pub unet: UNet2DConfig,
    /// The scheduler's configuration, if the folder has one.
    pub scheduler: Option<SchedulerConfig>,
    /// The content of `tweedie.json`.
    pub extras: Extras,
    /// Which variant of the weights is read, such as `fp16`; by default as [`SafetensorsFile::open_in`] prefers.
    pub variant: Option<String>,
}

impl ModelDir {
    /// Reads the configuration of the model in `path`.
    ///
    /// # Errors
    /// If the folder or one of its files is missing or invalid.
    pub fn open(path: &Path) -> Result<Self, HubError> {
        let listing = std::fs::read_dir(path);
        listing.map_err(|e| HubError::read(path, e))?;
        let index = path.join(model_index::FILE);
        let pipeline = if index.exists() { Some(model_index::read(&index)?) } else { None };

        let config = Self::network_in(path, pipeline).join(CONFIG);
        if pipeline.is_none() && !config.exists() {
            let reason =
                format!("not a model folder: it contains neither {} nor {CONFIG}", model_index::FILE);
            return Err(HubError::format(path, reason));
        }
        let unet = UNet2DConfig::from_json(&files::read_text(&config)?)
            .map_err(|source| HubError::Config { path: config, source })?;

        let folder = if pipeline.is_some() { model_index::component(path, "scheduler") } else { path.into() };
        let file = folder.join(SCHEDULER);
        let mut scheduler = match pipeline {
            None if !file.exists() => None,
            _ => Some(SchedulerConfig::load(&file)?),
        };
        if let (Some(PipelineClass::Ddim), Some(other)) = (pipeline, &scheduler) {
            scheduler = Some(other.convert("DDIMScheduler")?);
        }
        let extras = extras_in(path)?;
        check_classes(&path.join(EXTRAS), &extras, &unet)?;
        Ok(Self { path: path.into(), pipeline, unet, scheduler, extras, variant: None })
    }

    fn network_in(path: &Path, pipeline: Option<PipelineClass>) -> PathBuf {
        if pipeline.is_some() { model_index::component(path, "unet") } else { path.into() }
    }

    /// Opens the network's weights without reading them.
    ///
    /// # Errors
    /// Those of [`SafetensorsFile::open_in`].
    pub fn weights(&self) -> Result<SafetensorsFile, HubError> {
        let dir = Self::network_in(&self.path, self.pipeline);
        SafetensorsFile::open_in(&dir, WEIGHTS, self.variant.as_deref())
    }

    /// Loads the network onto `device`, with 32-bit weights.
    ///
    /// # Errors
    /// If the weights are missing or damaged, or do not match the configured network; names the tensor.
    pub fn load_unet(&self, device: &Device) -> Result<UNet2DModel, HubError> {
        let weights = self.weights()?;
        UNet2DModel::load(&self.unet, &weights, device).map_err(|e| {
            let folder = Self::network_in(&self.path, self.pipeline);
            match e {
                LoadError::Config(source) => HubError::Config { path: folder.join(CONFIG), source },
                LoadError::Params(source) => HubError::Params { path: weights.path().into(), source },
            }
        })
    }
}

/// Reads `tweedie.json` in the model folder `dir`; returns the default if there is none.
///
/// # Errors
/// If the file or a sampler in it is invalid.
pub fn extras_in(dir: &Path) -> Result<Extras, HubError> {
    let file = dir.join(EXTRAS);
    let extras: Extras = if file.exists() { files::read_json(&file)? } else { Extras::default() };
    check_tuned(&file, &extras)?;
    if let Some(Enlarging { factor, .. }) = extras.enlarging
        && !(1..=16).contains(&factor)
    {
        return Err(HubError::key(
            &file,
            "enlarging",
            format!("factor {factor}: expected a value from 1 to 16"),
        ));
    }
    Ok(extras)
}

fn check_tuned(file: &Path, extras: &Extras) -> Result<(), HubError> {
    extras.tuned.iter().try_for_each(|tuned| {
        tuned.sampler.check().map_err(|e| HubError::key(file, "tuned", format!("sampler: {e}")))
    })
}

/// Replaces `tweedie.json` in the model folder `dir`.
///
/// # Errors
/// If the file cannot be written.
pub fn save_extras(dir: &Path, extras: &Extras) -> Result<(), HubError> {
    files::write_json(&dir.join(EXTRAS), extras)
}

fn check_classes(file: &Path, extras: &Extras, unet: &UNet2DConfig) -> Result<(), HubError> {
    let classes = unet.num_class_embeds.unwrap_or(0);
    if extras.class_names.len() > classes {
        let reason = format!("{} names, but the network has {classes} classes", extras.class_names.len());
        return Err(HubError::key(file, "class_names", reason));
    }
    match extras.null_class {
        Some(null) if null >= classes => {
            let reason = format!("{null} is out of range; the network has {classes} classes");
            Err(HubError::key(file, "null_class", reason))
        }
        _ => Ok(()),
    }
}

/// Writes a model folder, which Python opens with `DDPMPipeline.from_pretrained(path)`, unless it enlarges images: diffusers has
/// no pipeline for that, only its network and scheduler can be opened. A model at `path` is replaced as a whole.
///
/// # Errors
/// If a file cannot be written (then `path` is unchanged), or `path` is a folder with other content.
pub fn save(
    path: &Path,
    unet: &UNet2DModel,
    scheduler: &SchedulerConfig,
    extras: &Extras,
    precision: Precision,
) -> Result<(), HubError> {
    check_classes(&path.join(EXTRAS), extras, unet.config())?;
    files::write_dir_with(path, model_index::FILE, |dir| {
        let (network, schedule) = (dir.join("unet"), dir.join("scheduler"));
        files::create_dir(&schedule)?;
        save_network(&network, unet, precision)?;
        files::write_atomic(&schedule.join(SCHEDULER), scheduler.to_json().as_bytes())?;
        if *extras != Extras::default() {
            files::write_json(&dir.join(EXTRAS), extras)?;
        }
        let class = match extras.enlarging {
            Some(_) => PipelineClass::SuperResolution,
            None => PipelineClass::Ddpm,
        };
        model_index::write(dir, class, scheduler.class_name())
    })
}

/// Writes `config.json` and the weights to the folder `dir`, which Python opens with `UNet2DModel.from_pretrained(dir)`.
///
/// # Errors
/// If a file cannot be written, or a weight is not finite.
pub fn save_network(dir: &Path, unet: &UNet2DModel, precision: Precision) -> Result<(), HubError> {
    component::write(dir, WEIGHTS, unet, &unet.config().to_json(), precision)
}
