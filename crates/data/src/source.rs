//! The common form of all collections of images: a list of entries that can be decoded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use crate::{
    Image, Skipped, Words, decode,
    packed::{Files, Stretch},
    parquet::{Row, Tables},
    resize::{Frame, Raster, fit},
};

/// One image that is not decoded yet.
pub(crate) struct Entry {
    /// Unique within the collection and the same on every machine.
    pub name: String,
    /// Items of one family are never on both sides of the held-out split; by default the name.
    pub family: Option<String>,
    /// Held out whatever the fraction is.
    pub held_out: bool,
    pub class: Option<usize>,
    pub words: Arc<Words>,
    pub place: Place,
}

/// The place of an entry's encoded image.
pub(crate) enum Place {
    Bytes(&'static [u8]),
    File(PathBuf),
    Row(Row),
    Stretch(Stretch),
}

#[derive(Default)]
pub(crate) struct Collection {
    pub entries: Vec<Entry>,
    pub class_names: Vec<String>,
    /// The collection's name, for the error that it is empty.
    pub place: String,
    pub looked_for: String,
    /// Images known to be missing before decoding.
    pub skipped: Vec<Skipped>,
    /// Number of files that are neither images nor captions, by extension.
    pub passed_over: BTreeMap<String, usize>,
    /// The tables of [`Place::Row`].
    pub tables: Option<Tables>,
    /// The files of [`Place::Stretch`].
    pub files: Files,
    /// What the contents were recognized as; empty for other sources.
    pub recognized_as: String,
}

/// The file extension in lower case, with its dot; empty if there is none.
pub(crate) fn ending(path: &Path) -> String {
    path.extension().map(|e| format!(".{}", e.to_string_lossy().to_lowercase())).unwrap_or_default()
}

impl Collection {
    /// The name of an entry's image in messages.
    pub fn path(&self, index: usize) -> PathBuf {
        let entry = &self.entries[index];
        match (&entry.place, &self.tables) {
            (Place::File(path), _) => path.clone(),
            (Place::Row(row), Some(tables)) => tables.path(*row),
            _ => PathBuf::from(&entry.name),
        }
    }

    /// Decodes one image.
    pub fn decode(&self, index: usize, frame: &Frame) -> Result<Image, String> {
        Ok(fit(&self.raster(index)?, frame))
    }

    /// Decodes one image, as it is.
    pub fn raster(&self, index: usize) -> Result<Raster, String> {
        Ok(match (&self.entries[index].place, &self.tables) {
            (Place::Bytes(bytes), _) => decode::bytes(bytes)?,
            (Place::File(path), _) => decode::file(path)?,
            (Place::Stretch(stretch), _) => stretch.raster(&self.files)?,
            (Place::Row(row), Some(tables)) => tables.raster(*row)?,
            (Place::Row(_), None) => return Err("the row is missing".into()),
        })
    }

    /// Decodes all images in order, on all cores.
    pub fn decode_all(&self, frame: &Frame) -> Vec<Result<Image, String>> {
        match &self.tables {
            Some(tables) => tables.decode_all(frame),
            None => (0..self.entries.len()).into_par_iter().map(|i| self.decode(i, frame)).collect(),
        }
    }
}
