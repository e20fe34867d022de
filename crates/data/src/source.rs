//! The common form of all collections: a list of entries that can be decoded.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use rayon::prelude::*;

use crate::{
    Skipped, Words, decode,
    form::{Content, Decode},
    moving::Scene,
    packed::{Files, Stretch},
    parquet::{Row, Tables},
    repaint::{Paint, repaint},
};

/// One item that is not decoded yet.
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

/// The place of an entry's content.
pub(crate) enum Place {
    Bytes(&'static [u8]),
    /// Built-in artwork in another colour.
    Repainted(&'static [u8], Paint),
    File(PathBuf),
    /// A file or a folder that is opened by who decodes it.
    Path(PathBuf),
    Row(Row),
    Stretch(Stretch),
    /// A clip that is drawn when it is needed.
    Moving(Scene),
}

impl Place {
    /// The part of a file that is read at once; the same for all places that are read one by one.
    pub fn run(&self) -> [usize; 2] {
        match self {
            Self::Bytes(_) | Self::Repainted(..) | Self::File(_) | Self::Path(_) | Self::Moving(_) => [0, 0],
            Self::Row(row) => [row.file, row.group],
            Self::Stretch(stretch) => stretch.run(),
        }
    }
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
            (Place::File(path) | Place::Path(path), _) => path.clone(),
            (Place::Row(row), Some(tables)) => tables.path(*row),
            _ => PathBuf::from(&entry.name),
        }
    }

    /// Applies `decode` to the content of an item.
    pub fn decode<T>(
        &self,
        index: usize,
        decode: impl FnOnce(Content<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        match (&self.entries[index].place, &self.tables) {
            (Place::Bytes(bytes), _) => decode(Content::Encoded(bytes)),
            (Place::Repainted(bytes, paint), _) => {
                let mut raster = decode::bytes(bytes)?;
                repaint(&mut raster, paint.color);
                decode(Content::Pixels(raster))
            }
            (Place::Moving(scene), _) => decode(Content::Moving(scene)),
            (Place::File(path), _) => decode::of_file(path, |bytes| decode(Content::Encoded(bytes))),
            (Place::Path(path), _) => decode(Content::File(path)),
            (Place::Stretch(stretch), _) => stretch.decode(&self.files, decode),
            (Place::Row(row), Some(tables)) => tables.decode(*row, |bytes| decode(Content::Encoded(bytes))),
            (Place::Row(_), None) => Err("the row is missing".into()),
        }
    }

    /// Decodes all items in order, on all cores.
    pub fn decode_all<D: Decode>(&self, by: &D) -> Vec<Result<D::Sample, String>> {
        match &self.tables {
            Some(tables) => tables.decode_all(&|bytes| by.decode(Content::Encoded(bytes))),
            None => {
                let all = (0..self.entries.len()).into_par_iter();
                all.map(|i| self.decode(i, |content| by.decode(content))).collect()
            }
        }
    }
}
