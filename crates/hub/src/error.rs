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
    /// PyTorch's own format, where a safetensors file was expected.
    #[error(
        "{}: a pickle of PyTorch, which can run code and is never read. Convert it to safetensors in Python: {}",
        path.display(),
        convert(path)
    )]
    Pickle {
        /// Which.
        path: PathBuf,
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
    /// `config.json` describes no network.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which key, and what was expected.
        source: tweedie_models::unet::ConfigError,
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

/// A line of Python that makes a safetensors file of the pickle at `path`.
fn convert(path: &Path) -> String {
    format!(
        "import torch, safetensors.torch as s; d = torch.load({:?}, map_location='cpu', weights_only=True); \
         d = d.get('state_dict', d); \
         s.save_file({{k: v.clone() for k, v in d.items() if torch.is_tensor(v)}}, {:?})",
        path.display().to_string(),
        path.with_extension("safetensors").display().to_string()
    )
}

impl HubError {
    /// The same error of a file that was being written in folder `aside`, as one of folder `place`.
    pub(crate) fn moved(mut self, aside: &Path, place: &Path) -> Self {
        let (Self::Read { path, .. }
        | Self::Write { path, .. }
        | Self::Format { path, .. }
        | Self::Pickle { path }
        | Self::Tensor { path, .. }
        | Self::Key { path, .. }
        | Self::Config { path, .. }
        | Self::Params { path, .. }) = &mut self;
        if let Ok(rest) = path.strip_prefix(aside) {
            *path = if rest.as_os_str().is_empty() { place.into() } else { place.join(rest) };
        }
        self
    }

    pub(crate) fn pickle(path: &Path) -> Self {
        Self::Pickle { path: path.into() }
    }

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
