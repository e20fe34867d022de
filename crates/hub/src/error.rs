//! What can be wrong with files.

use std::path::{Path, PathBuf};

/// A file that could not be read, understood or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file could not be written. Nothing is left at `path` but what was there before.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why: no space, no permission, no such folder.
        source: std::io::Error,
    },
    /// The file is not what its name says: truncated, corrupt, or of another format.
    #[error("{}: {reason}", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A tensor of a file is missing, of the wrong shape or type, or cannot be stored.
    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// A key of a configuration file is unknown, or its value unsupported.
    #[error("{}: `{key}`: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was found, and what is supported.
        reason: String,
    },
    /// The weights do not fit the network that the configuration describes.
    #[error("{}: {source}", path.display())]
    Params {
        /// The weights.
        path: PathBuf,
        /// Which tensor, and what was expected and found.
        source: tweedie_models::params::ParamError,
    },
}

impl HubError {
    pub(crate) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.into(), source }
    }

    pub(crate) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Write { path: path.into(), source }
    }

    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.into(), reason: reason.into() }
    }

    pub(crate) fn tensor(path: &Path, name: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { path: path.into(), name: name.into(), reason: reason.into() }
    }

    pub(crate) fn key(path: &Path, key: &str, reason: impl Into<String>) -> Self {
        Self::Key { path: path.into(), key: key.into(), reason: reason.into() }
    }
}
