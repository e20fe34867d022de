//! Errors of reading and writing model files.

use std::path::{Path, PathBuf};

/// A file that cannot be read, understood or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file cannot be written. What was at `path` before is unchanged.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason, for example no space, no permission or a missing folder.
        source: std::io::Error,
    },
    /// The file is truncated, corrupt or of another format.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A PyTorch pickle instead of a safetensors file.
    #[error(
        "{}: this is a PyTorch pickle, which can run code when loaded and is never read. Convert it to safetensors in Python: {}",
        path.display(),
        convert(path)
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A tensor of a file is missing, has the wrong shape or type, or cannot be stored.
    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A key of a configuration file is unknown, or its value is not supported.
    #[error("{}: `{key}`: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Name of the key.
        key: String,
        /// What was found, and what is supported.
        reason: String,
    },
    /// `config.json` does not describe a network.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, and what was expected.
        source: tweedie_models::unet::ConfigError,
    },
    /// The weights do not match the network in the configuration.
    #[error("{}: {source}", path.display())]
    Params {
        /// The weights file.
        path: PathBuf,
        /// The tensor, and what was expected.
        source: tweedie_models::params::ParamError,
    },
}

/// A line of Python that converts the pickle at `path` to a safetensors file.
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
    /// The same error with the temporary folder `aside` replaced by its destination `place`.
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
