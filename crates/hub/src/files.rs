//! The files of models: JSON, text, and whole folders. See `tweedie-system` for how they are written.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::HubError;

/// Maximum size of a text or JSON file; that of a large vocabulary has tens of megabytes.
const LONGEST_TEXT: u64 = 1 << 28;

/// Replaces the file at `path` with `bytes`. Its folder must exist.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// Replaces the file at `path` with the output of `fill`. If `fill` fails, `path` is unchanged. Links are followed; devices
/// and pipes are written directly.
pub fn write_atomic_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), HubError> {
    tweedie_system::files::write_with(path, fill).map_err(|e| HubError::write(path, e))
}

/// Writes `value` as indented JSON with a final newline.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HubError> {
    write_atomic_with(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Reads a JSON file. Errors name the file, and the line and column or the key.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, HubError> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| HubError::format(path, format!("invalid JSON: {e}")))
}

/// Reads a regular file of UTF-8 text, at most 256 MiB.
pub fn read_text(path: &Path) -> Result<String, HubError> {
    tweedie_system::files::read_text(path, LONGEST_TEXT).map_err(|e| HubError::read(path, e))
}

/// Creates a folder and its parents, if they do not exist.
pub fn create_dir(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|e| HubError::write(path, e))
}

/// Replaces the folder at `path` as a whole with one that `fill` writes: the new folder is created beside it and renamed,
/// then the old one is removed. It is an error if `path` is a folder that is neither empty nor contains a file called
/// `marker`.
pub fn write_dir_with(
    path: &Path,
    marker: &str,
    fill: impl FnOnce(&Path) -> Result<(), HubError>,
) -> Result<(), HubError> {
    let fill = |aside: &Path| fill(aside).map_err(|e| e.moved(aside, path));
    tweedie_system::files::write_folder(path, marker, |e| HubError::write(path, e), fill)
}

/// Checks before the work whether [`write_dir_with`] could replace what is at `path`.
///
/// # Errors
/// If `path` is a folder with other content, its parent folder is missing, or nothing can be written there.
pub fn check_dir(path: &Path, marker: &str) -> Result<(), HubError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let check = || {
        if !parent.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the path has no parent folder"));
        }
        tweedie_system::files::check_replaceable(path, marker)?;
        // The new folder is created beside it.
        tweedie_system::files::check_folder(path)?;
        tweedie_system::files::check_file(&parent.join("probe"))
    };
    check().map_err(|e| HubError::write(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_whole_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    fn failure_leaves_the_old_file_and_no_partial_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write_atomic(&path, b"old").unwrap();
        let error = write_atomic_with(&path, |out| {
            out.write_all(b"half of the ne")?;
            Err(io::ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.bin"), "{error}");
        assert!(error.to_string().contains("no storage space"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.bin"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_device_says_so() {
        let error = write_atomic(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(error.to_string().contains("No space left on device"), "{error}");
    }

    #[test]
    fn missing_folder_and_folder_in_the_way_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_atomic(&dir.path().join("no/a.bin"), b"x").unwrap_err();
        assert!(error.to_string().contains("a.bin"), "{error}");
        let error = write_atomic(dir.path(), b"x").unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn a_link_keeps_pointing_to_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn folders_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        write_dir_with(&path, "a", |d| write_atomic(&d.join("a"), b"1")).unwrap();
        write_dir_with(&path, "a", |d| write_atomic(&d.join("b"), b"2")).unwrap();
        assert_eq!(names(&path), ["b"]);
        let failed = write_dir_with(&path, "b", |d| {
            write_atomic(&d.join("c"), b"3")?;
            Err(HubError::format(d, "stop"))
        });
        assert_eq!(failed.unwrap_err().to_string(), format!("{}: stop", path.display()));
        let foreign = write_dir_with(&path, "other", |_| Ok(())).unwrap_err();
        assert!(foreign.to_string().contains("`other`"), "{foreign}");
        assert_eq!(names(&path), ["b"]);
        assert_eq!(names(dir.path()), ["model"]);
    }
}
