//! Read-only memory maps.

use std::{fs::File, io, path::Path};

use memmap2::Mmap;

/// Maps the file at `path`, which must not be changed while it is in use. A file that is replaced by
/// renaming, as [`crate::files`] does, keeps its old content under the map.
#[allow(unsafe_code)]
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the map is read-only and private to the reader. Nothing in this project modifies a
    // weight file in place: files are written aside and renamed, which leaves mapped ones intact.
    unsafe { Mmap::map(&file) }
}
