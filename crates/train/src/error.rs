//! What can go wrong in a training run.

use std::path::{Path, PathBuf};

use tweedie_data::DataError;
use tweedie_hub::HubError;
use tweedie_system::memory::TooLittle;

/// Errors of this crate. Every message names the file, key, tensor or step it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A configuration value that cannot be used.
    #[error("{key} = {value}: expected {expected}")]
    Config {
        /// The dotted key.
        key: String,
        /// The value found.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// A configuration that does not parse; the reason names the key.
    #[error("{origin}: {reason}")]
    Toml {
        /// The file, preset or assignment.
        origin: String,
        /// The parser's answer.
        reason: String,
    },
    /// The images.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Model files.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The network's configuration or weights.
    #[error("model: {0}")]
    Model(String),
    /// The device.
    #[error("run.device: {0}")]
    Device(String),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// A loss or gradient that is infinite or not a number. The weights of that step are not kept.
    #[error("step {step}: {what} is not finite; {}", last_good(.checkpoint))]
    NotFinite {
        /// The step that was being made.
        step: u64,
        /// The loss, or the parameter whose gradient it is.
        what: String,
        /// The last checkpoint on disk.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint in the layout of another version.
    #[error(
        "checkpoint {}: state.json has format {found}, expected {expected}: it was written by another version of \
         tweedie, which can go on from it",
        path.display()
    )]
    Layout {
        /// Its folder.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The one that this version reads.
        expected: u32,
    },
    /// No checkpoint of a run is whole.
    #[error(
        "no checkpoint in {} can be read, and nothing was changed; to begin again from step 0, move that folder away: \
         {}",
        path.display(),
        reasons.join("; ")
    )]
    AllDamaged {
        /// The folder of checkpoints.
        path: PathBuf,
        /// What is wrong with each.
        reasons: Vec<String>,
    },
    /// A new run in a folder with parts of another.
    #[error("{} holds {what} of a run but no config.toml: choose another run.out, or move it away", path.display())]
    Leftover {
        /// The folder.
        path: PathBuf,
        /// Which parts.
        what: &'static str,
    },
    /// A stop was requested while a step was waiting for its images.
    #[error("stopped")]
    Stopped,
    /// More memory than is available.
    #[error("{source}: {what}")]
    Memory {
        /// What takes it, and which keys lower that.
        what: String,
        /// How much.
        source: TooLittle,
    },
    /// Resuming with another configuration.
    #[error("cannot resume {}: the configuration differs in {}", path.display(), keys.join(", "))]
    Changed {
        /// The run's folder.
        path: PathBuf,
        /// The keys, with both values.
        keys: Vec<String>,
    },
    /// A new run in a folder that holds one.
    #[error("{} already holds a run: resume it, or choose another run.out", path.display())]
    Occupied {
        /// The run's folder.
        path: PathBuf,
    },
    /// A run that is being trained already.
    #[error("{} is being trained by another process", path.display())]
    Busy {
        /// The run's folder.
        path: PathBuf,
    },
    /// The thread that prepares batches ended.
    #[error("the data thread ended: {0}")]
    DataThread(String),
    /// Sampling a preview failed.
    #[error("preview: {0}")]
    Preview(#[from] tweedie_core::Halt),
    /// A picture could not be drawn.
    #[error("drawing {}: {reason}", path.display())]
    Drawing {
        /// The picture's file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn last_good(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "no checkpoint was written yet".into(),
    }
}

impl TrainError {
    pub(crate) fn config(key: impl Into<String>, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Config { key: key.into(), value: value.to_string(), expected: expected.into() }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl ToString) -> Self {
        Self::Checkpoint { path: path.into(), reason: reason.to_string() }
    }
}
