//! Files that determine a result, recorded with their content.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tweedie_hub::HubError;
use tweedie_media::MediaError;
use tweedie_system::files;

use crate::PipelineError;

/// A file, or the folder of a network, and the SHA-256 of its content, in hexadecimal. That of a folder is the hash of the
/// names and hashes of its JSON and safetensors files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedFile {
    /// The path.
    pub path: PathBuf,
    /// The content. Without it, any content is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A LoRA and the scale with which it is merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraFile {
    /// The file.
    pub file: RecordedFile,
    /// The scale.
    pub scale: f64,
}

/// A learned token: a textual inversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingFile {
    /// The file.
    pub file: RecordedFile,
    /// The word of prompts; by default as the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl RecordedFile {
    /// The file at `path` with its present content.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(path: &Path) -> Result<Self, PipelineError> {
        Ok(Self { path: path.into(), sha256: Some(sha256(path)?) })
    }

    /// Checks that the file still has the recorded content.
    ///
    /// # Errors
    /// If it cannot be read or has changed.
    pub fn check(&self) -> Result<(), PipelineError> {
        let Some(expected) = &self.sha256 else { return Ok(()) };
        let found = sha256(&self.path)?;
        match found.eq_ignore_ascii_case(expected) {
            true => Ok(()),
            false => {
                let reason = format!(
                    "the file has changed since the request was stored: its SHA-256 is {found}, expected {expected}"
                );
                Err(MediaError::Format { path: self.path.clone(), reason }.into())
            }
        }
    }
}

fn sha256(path: &Path) -> Result<String, PipelineError> {
    let read = |source| HubError::Read { path: path.into(), source };
    if path.is_dir() {
        return folder_sha256(path);
    }
    let mut file = files::open(path).map_err(read)?;
    let (mut hash, mut part) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut part).map_err(read)? {
            0 => break,
            n => hash.update(&part[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn folder_sha256(folder: &Path) -> Result<String, PipelineError> {
    let read = |source| HubError::Read { path: folder.into(), source };
    let entries: Vec<_> = std::fs::read_dir(folder).and_then(Iterator::collect).map_err(read)?;
    let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "json" || ending == "safetensors"));
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        hash.update(format!("{name} {}\n", sha256(&file)?));
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value for "abc" is an example of FIPS 180-4.
    #[test]
    fn a_changed_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        let file = RecordedFile::of(&path).unwrap();
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(file.sha256.as_deref(), Some(expected));
        file.check().unwrap();
        std::fs::write(&path, "abd").unwrap();
        let error = file.check().unwrap_err().to_string();
        assert!(error.contains("has changed") && error.contains(expected), "{error}");
        RecordedFile { sha256: None, ..file }.check().unwrap();
    }
}
