//! What can go wrong between a path and a picture.

use std::path::PathBuf;

/// An error of this crate. Every message names the file, key or item it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The configured path does not exist.
    #[error("{what} {} does not exist", path.display())]
    Missing {
        /// What was expected there, such as "the image folder".
        what: &'static str,
        /// The configured path.
        path: PathBuf,
    },
    /// A path exists but is of the wrong kind.
    #[error("{} is not {expected}", path.display())]
    WrongKind {
        /// The configured path.
        path: PathBuf,
        /// What was expected.
        expected: &'static str,
    },
    /// Nothing to learn from.
    #[error("no images in {place}: looked for {looked_for}")]
    Empty {
        /// The folder, file or collection.
        place: String,
        /// What would have counted.
        looked_for: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// An image that cannot be decoded.
    #[error("corrupt image {}: {reason}", path.display())]
    Corrupt {
        /// The image's file, or its name within a container.
        path: PathBuf,
        /// The decoder's complaint.
        reason: String,
    },
    /// A Parquet file that cannot be read, or has no column of images.
    #[error("{}: {reason}", path.display())]
    Parquet {
        /// The Parquet file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A captions file that cannot be understood.
    #[error("{}, line {line}: {reason}", path.display())]
    Captions {
        /// The captions file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with the line.
        reason: String,
    },
    /// A configuration value outside its range.
    #[error("{key} = {value}: expected {expected}")]
    Config {
        /// The key as written in the configuration.
        key: &'static str,
        /// The value found.
        value: String,
        /// The values allowed.
        expected: &'static str,
    },
    /// An index past the end.
    #[error("item {index} of a dataset of {len}")]
    Index {
        /// The index asked for.
        index: usize,
        /// The dataset's length.
        len: usize,
    },
}

/// An image that was left out under `on_error = "skip"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The image's file, or its name within a container (`train.parquet#17`).
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}
