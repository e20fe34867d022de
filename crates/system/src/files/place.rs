//! Whether something can be written at a place, found out before the work for it is done.

use std::{
    fs, io,
    path::{Component, Path},
};

use super::aside::{Aside, parent};

/// Tries whether a file can be written at `path`, and leaves nothing behind: permission bits do not tell of other
/// users' folders, mounts that are only read, and quotas.
///
/// # Errors
/// Why it cannot be written.
pub fn check_file(path: &Path) -> io::Result<()> {
    let folder = parent(path);
    match fs::metadata(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::new(e.kind(), format!("there is no folder {}", folder.display())));
        }
        Ok(m) if !m.is_dir() => {
            let reason = format!("{} is not a folder", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
        }
        other => other.map(drop)?,
    }
    match fs::metadata(path) {
        Ok(m) if m.is_dir() => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, expected the name of a file"))
        }
        // A device or a pipe is written directly.
        Ok(m) if !m.is_file() => Ok(()),
        Ok(_) => Aside::file(&fs::canonicalize(path)?).map(drop),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Aside::file(path).map(drop),
        // Such as a name that is too long.
        Err(e) => Err(e),
    }
}

/// Tries whether the folder `path` can be made, or files in it if it exists, and leaves nothing behind.
///
/// # Errors
/// Why it cannot be written.
pub fn check_folder(path: &Path) -> io::Result<()> {
    /// What Linux, macOS and Windows take.
    const LONGEST_NAME: usize = 255;
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && fs::metadata(p).is_ok());
    let there = there.unwrap_or(Path::new("."));
    if !there.is_dir() {
        let reason = format!("{} is not a folder", there.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
    }
    for part in path.components() {
        if let Component::Normal(name) = part
            && name.len() > LONGEST_NAME
        {
            let reason = format!("a name of {} bytes: expected at most {LONGEST_NAME}", name.len());
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, reason));
        }
    }
    Aside::file(&there.join("probe")).map(drop)
}
