//! The configuration of a training run: one TOML file, with all keys and values checked.

mod builder;
mod check;
mod presets;
mod suited;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use tweedie_data::{AugmentConfig, DataConfig};
use tweedie_models::{ExecContext, Precision};
use tweedie_ops::Device;

use crate::{
    autoencoder::VaeConfig,
    clip::ClipConfig,
    diffusion::DiffusionConfig,
    ema::EmaConfig,
    error::TrainError,
    learning_rate::LearningRateConfig,
    loss::LossConfig,
    model::ModelConfig,
    optim::OptimizerConfig,
    sound::SoundConfig,
    super_resolution::SuperResolutionConfig,
    task::TaskKind,
    text::TextConfig,
    unclip::{PriorTable, UnClipConfig},
    wave::WaveConfig,
};

pub use builder::ConfigBuilder;
pub use presets::{PRESETS, Preset, preset};
pub use suited::{Choice, Suited};

/// Everything that determines a training run. Equal configurations on the same machine give equal bits. Tables that the task
/// does not use are not written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// What to train. Tables that it does not use must be left out.
    pub task: TaskKind,
    /// Length, batch size and output folder.
    pub run: Run,
    /// The images.
    pub data: DataConfig,
    /// The augmentation of the images.
    pub augment: AugmentConfig,
    /// The network.
    pub model: ModelConfig,
    /// The forward process and the prediction type.
    pub diffusion: DiffusionConfig,
    /// The loss.
    pub loss: LossConfig,
    /// AdamW.
    pub optimizer: OptimizerConfig,
    /// The learning rate schedule.
    pub learning_rate: LearningRateConfig,
    /// The weight averages.
    pub ema: EmaConfig,
    /// The conditions of the network.
    pub conditioning: Conditioning,
    /// Texts and latents of a text-to-image model.
    pub text: TextConfig,
    /// How recordings become samples.
    pub sound: SoundConfig,
    /// How recordings become samples of a model of waveforms.
    pub waveform: WaveConfig,
    /// An autoencoder and its loss.
    pub vae: VaeConfig,
    /// Pairs of small and large images.
    pub super_resolution: SuperResolutionConfig,
    /// The encoder of images of CLIP.
    pub clip: ClipConfig,
    /// The other stages of DALL·E 2, and what its decoder reads.
    pub unclip: UnClipConfig,
    /// The prior of DALL·E 2.
    pub prior: PriorTable,
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
        if self.task.reads("sound") {
            map.serialize_entry("sound", &self.sound)?;
        }
        if self.task.reads("waveform") {
            map.serialize_entry("waveform", &self.waveform)?;
        }
        if self.task.reads("vae") {
            map.serialize_entry("vae", &self.vae)?;
        }
        if self.task.reads("super_resolution") {
            map.serialize_entry("super_resolution", &self.super_resolution)?;
        }
        if self.task.reads("clip") {
            map.serialize_entry("clip", &self.clip)?;
        }
        if self.task.reads("unclip") {
            map.serialize_entry("unclip", &self.unclip)?;
        }
        if self.task.reads("prior") {
            map.serialize_entry("prior", &self.prior)?;
        }
        map.end()
    }
}

/// Length, batch size, seed, intervals and output folder of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    /// Stop after this many optimizer steps, or after `minutes`, whichever comes first.
    pub steps: Option<u64>,
    /// Stop after this many minutes of training, counted over all sessions of the run.
    pub minutes: Option<f64>,
    /// Images per forward and backward pass, at least 1.
    pub batch: usize,
    /// Passes per optimizer step, at least 1; the step sees `batch * accumulation` images.
    pub accumulation: usize,
    /// Seed of initial weights, order, noise, times, dropout and augmentation.
    pub seed: u64,
    /// Model to start from instead of random weights: its folder, or that of the run that trained it. It must have the same
    /// network; classes are matched by name. Not read again by a resumed run.
    pub init: Option<PathBuf>,
    /// Steps between checkpoints; 0 for only the last one.
    pub checkpoint_every: u64,
    /// Number of latest checkpoints to keep, at least 1.
    pub keep_last: usize,
    /// Steps between sample grids; 0 for none.
    pub preview_every: u64,
    /// Number of samples in a preview.
    pub preview_images: usize,
    /// Solver steps of a preview, at least 2.
    pub preview_steps: usize,
    /// Steps between losses on held-out images; 0 for none.
    pub validate_every: u64,
    /// Maximum number of held-out images for validation.
    pub validation_images: usize,
    /// Steps between lines of the log, at least 1; each contains the mean loss since the last one.
    pub log_every: u64,
    /// Device: `cpu`, or others that the build supports.
    pub device: String,
    /// Precision of activations and their gradients: `f32` or `bf16`. Weights and their gradients are `f32`.
    pub precision: Precision,
    /// Recompute normalized activations in the backward pass instead of storing them: less memory, slightly slower, the same
    /// bits.
    pub recompute: bool,
    /// Output folder of the run.
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
    /// The device of the tensors.
    pub(crate) fn device(&self) -> Result<Device, TrainError> {
        let device = tweedie_ops::device(&self.device).map_err(|e| TrainError::Device(e.to_string()))?;
        let expected = match self.precision {
            Precision::Int8 => "`f32` or `bf16`; int8 weights cannot be trained",
            Precision::Bf16 if !tweedie_ops::is_cpu(&device) => "`f32`; `bf16` is only supported on the CPU",
            _ => return Ok(device),
        };
        Err(TrainError::config("run.precision", self.precision, expected))
    }

    /// What the networks run in.
    pub(crate) fn context(&self) -> ExecContext {
        ExecContext { precision: self.precision, recompute: self.recompute, ..ExecContext::default() }
    }

    /// Images per optimizer step.
    pub fn images_per_step(&self) -> usize {
        self.batch * self.accumulation
    }
}

/// Conditioning on classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Conditioning {
    /// Whether the network is class-conditional; by default if the data has classes.
    pub classes: Option<bool>,
    /// Show every class equally often, whatever its size.
    pub balance: bool,
    /// Probability, `0..=1`, of using the null class (index K for K classes) instead, for guidance (Ho & Salimans 2022,
    /// arXiv:2207.12598).
    pub label_dropout: f64,
    /// Default guidance scale stored with the model, at least 0; 1 means no guidance. Used only with label dropout.
    pub guidance: f64,
}

impl Default for Conditioning {
    fn default() -> Self {
        Self { classes: None, balance: false, label_dropout: 0.1, guidance: 2.0 }
    }
}

impl Conditioning {
    /// Number of classes of the network, given those of the data; `None` if it is unconditional.
    pub fn class_count(&self, in_data: usize) -> Option<usize> {
        self.classes.unwrap_or(in_data > 0).then_some(in_data)
    }
}
