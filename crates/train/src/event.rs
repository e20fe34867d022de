//! What a training run tells its caller.

use std::path::PathBuf;

use serde::Serialize;
use tweedie_data::Image;

/// One thing that happened in a [`TrainLoop`](crate::TrainLoop).
#[derive(Clone, Debug)]
pub enum TrainEvent {
    /// The run begins, or goes on.
    Started {
        /// Steps done before; 0 for a new run.
        step: u64,
        /// Where the run ends, if by steps.
        steps: Option<u64>,
        /// Trainable numbers.
        parameters: usize,
        /// Images to learn from.
        images: usize,
        /// Images held out.
        held_out: usize,
    },
    /// An optimizer step was made.
    Step(Step),
    /// Losses on held-out images, with fixed times and noise where there are any.
    Validation {
        /// Steps done.
        step: u64,
        /// Of the weights.
        loss: f64,
        /// Of their first average, if any is kept.
        ema_loss: Option<f64>,
        /// What else the task measures, of the average if one is kept.
        figures: Vec<Figure>,
    },
    /// Samples were drawn, or images reconstructed.
    Preview {
        /// Steps done.
        step: u64,
        /// The samples, row by row.
        samples: Vec<Image>,
        /// The grid on disk.
        path: PathBuf,
    },
    /// A checkpoint is on disk.
    Checkpointed {
        /// Steps done.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// Something that does not stop the run.
    Warning(String),
    /// The run is over; its last checkpoint is on disk.
    Finished(Summary),
}

/// A number with a name, such as `psnr`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
}

impl Figure {
    /// `value`, called `name`.
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
    /// The L2 norm of the whole gradient, before clipping.
    pub grad_norm: f64,
    /// The learning rate used.
    pub learning_rate: f64,
    /// Images per second, over the last steps.
    pub images_per_s: f64,
    /// Seconds of training so far, over all sessions.
    pub elapsed_s: f64,
}

/// How a run ended.
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
