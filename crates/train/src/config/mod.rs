//! What a training run is: one TOML file, every key known, every value checked.

mod builder;
mod check;
mod presets;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use tweedie_data::{AugmentConfig, DataConfig};
use tweedie_models::Precision;
use tweedie_ops::Device;

use crate::{
    autoencoder::VaeConfig, diffusion::DiffusionConfig, ema::EmaConfig, error::TrainError,
    learning_rate::LearningRateConfig, loss::LossConfig, model::ModelConfig, optim::OptimizerConfig,
    task::TaskKind, text::TextConfig,
};

pub use builder::ConfigBuilder;
pub use presets::{PRESETS, Preset, preset};

/// Everything that determines a training run. Equal configurations on the same machine give equal bits.
/// Written without the tables that its task does not read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// What is learned. Tables that it does not read must be left out.
    pub task: TaskKind,
    /// How long, how large, where to.
    pub run: Run,
    /// The images.
    pub data: DataConfig,
    /// What is done to them on the way.
    pub augment: AugmentConfig,
    /// The network.
    pub model: ModelConfig,
    /// The forward process and what the network answers.
    pub diffusion: DiffusionConfig,
    /// What is minimized.
    pub loss: LossConfig,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub learning_rate: LearningRateConfig,
    /// The averages of the weights.
    pub ema: EmaConfig,
    /// What the network is told besides the noise level.
    pub conditioning: Conditioning,
    /// Texts and latents of a text-to-image model.
    pub text: TextConfig,
    /// An autoencoder and what is asked of it.
    pub vae: VaeConfig,
}

impl Serialize for RunConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("task", &self.task)?;
        map.serialize_entry("run", &self.run)?;
        map.serialize_entry("data", &self.data)?;
        map.serialize_entry("augment", &self.augment)?;
        if self.task.reads("model") {
            map.serialize_entry("model", &self.model)?;
        }
        if self.task.reads("diffusion") {
            map.serialize_entry("diffusion", &self.diffusion)?;
        }
        if self.task.reads("loss") {
            map.serialize_entry("loss", &self.loss)?;
        }
        map.serialize_entry("optimizer", &self.optimizer)?;
        map.serialize_entry("learning_rate", &self.learning_rate)?;
        map.serialize_entry("ema", &self.ema)?;
        if self.task.reads("conditioning") {
            map.serialize_entry("conditioning", &self.conditioning)?;
        }
        if self.task.reads("text") {
            map.serialize_entry("text", &self.text)?;
        }
        if self.task.reads("vae") {
            map.serialize_entry("vae", &self.vae)?;
        }
        map.end()
    }
}

/// Length, batch, seed, intervals and place of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// Ends after this many optimizer steps; or after `minutes`, whichever comes first.
    pub steps: Option<u64>,
    /// Ends after this many minutes of training, over all sessions of the run.
    pub minutes: Option<f64>,
    /// Images per forward and backward pass, at least 1.
    pub batch: usize,
    /// Passes per optimizer step, at least 1; the step sees `batch * accumulation` images.
    pub accumulation: usize,
    /// From this come the initial weights, order, noise, times, dropout and augmentation.
    pub seed: u64,
    /// The model to begin from instead of random weights: its folder, or that of the run that trained it. Of the
    /// same network; classes are found by their names. Not read again by a run that is resumed.
    pub init: Option<PathBuf>,
    /// Steps between checkpoints; 0 for only the last.
    pub checkpoint_every: u64,
    /// How many of the latest checkpoints stay on disk, at least 1.
    pub keep_last: usize,
    /// Steps between sample grids; 0 for none.
    pub preview_every: u64,
    /// Samples in a grid.
    pub preview_images: usize,
    /// Solver steps of a preview, at least 2.
    pub preview_steps: usize,
    /// Steps between losses on held-out images; 0 for none.
    pub validate_every: u64,
    /// How many held-out images (at most; with fixed noise and times).
    pub validation_images: usize,
    /// Steps between lines of the log, at least 1; each holds the mean loss since the last.
    pub log_every: u64,
    /// Where tensors live: `cpu`, or what the build adds.
    pub device: String,
    /// What activations, and their gradients, are held in: `f32` or `bf16`. Weights and their gradients are `f32`.
    pub precision: Precision,
    /// Make normalized maps again on the way back instead of keeping them: less memory, somewhat longer steps, the
    /// same bits.
    pub recompute: bool,
    /// The run's folder.
    pub out: PathBuf,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            steps: None,
            minutes: None,
            batch: 64,
            accumulation: 1,
            seed: 0,
            init: None,
            checkpoint_every: 500,
            keep_last: 3,
            preview_every: 500,
            preview_images: 36,
            preview_steps: 24,
            validate_every: 250,
            validation_images: 128,
            log_every: 10,
            device: "cpu".into(),
            precision: Precision::F32,
            recompute: false,
            out: "runs/emoji".into(),
        }
    }
}

impl Run {
    /// Where tensors live.
    pub(crate) fn device(&self) -> Result<Device, TrainError> {
        let device = tweedie_ops::device(&self.device).map_err(|e| TrainError::Device(e.to_string()))?;
        let expected = match self.precision {
            Precision::Int8 => "`f32` or `bf16`: weights of eight bits cannot be trained",
            Precision::Bf16 if !tweedie_ops::is_cpu(&device) => "`f32`: only the CPU computes with `bf16`",
            _ => return Ok(device),
        };
        Err(TrainError::config("run.precision", self.precision, expected))
    }

    /// Images per optimizer step.
    pub fn images_per_step(&self) -> usize {
        self.batch * self.accumulation
    }
}

/// Classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditioning {
    /// Tell the network each image's class; when not given, if the data has classes.
    pub classes: Option<bool>,
    /// Show every class equally often, whatever its size.
    pub balance: bool,
    /// Probability, `0..=1`, of telling it "no class" (index K of K classes) instead, so that guidance
    /// can contrast the two (Ho & Salimans 2022, arXiv:2207.12598).
    pub label_dropout: f64,
}

impl Default for Conditioning {
    fn default() -> Self {
        Self { classes: None, balance: false, label_dropout: 0.1 }
    }
}

impl Conditioning {
    /// How many classes the network is told of, given those of the data; `None` if it is told none.
    pub fn told(&self, in_data: usize) -> Option<usize> {
        self.classes.unwrap_or(in_data > 0).then_some(in_data)
    }
}
