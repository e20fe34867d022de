//! What every collection of images is to a dataset: a list of entries that can be decoded.

use std::path::{Path, PathBuf};

use crate::{
    Image, decode,
    resize::{Frame, Raster, fit},
};

/// One image, not decoded.
pub(crate) struct Entry {
    /// Unique within the collection and the same on every machine.
    pub name: String,
    /// Items of one family are never on both sides of the held-out split; the name when absent.
    pub family: Option<String>,
    pub class: Option<usize>,
    pub caption: Option<String>,
    pub place: Place,
}

/// Where an entry's encoded image is.
pub(crate) enum Place {
    Bytes(&'static [u8]),
    File(PathBuf),
}

impl Entry {
    /// What an error message calls it.
    pub fn path(&self) -> &Path {
        match &self.place {
            Place::File(path) => path,
            Place::Bytes(_) => Path::new(&self.name),
        }
    }
}

#[derive(Default)]
pub(crate) struct Collection {
    pub entries: Vec<Entry>,
    pub class_names: Vec<String>,
    /// What the collection is called when it turns out to be empty, and what would have counted.
    pub place: String,
    pub looked_for: String,
}

impl Collection {
    /// Decodes one image to the frame.
    pub fn decode(&self, index: usize, frame: &Frame) -> Result<Image, String> {
        Ok(fit(&self.raster(index)?, frame))
    }

    fn raster(&self, index: usize) -> Result<Raster, String> {
        match &self.entries[index].place {
            Place::Bytes(bytes) => decode::bytes(bytes),
            Place::File(path) => decode::file(path),
        }
    }
}
