//! Progress of a training run.

use std::path::PathBuf;

use serde::Serialize;
use tweedie_data::Image;

/// An event of a [`TrainLoop`](crate::TrainLoop).
#[derive(Clone, Debug)]
pub enum TrainEvent {
    /// The run starts or resumes.
    Started {
        /// Steps done before; 0 for a new run.
        step: u64,
        /// Number of steps after which the run ends, if limited by steps.
        steps: Option<u64>,
        /// Number of trainable values.
        parameters: usize,
        /// Number of training images.
        images: usize,
        /// Number of held-out images.
        held_out: usize,
    },
    /// An optimizer step is finished.
    Step(Step),
    /// Losses on held-out images, with fixed times and noise if applicable.
    Validation {
        /// Steps done.
        step: u64,
        /// Loss of the weights.
        loss: f64,
        /// Loss of their first average, if there is one.
        ema_loss: Option<f64>,
        /// Other figures of the task, for the average if there is one.
        figures: Vec<Figure>,
    },
    /// Samples or reconstructions were made.
    Preview {
        /// Steps done.
        step: u64,
        /// The images, row by row.
        samples: Vec<Image>,
        /// The grid on disk.
        path: PathBuf,
    },
    /// A checkpoint was written.
    Checkpointed {
        /// Steps done.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// A warning.
    Warning(String),
    /// The run is finished; its last checkpoint is on disk.
    Finished(Summary),
}

/// A named value, for example `psnr`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
}

impl Figure {
    /// Creates a figure.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value }
    }
}

/// An optimizer step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// The mean weighted loss of this step's images.
    pub loss: f64,
    /// The L2 norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub learning_rate: f64,
    /// Images per second, over the last steps.
    pub images_per_s: f64,
    /// Seconds of training so far, over all sessions.
    pub elapsed_s: f64,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Seconds of training, over all sessions.
    pub elapsed_s: f64,
    /// The mean loss of the last steps.
    pub loss: f64,
    /// Whether it ended because a stop was requested.
    pub stopped: bool,
    /// The diffusers folder with the averaged weights.
    pub model: PathBuf,
}
