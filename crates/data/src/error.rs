//! Errors of reading data sets.

use std::path::PathBuf;

/// An error of this crate. Every message names the file, key or item.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The configured path does not exist.
    #[error("{what} {} does not exist", path.display())]
    Missing {
        /// What was expected there, for example "the image folder".
        what: &'static str,
        /// The configured path.
        path: PathBuf,
    },
    /// A path is of the wrong kind.
    #[error("{} is not {expected}", path.display())]
    WrongKind {
        /// The configured path.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// There are no images, or no items of another medium.
    #[error("no {noun} in {place}; expected {looked_for}")]
    Empty {
        /// What was looked for, in the plural.
        noun: &'static str,
        /// The folder, file or collection.
        place: String,
        /// What was expected.
        looked_for: String,
    },
    /// An error of the operating system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// An image or a sound that cannot be decoded.
    #[error("corrupt {what} {}: {reason}", path.display())]
    Corrupt {
        /// What it is: "image" or "sound".
        what: &'static str,
        /// Its file, or its name within a container.
        path: PathBuf,
        /// The decoder's error.
        reason: String,
    },
    /// A clip that cannot be read.
    #[error("{}: {reason}", path.display())]
    Clip {
        /// The file, or the folder of frames.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A Parquet file that cannot be read, or has no column of images.
    #[error("{}: {reason}", path.display())]
    Parquet {
        /// The Parquet file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An archive or an array that cannot be read, or holds no images.
    #[error("{}: {reason}", path.display())]
    Packed {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A captions file that is invalid.
    #[error("{}, line {line}: {reason}", path.display())]
    Captions {
        /// The captions file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// What is wrong with the line.
        reason: String,
    },
    /// A configuration value out of range.
    #[error("{key} = {value}: expected {expected}")]
    Config {
        /// The key in the configuration.
        key: &'static str,
        /// The value found.
        value: String,
        /// The allowed values.
        expected: &'static str,
    },
    /// The images that change places do not fit in the buffer.
    #[error(
        "data.buffer_mb = {found}: expected at least {needed} for data.shuffle = {shuffle}, because {path} has row groups \
         of up to {largest} MiB; or lower data.shuffle",
        path = path.display()
    )]
    Buffer {
        /// The value found.
        found: usize,
        /// The least value.
        needed: usize,
        /// The images that change places.
        shuffle: usize,
        /// The largest row group in MiB.
        largest: usize,
        /// The Parquet file or folder.
        path: PathBuf,
    },
    /// An index out of range.
    #[error("item {index} is out of range; the data set has {len} items")]
    Index {
        /// The requested index.
        index: usize,
        /// Number of items.
        len: usize,
    },
}

/// An image that was skipped with `on_error = "skip"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The image file, or its name within a container (`train.parquet#17`).
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}
