//! Training tasks. The loop handles steps, time, files and events; a task handles its data, networks and losses.

mod clip;
mod decoder;
mod diffusion;
mod learner;
mod pixels;
mod prior;
mod text_to_image;
mod text_to_video;
mod vae;
mod waveform;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tweedie_data::{Audio, Dataset, Decode, Image, Video, counted_endings};
use tweedie_models::params::HostTensor;
use tweedie_ops::Device;

use crate::{
    checkpoint::Checkpoint,
    config::RunConfig,
    dry_run::DryRun,
    error::TrainError,
    event::{Figure, Summary},
    run::StopHandle,
    share::Share,
    source::RunData,
    text,
};

pub(crate) use learner::{Learner, ema_name};

/// What to train: the `task` key of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// A denoising network on images: `[model]`, `[diffusion]`, `[loss]` and `[conditioning]`.
    #[default]
    Diffusion,
    /// A U-Net and its text encoder in the latents of a finished autoencoder: `[text]`, `[model]`, `[diffusion]` and `[loss]`.
    TextToImage,
    /// A U-Net and its text encoder in the spectrograms of recordings: `[sound]`, `[text]`, `[model]`, `[diffusion]` and
    /// `[loss]`.
    TextToSound,
    /// The same for clips, with a U-Net that also sees time.
    TextToVideo,
    /// A denoising network on windows of recordings: `[waveform]`, `[model]`, `[diffusion]` and `[loss]`.
    Waveform,
    /// An autoencoder between images and latents: `[vae]`.
    Vae,
    /// A denoising network that enlarges images: `[super_resolution]`, `[model]`, `[diffusion]` and `[loss]`.
    SuperResolution,
    /// Encoders of images and of texts into one space: `[clip]` and `[text]`.
    Clip,
    /// A transformer that samples the embedding of an image for a text: `[unclip]`, `[prior]`, `[text]`, `[diffusion]` and
    /// `[loss]`.
    Prior,
    /// A U-Net that makes images of such embeddings: `[unclip]`, `[text]`, `[model]`, `[diffusion]` and `[loss]`.
    Decoder,
}

impl TaskKind {
    /// Whether it uses this configuration table, among those that not all tasks use.
    pub(crate) fn reads(self, table: &str) -> bool {
        match self {
            Self::Diffusion => ["model", "diffusion", "loss", "conditioning"].contains(&table),
            Self::TextToImage | Self::TextToVideo => ["model", "diffusion", "loss", "text"].contains(&table),
            Self::TextToSound => ["model", "diffusion", "loss", "text", "sound"].contains(&table),
            Self::Waveform => ["model", "diffusion", "loss", "waveform"].contains(&table),
            Self::Vae => table == "vae",
            Self::SuperResolution => ["model", "diffusion", "loss", "super_resolution"].contains(&table),
            Self::Clip => ["clip", "text"].contains(&table),
            Self::Prior => ["unclip", "prior", "text", "diffusion", "loss"].contains(&table),
            Self::Decoder => ["unclip", "text", "model", "diffusion", "loss"].contains(&table),
        }
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Diffusion => "diffusion",
            Self::TextToImage => "text-to-image",
            Self::TextToSound => "text-to-sound",
            Self::TextToVideo => "text-to-video",
            Self::Waveform => "waveform",
            Self::Vae => "vae",
            Self::SuperResolution => "super-resolution",
            Self::Clip => "clip",
            Self::Prior => "prior",
            Self::Decoder => "decoder",
        })
    }
}

/// Tensors by file name and tensor name.
pub(crate) type Files = Vec<(String, BTreeMap<String, HostTensor>)>;

/// The size of a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Number of trainable values.
    pub parameters: usize,
    /// Number of training images.
    pub images: usize,
    /// Number of held-out images.
    pub held_out: usize,
}

/// The parameters of an optimizer step.
#[derive(Clone, Debug)]
pub(crate) struct StepAt {
    /// Stops the run during the step.
    pub stop: StopHandle,
    /// Steps done before.
    pub done: u64,
    /// Images seen, including those of this step.
    pub images: u64,
    /// Number of images in this step.
    pub rows: usize,
    /// The learning rate.
    pub learning_rate: f64,
}

impl StepAt {
    /// The error for a value that is not finite in this step. The loop adds the last checkpoint.
    pub fn not_finite(&self, what: impl Into<String>) -> TrainError {
        TrainError::NotFinite { step: self.done + 1, what: what.into(), checkpoint: None }
    }
}

/// The result of an optimizer step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Learned {
    /// The loss over the step's images.
    pub loss: f64,
    /// The L2 norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Further figures for the log, for example the terms of the loss.
    pub figures: Vec<Figure>,
}

/// The result of a validation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Validation {
    /// Loss of the weights.
    pub loss: f64,
    /// Loss of their first average, if there is one.
    pub ema_loss: Option<f64>,
    /// Other figures, for the average if there is one.
    pub figures: Vec<Figure>,
}

/// Images for a grid, and the sounds of which they are spectrograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sheet {
    /// The images, row by row.
    pub images: Vec<Image>,
    /// Number of images per row.
    pub columns: usize,
    /// The sounds; empty if the images are no spectrograms.
    pub sounds: Vec<Audio>,
    /// Clips for an animation; none for images.
    pub clips: Vec<Video>,
}

