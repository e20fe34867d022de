//! Everything that is needed to go on bit for bit: weights, their averages, the optimizer's running means,
//! and a step. Order, noise, times, dropout and augmentation follow from the seed and the step.
//!
//! A checkpoint is a folder `step-000123`, written aside as a whole, flushed to the disk, and renamed; its
//! `state.json` names its files with their sizes and CRC-32C sums, so that a damaged one is recognized.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tweedie_hub::{
    HubError,
    files::{read_json, write_dir_with, write_json},
    weights::{self, Precision, SafetensorsFile},
};
use tweedie_models::params::HostTensor;

use crate::{config::RunConfig, error::TrainError};

/// The version of the layout.
const FORMAT: u32 = 1;

/// The small part of a checkpoint, `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The layout's version.
    pub format: u32,
    /// The version of this crate that wrote it.
    pub version: String,
    /// Steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// Sum and number of the losses since the log's last line.
    pub pending: (f64, u64),
    /// The names of the data's classes.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Lengths of the logs, to which they are cut back, by file name within the run's folder.
    pub logs: BTreeMap<String, u64>,
    /// The files beside this one.
    pub files: BTreeMap<String, Fingerprint>,
    /// The run.
    pub config: RunConfig,
}

/// By which a file is recognized as whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    /// CRC-32C of them.
    pub crc32c: u32,
}

impl Fingerprint {
    fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        let mut found = Self { size: 0, crc32c: 0 };
        loop {
            let n = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return Ok(found) };
            found.size += n as u64;
            found.crc32c = crc32c::crc32c_append(found.crc32c, bytes);
        }
    }
}

impl State {
    /// For the present version.
    pub(crate) fn new(config: &RunConfig) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").into(),
            step: 0,
            images: 0,
            elapsed_s: 0.0,
            pending: (0.0, 0),
            class_names: Vec::new(),
            logs: BTreeMap::new(),
            files: BTreeMap::new(),
            config: config.clone(),
        }
    }
}

/// A checkpoint on disk that has been found whole.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// Its small part.
    pub state: State,
}

impl Checkpoint {
    /// Opens the checkpoint in `path` and checks that its files are whole.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] saying which file is missing or damaged, or [`TrainError::Hub`].
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let state: State = read_json(&path.join("state.json"))?;
        if state.format != FORMAT {
            let reason = format!("state.json: format {}, expected {FORMAT}", state.format);
            return Err(TrainError::checkpoint(path, reason));
        }
        for (name, expected) in &state.files {
            // Names come from a file: they must not lead elsewhere.
            if name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(TrainError::checkpoint(path, format!("state.json: file name `{name}`")));
            }
            let found = Fingerprint::of(&path.join(name))
                .map_err(|e| TrainError::checkpoint(path, format!("{name}: {e}")))?;
            if found != *expected {
                let reason = format!("{name} is damaged: {found:?}, expected {expected:?}");
                return Err(TrainError::checkpoint(path, reason));
            }
        }
        Ok(Self { path: path.into(), state })
    }

    /// The tensors of `NAME.safetensors`.
    ///
    /// # Errors
    /// When the file is missing or malformed.
    pub fn tensors(&self, name: &str) -> Result<SafetensorsFile, TrainError> {
        Ok(SafetensorsFile::open(&self.path.join(format!("{name}.safetensors")))?)
    }

    /// Writes a checkpoint: `tensors` go to `NAME.safetensors` each.
    ///
    /// # Errors
    /// When something cannot be written; nothing is left behind then.
    pub fn write(
        folder: &Path,
        mut state: State,
        tensors: &[(String, BTreeMap<String, HostTensor>)],
    ) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(|e| TrainError::io(folder, e))?;
        let path = folder.join(name(state.step));
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        if path.exists() && !path.join("state.json").exists() {
            // What a crash or a disk has left of this step's checkpoint: no longer one.
            fs::remove_dir_all(&path).map_err(|e| TrainError::io(&path, e))?;
        }
        write_dir_with(&path, "state.json", |aside| {
            state.files.clear();
            for (name, tensors) in tensors {
                let file = format!("{name}.safetensors");
                weights::write(&aside.join(&file), tensors, Precision::F32, &metadata)?;
                let print = Fingerprint::of(&aside.join(&file))
                    .map_err(|source| HubError::Read { path: aside.join(&file), source })?;
                state.files.insert(file, print);
            }
            write_json(&aside.join("state.json"), &state)
        })?;
        Ok(Self { path, state })
    }
}

/// The folder of a step's checkpoint.
fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The checkpoints in `folder`, by step, whole or not.
///
/// # Errors
/// When the folder exists and cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(|e| TrainError::io(folder, e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| TrainError::io(folder, e))?;
        let step = entry.file_name().to_str().and_then(|n| n.strip_prefix("step-")?.parse().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// The latest whole checkpoint in `folder`, and what was wrong with later ones.
///
/// # Errors
/// When the folder exists and cannot be read.
pub fn latest(folder: &Path) -> Result<(Option<Checkpoint>, Vec<TrainError>), TrainError> {
    let mut wrong = Vec::new();
    for (_, path) in list(folder)?.into_iter().rev() {
        match Checkpoint::open(&path) {
            Ok(checkpoint) => return Ok((Some(checkpoint), wrong)),
            Err(e) => wrong.push(e),
        }
    }
    Ok((None, wrong))
}

/// Removes all but the `keep` latest checkpoints, what lies later than `newest`, and what an interrupted
/// write left aside.
///
/// # Errors
/// When something cannot be removed.
pub fn prune(folder: &Path, keep: usize, newest: u64) -> Result<(), TrainError> {
    let remove = |path: &Path| fs::remove_dir_all(path).map_err(|e| TrainError::io(path, e));
    let found = list(folder)?;
    let (kept, later): (Vec<_>, Vec<_>) = found.into_iter().partition(|(step, _)| *step <= newest);
    for (_, path) in later.iter().chain(kept.iter().rev().skip(keep.max(1))) {
        remove(path)?;
    }
    for entry in fs::read_dir(folder).map_err(|e| TrainError::io(folder, e))?.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with(".step-") && n.ends_with(".tmp")) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
