//! Locks the folder of a run while a [`TrainLoop`](crate::TrainLoop) exists, so that only one process trains it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use tweedie_system::files::Made;

use crate::error::TrainError;

/// The operating system releases the lock when this is dropped or the process ends.
pub(crate) struct FolderLock {
    /// The folder, if this created it: removed before the lock is released, unless [`FolderLock::begun`] was called.
    made: Option<Made>,
    _file: File,
}

impl FolderLock {
    /// Creates the folder if it does not exist, and locks it.
    pub(crate) fn take(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(".lock");
        loop {
            let made = make(folder).map_err(|e| TrainError::io(folder, e))?;
            let file = match File::create(&path) {
                Ok(file) => file,
                // Another process has just removed the folder that it created.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(TrainError::io(&path, e)),
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    return Ok(Self { _file: file, made: made.map(|path| Made::new(&path)) });
                }
                // Another process has removed the file that it created.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(TrainError::Busy { path: folder.into() }),
                Err(TryLockError::Error(e)) => return Err(TrainError::io(&path, e)),
            }
        }
    }

    /// Keeps the folder, because it contains a run now.
    pub(crate) fn begun(&mut self) {
        if let Some(made) = self.made.take() {
            made.keep();
        }
    }
}

/// Creates `folder` and its parents; returns it if it did not exist.
fn make(folder: &Path) -> io::Result<Option<PathBuf>> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => Ok(Some(folder.into())),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether `path` is still `file`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let second = FolderLock::take(folder.path()).err().unwrap();
        assert!(second.to_string().contains("another process"), "{second}");
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
    #[test]
    fn only_its_own_folder_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("deep/new"), folder.path().join("old"));
        fs::create_dir(&old).unwrap();
        drop((FolderLock::take(&new).unwrap(), FolderLock::take(&old).unwrap()));
        assert!(!new.exists() && old.exists());
        // A second one that waits while the first fails creates its own folder.
        let first = FolderLock::take(&new).unwrap();
        assert!(FolderLock::take(&new).is_err() && new.exists());
        drop(first);
        FolderLock::take(&new).unwrap().begun();
        assert!(new.exists());
    }
}