/// A training task. Equal configurations and steps give equal bits, however often the run was interrupted: the state is what
/// [`Task::tensors`] returns and the constructor takes back, and everything else is a pure function of the configuration and
/// the step.
pub(crate) trait Task: Send {
    /// The size of the task.
    fn size(&self) -> Size;

    /// Inputs besides configuration and checkpoint, each with a fingerprint.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn inputs(&self) -> Result<BTreeMap<String, String>, TrainError> {
        Ok(BTreeMap::new())
    }

    /// Makes an optimizer step. Collective.
    ///
    /// # Errors
    /// If an image cannot be read, or [`StepAt::not_finite`]; this ends the run. [`TrainError::Stopped`] if a stop was
    /// requested before the step was done.
    fn step(&mut self, at: &StepAt) -> Result<Learned, TrainError>;

    /// The losses on held-out images; `None` if there are no held-out images. Collective; complete on the first rank.
    ///
    /// # Errors
    /// If an image cannot be read.
    fn validate(&mut self) -> Result<Option<Validation>, TrainError>;

    /// A preview of the current networks as images, always from the same noise or data. Collective; nothing
    /// on other ranks than the first.
    ///
    /// # Errors
    /// If it cannot be computed.
    fn preview(&mut self) -> Result<Sheet, TrainError>;

    /// The whole state except what the loop stores itself: the files of a checkpoint. Complete on the first rank. Collective.
    ///
    /// # Errors
    /// If another rank cannot be reached.
    fn tensors(&self) -> Result<Files, TrainError>;

    /// A checksum of the weights, which must be equal on all ranks.
    fn fingerprint(&self) -> u32;

    /// Only the averages of the weights: the files of a snapshot.
    fn averages(&self) -> Files;

    /// Writes the finished model to the folder `summary.model`.
    ///
    /// # Errors
    /// If it cannot be written.
    fn export(&mut self, summary: &Summary) -> Result<(), TrainError>;
}

/// The part of `data` that the task of `config` uses, and notes about the rest.
///
/// # Errors
/// If it can use nothing.
pub(crate) fn prepare<D: Decode>(
    config: &RunConfig,
    data: Dataset<D>,
) -> Result<(Dataset<D>, Vec<String>), TrainError> {
    let mut notes = Vec::new();
    if !data.passed_over().is_empty() {
        let (place, found) = (&config.data.source, counted_endings(data.passed_over()));
        notes.push(format!("{place}: ignoring files that are not {}: {found}", data.noun()));
    }
    match config.task {
        TaskKind::TextToImage
        | TaskKind::TextToVideo
        | TaskKind::Clip
        | TaskKind::Prior
        | TaskKind::Decoder => text::captioned(config, data, notes),
        _ => Ok((data, notes)),
    }
}

/// The task of `config` on `data`, as new or as it was at a checkpoint.
///
/// # Errors
/// If data or network do not match the configuration, or the checkpoint belongs to another task.
pub(crate) fn open(
    config: &RunConfig,
    data: &RunData,
    device: &Device,
    from: Option<&Checkpoint>,
    share: &Share,
) -> Result<Box<dyn Task>, TrainError> {
    let data = match data {
        RunData::Images(images) => images,
        RunData::Clips(clips) => {
            return Ok(Box::new(text_to_video::open(config, clips, device, from, share)?));
        }
        RunData::Sounds(sounds) => {
            return Ok(Box::new(text_to_image::open_sounds(config, sounds, device, from, share)?));
        }
        RunData::Waves(waves) => return Ok(Box::new(waveform::open(config, waves, device, from, share)?)),
    };
    Ok(match config.task {
        TaskKind::TextToImage => Box::new(text_to_image::open(config, data, device, from, share)?),
        TaskKind::Vae => Box::new(vae::Vae::new(config, data, device, from, share)?),
        TaskKind::Clip => Box::new(clip::Clip::new(config, data, device, from, share)?),
        TaskKind::Prior => Box::new(prior::open(config, data, device, from, share)?),
        TaskKind::Decoder => Box::new(decoder::open(config, data, device, from, share)?),
        _ => Box::new(pixels::open(config, data, device, from, share)?),
    })
}

/// The size of the task of `config` on `data`, for [`crate::dry_run()`].
///
/// # Errors
/// Those of [`open`].
pub(crate) fn plan(config: &RunConfig, data: &RunData, device: &Device) -> Result<DryRun, TrainError> {
    let data = match data {
        RunData::Images(images) => images,
        RunData::Clips(clips) => return text_to_video::plan(config, clips, device),
        RunData::Sounds(sounds) => return text_to_image::plan_sounds(config, sounds, device),
        RunData::Waves(waves) => return waveform::plan(config, waves, device),
    };
    match config.task {
        TaskKind::TextToImage => text_to_image::plan(config, data, device),
        TaskKind::Vae => vae::plan(config, data, device),
        TaskKind::Clip => clip::plan(config, data, device),
        TaskKind::Prior => prior::plan(config, data, device),
        TaskKind::Decoder => decoder::plan(config, data, device),
        _ => pixels::plan(config, data, device),
    }
}
