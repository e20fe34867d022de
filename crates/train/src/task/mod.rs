//! What a run learns. The loop knows steps, time, files and events; a task knows its data, networks and losses.

mod diffusion;
mod learner;
mod text_to_image;
mod vae;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tweedie_data::{Dataset, Image, counted_endings};
use tweedie_models::params::HostTensor;
use tweedie_ops::Device;

use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::DryRun,
    error::TrainError,
    event::{Figure, Summary},
    run::StopHandle,
    text,
};

pub(crate) use learner::{Learner, ema_name};

/// What is learned: the `task` key of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A network that denoises images: `[model]`, `[diffusion]`, `[loss]` and `[conditioning]`.
    #[default]
    Diffusion,
    /// A U-Net in the latents of a finished autoencoder, and the text encoder that it reads: `[text]`, `[model]`,
    /// `[diffusion]` and `[loss]`.
    TextToImage,
    /// An autoencoder between images and latents: `[vae]`.
    Vae,
}

impl TaskKind {
    /// Whether it reads this table of a configuration, among those that not all tasks read.
    pub(crate) fn reads(self, table: &str) -> bool {
        match self {
            Self::Diffusion => ["model", "diffusion", "loss", "conditioning"].contains(&table),
            Self::TextToImage => ["model", "diffusion", "loss", "text"].contains(&table),
            Self::Vae => table == "vae",
        }
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Diffusion => "diffusion",
            Self::TextToImage => "text-to-image",
            Self::Vae => "vae",
        })
    }
}

/// Tensors by the stem of their file and their name.
pub(crate) type Files = Vec<(String, BTreeMap<String, HostTensor>)>;

/// How large a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Trainable numbers.
    pub parameters: usize,
    /// Images to learn from.
    pub images: usize,
    /// Images held out.
    pub held_out: usize,
}

/// A step that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct StepAt {
    /// By which the run may be ended meanwhile.
    pub stop: StopHandle,
    /// Steps done before.
    pub done: u64,
    /// Images seen, with those of this step.
    pub images: u64,
    /// Images of this step.
    pub rows: usize,
    /// The learning rate.
    pub learning_rate: f64,
}

impl StepAt {
    /// The error of a number in this step that is infinite or none. The loop adds the last checkpoint.
    pub fn not_finite(&self, what: impl Into<String>) -> TrainError {
        TrainError::NotFinite { step: self.done + 1, what: what.into(), checkpoint: None }
    }
}

/// A step that was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Learned {
    /// What was minimized, over the step's images.
    pub loss: f64,
    /// The L2 norm of its whole gradient, before clipping.
    pub grad_norm: f64,
    /// Its parts, and whatever else a log should have.
    pub figures: Vec<Figure>,
}

/// What held-out images say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Validation {
    /// Of the weights.
    pub loss: f64,
    /// Of their first average, if any is kept.
    pub ema_loss: Option<f64>,
    /// Other measures, of the average if one is kept.
    pub figures: Vec<Figure>,
}

/// Images for a grid.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sheet {
    /// Row by row.
    pub images: Vec<Image>,
    /// Images in a row.
    pub columns: usize,
}

/// Something to learn. Equal configurations and steps give equal bits, whatever was interrupted between them:
/// a task's state is what [`Task::tensors`] gives and the constructor takes back, and all else is a pure
/// function of the configuration and the step.
pub(crate) trait Task: Send {
    /// How large it is.
    fn size(&self) -> Size;

    /// What it depends on besides configuration and checkpoint, and a number that differs where that does.
    ///
    /// # Errors
    /// When a file cannot be read.
    fn inputs(&self) -> Result<BTreeMap<String, String>, TrainError> {
        Ok(BTreeMap::new())
    }

    /// Makes an optimizer step.
    ///
    /// # Errors
    /// When an image cannot be read, or [`StepAt::not_finite`]; the run is over then. [`TrainError::Stopped`] if nothing
    /// was done because the run is to end.
    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError>;

    /// The losses on held-out images; `None` if there are none.
    ///
    /// # Errors
    /// When an image cannot be read.
    fn validate(&mut self) -> Result<Option<Validation>, TrainError>;

    /// What the networks now do, as images, the same each time but for the weights.
    ///
    /// # Errors
    /// When they cannot be made.
    fn preview(&mut self) -> Result<Sheet, TrainError>;

    /// The whole state, but for what the loop keeps itself: the files of a checkpoint.
    fn tensors(&self) -> Files;

    /// The averages of the weights alone: the files of a snapshot.
    fn averages(&self) -> Files;

    /// Writes the finished model to the folder `summary.model`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn export(&mut self, summary: &Summary) -> Result<(), TrainError>;
}

/// What the task of `config` has a use for of `data`, and what its user should know of the rest.
///
/// # Errors
/// When it has none.
pub(crate) fn prepare(config: &RunConfig, data: Dataset) -> Result<(Dataset, Vec<String>), TrainError> {
    let mut notes = Vec::new();
    if !data.passed_over().is_empty() {
        let (place, found) = (&config.data.source, counted_endings(data.passed_over()));
        notes.push(format!("{place}: passed over files that are no images: {found}"));
    }
    match config.task {
        TaskKind::TextToImage => text::captioned(config, data, notes),
        TaskKind::Diffusion | TaskKind::Vae => Ok((data, notes)),
    }
}

/// The task of `config` on `data`, as new or as it was at a checkpoint.
///
/// # Errors
/// When data or network are not as the configuration says, or the checkpoint is another task's.
pub(crate) fn open(
    config: &RunConfig,
    data: &Dataset,
    device: &Device,
    from: Option<&Checkpoint>,
) -> Result<Box<dyn Task>, TrainError> {
    Ok(match config.task {
        TaskKind::Diffusion => Box::new(diffusion::Diffusion::new(config, data, device, from)?),
        TaskKind::TextToImage => Box::new(text_to_image::TextToImage::new(config, data, device, from)?),
        TaskKind::Vae => Box::new(vae::Vae::new(config, data, device, from)?),
    })
}

/// The size of the task of `config` on `data`, for [`crate::dry_run()`].
///
/// # Errors
/// As [`open`].
pub(crate) fn plan(config: &RunConfig, data: &Dataset, device: &Device) -> Result<DryRun, TrainError> {
    match config.task {
        TaskKind::Diffusion => diffusion::plan(config, data, device),
        TaskKind::TextToImage => text_to_image::plan(config, data, device),
        TaskKind::Vae => vae::plan(config, data, device),
    }
}
