use tweedie_hub::HubError;
use tweedie_media::MediaError;
use tweedie_ops::DeviceFailure;
use tweedie_system::{memory::TooLittle, ranks::Unreachable};

/// Why sampling failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A model file is missing or invalid, or a file cannot be written.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The request is invalid or does not suit the model.
    #[error("request: `{field}`: {reason}")]
    Request {
        /// Name of the field.
        field: &'static str,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A step failed.
    #[error("step {step} of {of}: {reason}")]
    Step {
        /// Number of the step, counted from 1.
        step: usize,
        /// Number of all steps.
        of: usize,
        /// The reason.
        reason: String,
    },
    /// The network failed, or its output is not finite.
    #[error("the model failed: {reason}")]
    Model {
        /// The reason.
        reason: String,
    },
    /// The request needs more memory than is available.
    #[error("{what}: {source}; lower {lower}")]
    Memory {
        /// The fields that determine it.
        what: String,
        /// The amounts.
        source: TooLittle,
        /// The fields that lower it.
        lower: &'static str,
    },
    /// The device failed: its memory does not suffice, or it is gone.
    #[error(transparent)]
    Device(#[from] DeviceFailure),
    /// The caller cancelled the run.
    #[error("cancelled")]
    Cancelled,
    /// A media file cannot be read or written.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The error of another rank.
    #[error("rank {rank}: {reason}")]
    Rank {
        /// The rank.
        rank: usize,
        /// Its error.
        reason: String,
    },
    /// Another rank has ended.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
}

/// The error for a component whose output is not finite, because a weight is not finite or values overflow.
pub(crate) fn broken(component: &str, weight: Option<String>) -> PipelineError {
    let cause = weight.map_or(String::new(), |name| format!(": weight `{name}` is not finite"));
    PipelineError::Model { reason: format!("the output of `{component}` is not finite{cause}") }
}

impl PipelineError {
    pub(crate) fn request(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Request { field, reason: reason.into() }
    }
}
