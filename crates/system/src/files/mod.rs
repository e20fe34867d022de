//! Files that appear completely or not at all, and reading without blocking.
//!
//! Content is written to a hidden temporary file beside its destination, is flushed to the disk, and is then
//! renamed: readers see the old file or the new one. A temporary file is removed when its writer fails, when the
//! program ends through [`exit`], and, after a crash, by the next program that writes to the same folder.

mod aside;
mod place;
mod read;
mod write;

pub use aside::{Made, exit, sweep, sweep_own};
pub use place::{check_file, check_folder};
pub use read::{open, read, read_text};
pub use write::{check_replaceable, write, write_folder, write_with};
