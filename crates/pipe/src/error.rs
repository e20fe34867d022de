use std::path::PathBuf;

use tweedie_hub::HubError;
use tweedie_system::memory::TooLittle;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A model's file is missing or not understood, or a file cannot be written.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The request asks for what the model cannot give.
    #[error("request: `{field}`: {reason}")]
    Request {
        /// Which of its fields.
        field: &'static str,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The run broke off.
    #[error("step {step} of {of}: {reason}")]
    Step {
        /// Counted from 1.
        step: usize,
        /// All steps.
        of: usize,
        /// What went wrong.
        reason: String,
    },
    /// The network could not answer, or answered with numbers that are not finite.
    #[error("the model broke off: {reason}")]
    Model {
        /// What went wrong.
        reason: String,
    },
    /// More memory than is available.
    #[error("{what}: {source}; lower {lower}")]
    Memory {
        /// The fields that ask for it.
        what: String,
        /// How much.
        source: TooLittle,
        /// Which fields lower it.
        lower: &'static str,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A picture that cannot be stored in this format.
    #[error("{}: {reason}", path.display())]
    Media {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// A component whose output is not finite, because of a weight that is not or of too large values.
pub(crate) fn broken(component: &str, weight: Option<String>) -> PipelineError {
    let cause = weight.map_or(String::new(), |name| format!(": its weight `{name}` is not finite"));
    PipelineError::Model { reason: format!("the output of `{component}` is not finite{cause}") }
}

impl PipelineError {
    pub(crate) fn request(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Request { field, reason: reason.into() }
    }
}
