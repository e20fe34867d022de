//! Reads tensors from files.

use anyhow::{Result, anyhow};
use tweedie::{
    hub::SafetensorsFile,
    models::{HostTensor, TensorSource},
};

/// The tensor `name` of a safetensors file.
pub fn read(file: &SafetensorsFile, name: &str) -> Result<HostTensor> {
    /// Maximum number of names in a message.
    const SHOWN: usize = 8;
    file.read(name).map_err(|e| {
        let (place, names) = (file.path().display(), file.names());
        let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        anyhow!("{place}: tensor `{name}`: {e}; the file contains {shown}{more}")
    })
}
