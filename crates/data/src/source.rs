//! What every collection of images is to a dataset: a list of entries that can be decoded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use crate::{
    Image, Skipped, Words, decode,
    parquet::{Row, Tables},
    resize::{Frame, fit},
};

/// One image, not decoded.
pub(crate) struct Entry {
    /// Unique within the collection and the same on every machine.
    pub name: String,
    /// Items of one family are never on both sides of the held-out split; the name when absent.
    pub family: Option<String>,
    /// Whatever the share of the held-out part.
    pub held_out: bool,
    pub class: Option<usize>,
    pub words: Arc<Words>,
    pub place: Place,
}

/// Where an entry's encoded image is.
pub(crate) enum Place {
    Bytes(&'static [u8]),
    File(PathBuf),
    Row(Row),
}

#[derive(Default)]
pub(crate) struct Collection {
    pub entries: Vec<Entry>,
    pub class_names: Vec<String>,
    /// What the collection is called when it turns out to be empty, and what would have counted.
    pub place: String,
    pub looked_for: String,
    /// Images known to be missing before any is decoded.
    pub skipped: Vec<Skipped>,
    /// Files that are neither images nor texts about them, by their ending.
    pub passed_over: BTreeMap<String, usize>,
    /// What a [`Place::Row`] is a row of.
    pub tables: Option<Tables>,
}

/// The ending of a file's name in lower case, with its dot; empty if it has none.
pub(crate) fn ending(path: &Path) -> String {
    path.extension().map(|e| format!(".{}", e.to_string_lossy().to_lowercase())).unwrap_or_default()
}

impl Collection {
    /// What a message calls an entry's image.
    pub fn path(&self, index: usize) -> PathBuf {
        let entry = &self.entries[index];
        match (&entry.place, &self.tables) {
            (Place::File(path), _) => path.clone(),
            (Place::Row(row), Some(tables)) => tables.path(*row),
            _ => PathBuf::from(&entry.name),
        }
    }

    /// Decodes one image to the frame.
    pub fn decode(&self, index: usize, frame: &Frame) -> Result<Image, String> {
        let raster = match (&self.entries[index].place, &self.tables) {
            (Place::Bytes(bytes), _) => decode::bytes(bytes)?,
            (Place::File(path), _) => decode::file(path)?,
            (Place::Row(row), Some(tables)) => tables.raster(*row)?,
            (Place::Row(_), None) => return Err("its row is missing".into()),
        };
        Ok(fit(&raster, frame))
    }

    /// Decodes every image to the frame, in the entries' order, on all cores.
    pub fn decode_all(&self, frame: &Frame) -> Vec<Result<Image, String>> {
        match &self.tables {
            Some(tables) => tables.decode_all(frame),
            None => (0..self.entries.len()).into_par_iter().map(|i| self.decode(i, frame)).collect(),
        }
    }
}
