//! Checks before the work whether its result can be written.

use std::{
    fs, io,
    path::{Component, Path},
};

use super::aside::{Aside, parent};

/// Checks whether a file can be written at `path` by creating one and removing it: permission bits do not account for
/// other users' folders, read-only mounts and quotas.
///
/// # Errors
/// The reason why it cannot be written.
pub fn check_file(path: &Path) -> io::Result<()> {
    let folder = parent(path);
    match fs::metadata(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::new(e.kind(), format!("no such folder: {}", folder.display())));
        }
        Ok(m) if !m.is_dir() => {
            let reason = format!("{} is not a folder", folder.display());
            return Err(io::Error::new(io::ErrorKind::NotADirectory, reason));
        }
        other => other.map(drop)?,
    }
    match fs::metadata(path) {
        Ok(m) if m.is_dir() => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a folder, expected a file name"))
        }
        // A device or a pipe is written directly.
        Ok(m) if !m.is_file() => Ok(()),
        Ok(_) => Aside::file(&fs::canonicalize(path)?).map(drop),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Aside::file(path).map(drop),
        // For example a name that is too long.
        Err(e) => Err(e),
    }
}

/// Checks whether the folder `path`, or files in it if it exists, can be created; leaves nothing behind.
///
/// # Errors
/// The reason why it cannot be written.
pub fn check_folder(path: &Path) -> io::Result<()> {
    /// The limit of Linux, macOS and Windows.
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
            let reason = format!("the name has {} bytes, expected at most {LONGEST_NAME}", name.len());
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, reason));
        }
    }
    Aside::file(&there.join("probe")).map(drop)
}
