//! One run, one process: the folder is locked while a [`TrainLoop`](crate::TrainLoop) lives.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use crate::error::TrainError;

/// The operating system lets go when this is dropped, however the process ends.
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Makes the folder if it is missing.
    pub(crate) fn take(folder: &Path) -> Result<Self, TrainError> {
        std::fs::create_dir_all(folder).map_err(|e| TrainError::io(folder, e))?;
        let path = folder.join(".lock");
        let file = File::create(&path).map_err(|e| TrainError::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(TrainError::Busy { path: folder.into() }),
            Err(TryLockError::Error(e)) => Err(TrainError::io(&path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_waits_its_turn() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::take(folder.path()).unwrap();
        let second = FolderLock::take(folder.path()).err().unwrap();
        assert!(second.to_string().contains("another process"), "{second}");
        drop(first);
        FolderLock::take(folder.path()).unwrap();
    }
}
