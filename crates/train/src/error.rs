//! Errors of training runs.

use std::path::{Path, PathBuf};

use tweedie_data::{DataError, MediaError};
use tweedie_hub::HubError;
use tweedie_system::{memory::TooLittle, ranks::Unreachable};

/// Errors of this crate. Every message names the file, key, tensor or step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A configuration value that is invalid.
    #[error("{key} = {value}: expected {expected}")]
    Config {
        /// The dotted key.
        key: String,
        /// The value found.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// A configuration that is not valid TOML; the reason names the key.
    #[error("{origin}: {reason}")]
    Toml {
        /// The file, preset or assignment.
        origin: String,
        /// The parser's error.
        reason: String,
    },
    /// An error of the data set.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An image cannot be written.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// An error of a model file.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// An error of the network's configuration or weights.
    #[error("model: {0}")]
    Model(String),
    /// An error of the device.
    #[error("run.device: {0}")]
    Device(String),
    /// An error of the operating system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// A loss or gradient that is not finite. The weights of that step are not kept.
    #[error("step {step}: {what} is not finite; {}", last_good(.checkpoint))]
    NotFinite {
        /// The failed step.
        step: u64,
        /// The loss, or the parameter of the gradient.
        what: String,
        /// The last checkpoint on disk.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint that cannot be used.
    #[error("checkpoint {}: {reason}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// A checkpoint with the format of another version.
    #[error(
        "checkpoint {}: state.json has format {found}, expected {expected}; resume it with the version of tweedie that \
         wrote it",
        path.display()
    )]
    Layout {
        /// Its folder.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The format that this version reads.
        expected: u32,
    },
    /// All checkpoints of a run are damaged.
    #[error(
        "no checkpoint in {} can be read, and nothing was changed; to restart from step 0, move that folder away: \
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
    /// A new run in a folder that contains parts of another.
    #[error("{} contains {what} of a run but no config.toml; choose another run.out, or move it away", path.display())]
    Leftover {
        /// The folder.
        path: PathBuf,
        /// The parts.
        what: &'static str,
    },
    /// A stop was requested while a step was waiting for its images.
    #[error("stopped")]
    Stopped,
    /// The run needs more memory than is available.
    #[error("{source}: {what}")]
    Memory {
        /// What needs the memory, and the keys that lower it.
        what: String,
        /// The amounts.
        source: TooLittle,
    },
    /// A run that is resumed with another configuration.
    #[error("cannot resume {}: the configuration differs in {}", path.display(), keys.join(", "))]
    Changed {
        /// The run's folder.
        path: PathBuf,
        /// The keys that differ, with both values.
        keys: Vec<String>,
    },
    /// A new run in a folder that already contains one.
    #[error("{} already contains a run; resume it, or choose another run.out", path.display())]
    Occupied {
        /// The run's folder.
        path: PathBuf,
    },
    /// A run that is already being trained.
    #[error("{} is being trained by another process", path.display())]
    Busy {
        /// The run's folder.
        path: PathBuf,
    },
    /// The error of another rank of the run.
    #[error("rank {rank}: {reason}")]
    Rank {
        /// The rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// Another rank of the run has ended.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// Ranks of a run that must be equal differ.
    #[error("rank {rank}{host} differs from rank 0 in {}", what.join(", "))]
    Differ {
        /// The rank.
        rank: usize,
        /// Its machine, as ` (on NAME)`; empty if it is that of rank 0.
        host: String,
        /// What differs, with both values.
        what: Vec<String>,
    },
    /// The thread that prepares batches failed.
    #[error("the data thread failed: {0}")]
    DataThread(String),
    /// Sampling a preview failed.
    #[error("preview: {0}")]
    Preview(#[from] tweedie_pipe::PipelineError),
    /// A plot that cannot be drawn.
    #[error("cannot draw {}: {reason}", path.display())]
    Drawing {
        /// Path of the image.
        path: PathBuf,
        /// The reason.
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
