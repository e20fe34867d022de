//! Checkpoints: everything needed for an exact resume, which is the weights, their averages, the optimizer's running means,
//! and the step. Order, noise, times, dropout and augmentation follow from the seed and the step.
//!
//! A checkpoint is a folder `step-000123`, written completely under another name, flushed to the disk, and renamed; its
//! `state.json` names its files with their sizes and CRC-32C checksums, and contains its own, so that damage is
//! recognized.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tweedie_hub::{
    HubError,
    files::{read_text, write_dir_with, write_json},
    weights::{self, Precision, SafetensorsFile},
};
use tweedie_models::params::HostTensor;

use crate::{config::RunConfig, error::TrainError};

/// Version of the format.
const FORMAT: u32 = 1;
const STATE: &str = "state.json";
/// The key of the checksum of `state.json`.
const SUM: &str = "crc32c";

/// The content of `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the format.
    pub format: u32,
    /// Version of the crate that wrote it.
    pub version: String,
    /// Steps done.
    pub step: u64,
    /// Images seen.
    pub images: u64,
    /// Seconds of training.
    pub elapsed_s: f64,
    /// Sum and number of the losses since the last line of the log.
    pub pending: (f64, u64),
    /// Names of the data's classes.
    #[serde(default)]
    pub class_names: Vec<String>,
    /// Lengths that log files are truncated to, by file name in the run's folder.
    pub logs: BTreeMap<String, u64>,
    /// The other files of the checkpoint.
    pub files: BTreeMap<String, Fingerprint>,
    /// Fingerprints of the run's other inputs, compared when it is resumed.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// Configuration of the run.
    pub config: RunConfig,
}

/// Size and checksum of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// CRC-32C checksum.
    pub crc32c: u32,
}

impl Fingerprint {
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = tweedie_system::files::open(path)?;
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
    /// Creates a state for this version.
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
            inputs: BTreeMap::new(),
            config: config.clone(),
        }
    }

    /// Writes it to `state.json` in the folder `path`.
    fn write(&self, path: &Path) -> Result<(), HubError> {
        let path = path.join(STATE);
        let wrong = |e: serde_json::Error| HubError::Format { path: path.clone(), reason: e.to_string() };
        let mut value = serde_json::to_value(self).map_err(wrong)?;
        // Of the values as they will be read.
        value[SUM] = sum(&serde_json::from_str(&value.to_string()).map_err(wrong)?).into();
        write_json(&path, &value)
    }

    /// Reads `state.json` in the folder `path`.
    fn read(path: &Path) -> Result<Self, TrainError> {
        #[derive(Deserialize)]
        struct Layout {
            format: u64,
        }
        let wrong = |reason: String| TrainError::checkpoint(path, format!("{STATE}: {reason}"));
        let text = read_text(&path.join(STATE))?;
        // Another version may have other keys, so the format is read first.
        let Layout { format } = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if format != u64::from(FORMAT) {
            return Err(TrainError::Layout { path: path.into(), found: format, expected: FORMAT });
        }
        let state: Self = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        state.check().map_err(wrong)?;
        let value: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        match value.get(SUM).map(|expected| (expected, sum(&value))) {
            Some((expected, found)) if *expected != found => {
                Err(wrong(format!("damaged: the checksum is {found}, expected {expected}")))
            }
            _ => Ok(state),
        }
    }

    /// Checks that every number is possible for a run.
    fn check(&self) -> Result<(), String> {
        /// A thousand years.
        const LONGEST: f64 = 3.2e10;
        /// Prevents overflow of sums of steps and images.
        const MOST: u64 = 1 << 53;
        let Self { step, images, elapsed_s, pending: (sum, count), .. } = self;
        for (key, value) in [("step", step), ("images", images), ("pending[1]", count)] {
            if *value > MOST {
                return Err(format!("{key} = {value}: expected at most {MOST}"));
            }
        }
        if !(0.0..=LONGEST).contains(elapsed_s) {
            return Err(format!("elapsed_s = {elapsed_s}: expected a value from 0 to {LONGEST}"));
        }
        if !sum.is_finite() {
            return Err(format!("pending[0] = {sum}: expected a finite number"));
        }
        // Names come from a file and must not lead outside the folder.
        match self.files.keys().find(|name| name.contains(['/', '\\']) || name.starts_with('.')) {
            Some(name) => Err(format!("files: `{name}` is not a file name in the same folder")),
            None => Ok(()),
        }
    }
}

/// CRC-32C of a `state.json` without the checksum itself.
fn sum(state: &Value) -> u32 {
    let mut state = state.clone();
    if let Some(keys) = state.as_object_mut() {
        keys.shift_remove(SUM);
    }
    crc32c::crc32c(state.to_string().as_bytes())
}

/// A complete checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// The content of `state.json`.
    pub state: State,
}

