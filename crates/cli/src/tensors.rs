//! Tensors that users pass in files.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tweedie::{
    hub::SafetensorsFile,
    models::{HostTensor, TensorSource},
};

/// The tensor `name` of a safetensors file.
pub fn read(file: &SafetensorsFile, name: &str) -> Result<HostTensor> {
    let place = file.path().display();
    file.read(name)
        .map_err(|e| anyhow!("{place}: tensor `{name}`: {e}; the file holds: {}", file.names().join(", ")))
}

/// The tensor `name` of the file at `path`.
pub fn read_one(path: &Path, name: &str) -> Result<HostTensor> {
    let file = SafetensorsFile::open(path)?;
    read(&file, name).with_context(|| format!("cannot read {}", path.display()))
}