impl Checkpoint {
    /// Opens the checkpoint in `path` and verifies its files.
    ///
    /// # Errors
    /// [`TrainError::Checkpoint`] saying which file is missing or damaged; [`TrainError::Layout`] for another version;
    /// errors of the system.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let state = State::read(path)?;
        for (name, expected) in &state.files {
            let file = path.join(name);
            let found = Fingerprint::of(&file).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => TrainError::checkpoint(path, format!("{name} is missing")),
                _ => TrainError::io(&file, e),
            })?;
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
    /// If the file is missing or malformed.
    pub fn tensors(&self, name: &str) -> Result<SafetensorsFile, TrainError> {
        Ok(SafetensorsFile::open(&self.path.join(format!("{name}.safetensors")))?)
    }

    /// Writes a checkpoint; each of `tensors` goes to `NAME.safetensors`.
    ///
    /// # Errors
    /// If something cannot be written; then nothing is left behind.
    pub fn write(
        folder: &Path,
        mut state: State,
        tensors: &[(String, BTreeMap<String, HostTensor>)],
    ) -> Result<Self, TrainError> {
        fs::create_dir_all(folder).map_err(|e| TrainError::io(folder, e))?;
        let path = folder.join(name(state.step));
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        if path.exists() && !path.join(STATE).exists() {
            // An incomplete checkpoint of this step after a crash.
            fs::remove_dir_all(&path).map_err(|e| TrainError::io(&path, e))?;
        }
        write_dir_with(&path, STATE, |aside| {
            state.files.clear();
            for (name, tensors) in tensors {
                let file = format!("{name}.safetensors");
                weights::write(&aside.join(&file), tensors, Precision::F32, &metadata)?;
                let print = Fingerprint::of(&aside.join(&file))
                    .map_err(|source| HubError::Read { path: aside.join(&file), source })?;
                state.files.insert(file, print);
            }
            state.write(aside)
        })?;
        Ok(Self { path, state })
    }
}

/// The folder name of a step's checkpoint.
fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The checkpoints in `folder` by step, complete or not.
///
/// # Errors
/// If the folder exists but cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        other => other.map_err(|e| TrainError::io(folder, e))?,
    };
    for entry in entries {
        let path = entry.map_err(|e| TrainError::io(folder, e))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(step) = name.and_then(|n| n.strip_prefix("step-")?.parse().ok()) {
            if !path.is_dir() {
                return Err(TrainError::checkpoint(&path, "this is a file, expected a folder; move it away"));
            }
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The checkpoint to resume from.
#[derive(Debug, Default)]
pub struct Found {
    /// The latest complete checkpoint; `None` if there is none.
    pub checkpoint: Option<Checkpoint>,
    /// Damaged checkpoints of later steps, with the reasons.
    pub damaged: Vec<(PathBuf, TrainError)>,
}

/// The latest complete checkpoint in `folder`, and later damaged ones.
///
/// # Errors
/// If the folder exists and cannot be read; if all checkpoints are damaged; and if a later one has the format of another
/// version or cannot be read: it may be complete, and resuming from an earlier one would lose it.
pub fn latest(folder: &Path) -> Result<Found, TrainError> {
    let mut damaged = Vec::new();
    for (_, path) in list(folder)?.into_iter().rev() {
        match Checkpoint::open(&path) {
            Ok(checkpoint) => return Ok(Found { checkpoint: Some(checkpoint), damaged }),
            Err(e) if is_damage(&e) => damaged.push((path, e)),
            Err(e) => return Err(e),
        }
    }
    match damaged.len() {
        0 => Ok(Found::default()),
        _ => Err(TrainError::AllDamaged {
            path: folder.into(),
            reasons: damaged.into_iter().map(|(_, e)| e.to_string()).collect(),
        }),
    }
}

/// Whether the error means that a checkpoint is damaged, and not only unreadable for this version or user.
fn is_damage(error: &TrainError) -> bool {
    match error {
        TrainError::Checkpoint { .. } | TrainError::Hub(HubError::Format { .. }) => true,
        TrainError::Hub(HubError::Read { source, .. }) => {
            matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData)
        }
        _ => false,
    }
}

/// Renames a damaged checkpoint, so that the resumed run does not replace it; returns the new path.
///
/// # Errors
/// If it cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, TrainError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = (1..).map(|n| {
        path.with_file_name(match n {
            1 => format!("damaged-{name}"),
            n => format!("damaged-{name}-{n}"),
        })
    });
    for new in names {
        if fs::symlink_metadata(&new).is_err() {
            fs::rename(path, &new).map_err(|e| TrainError::io(path, e))?;
            return Ok(new);
        }
    }
    Ok(path.into())
}

/// Removes all but the `keep` latest checkpoints. Other files and damaged checkpoints stay.
///
/// # Errors
/// If one cannot be removed.
pub fn prune(folder: &Path, keep: usize) -> Result<(), TrainError> {
    for (_, path) in list(folder)?.iter().rev().skip(keep.max(1)) {
        if State::read(path).is_ok() {
            fs::remove_dir_all(path).map_err(|e| TrainError::io(path, e))?;
        }
    }
    Ok(())
}
