//! Files that appear whole or not at all.
//!
//! What is written goes to a hidden file beside its destination, is flushed to the disk, and is then
//! renamed: readers see the old file or the new one, and a failure leaves no partial file behind.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::HubError;

/// Replaces the file at `path` by `bytes`. Its folder must exist.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// Replaces the file at `path` by what `fill` writes; if `fill` fails, whatever was at `path` stays.
/// A link is followed; a device or pipe is written directly.
pub fn write_atomic_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), HubError> {
    replace(path, fill).map_err(|e| HubError::write(path, e))
}

/// Writes `value` as indented JSON with a final newline.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), HubError> {
    write_atomic_with(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Reads a JSON file. An error names the file, and the line and column or the key.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, HubError> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|e| HubError::format(path, format!("not the JSON expected: {e}")))
}

/// Reads a file of UTF-8 text.
pub fn read_text(path: &Path) -> Result<String, HubError> {
    fs::read_to_string(path).map_err(|e| HubError::read(path, e))
}

/// Creates a folder and its parents, if it is not there yet.
pub fn create_dir(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|e| HubError::write(path, e))
}

/// Replaces the folder at `path` by one that `fill` writes, as a whole: the new folder is made beside
/// it and renamed, and then the old one is removed. A folder that is neither empty nor holds a file
/// called `marker` is not ours to replace, which is an error.
pub fn write_dir_with(
    path: &Path,
    marker: &str,
    fill: impl FnOnce(&Path) -> Result<(), HubError>,
) -> Result<(), HubError> {
    let wrap = |e| HubError::write(path, e);
    replaceable(path, marker).map_err(wrap)?;
    let aside = Aside(beside(path).map_err(wrap)?);
    fs::create_dir(&aside.0).map_err(wrap)?;
    fill(&aside.0).map_err(|e| e.moved(&aside.0, path))?;
    sync_dir(&aside.0).map_err(wrap)?;
    let old = match fs::symlink_metadata(path) {
        Ok(_) => {
            let old = Aside(beside(path).map_err(wrap)?);
            fs::rename(path, &old.0).map_err(wrap)?;
            Some(old)
        }
        Err(_) => None,
    };
    if let Err(e) = fs::rename(&aside.0, path) {
        if let Some(old) = &old {
            // Put back what was there; if even that fails, the first error is the one to report.
            let _ = fs::rename(&old.0, path);
        }
        return Err(wrap(e));
    }
    sync_parent(path).map_err(wrap)
}

/// Whether [`write_dir_with`] would replace what is at `path`, before the work is done.
///
/// # Errors
/// If `path` is a folder of something else, or the folder that it lies in is not there.
pub fn check_dir(path: &Path, marker: &str) -> Result<(), HubError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(HubError::write(path, io::Error::new(io::ErrorKind::NotFound, "it lies in no folder")));
    }
    replaceable(path, marker).map_err(|e| HubError::write(path, e))
}

fn replaceable(path: &Path, marker: &str) -> io::Result<()> {
    let foreign = match fs::metadata(path) {
        Err(_) => false,
        Ok(m) if m.is_dir() => !path.join(marker).exists() && fs::read_dir(path)?.next().is_some(),
        Ok(_) => true,
    };
    let reason = || format!("it exists and is not a folder with a `{marker}`; it is left as it is");
    if foreign { Err(io::Error::new(io::ErrorKind::AlreadyExists, reason())) } else { Ok(()) }
}

fn replace(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let path = match fs::metadata(path) {
        Ok(m) if m.is_dir() => return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder")),
        Ok(m) if !m.is_file() => {
            let mut out = BufWriter::new(OpenOptions::new().write(true).open(path)?);
            fill(&mut out)?;
            return out.flush();
        }
        Ok(_) => fs::canonicalize(path)?,
        Err(_) => path.to_path_buf(),
    };
    let aside = Aside(beside(&path)?);
    let file = OpenOptions::new().write(true).create_new(true).open(&aside.0)?;
    write_synced(file, fill)?;
    fs::rename(&aside.0, &path)?;
    sync_parent(&path)
}

fn write_synced(file: File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// A name beside `path` that no other thread or process uses.
fn beside(path: &Path) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a name"))?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{count}.tmp", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// Renames live in the folder: without this a power cut may undo them.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

#[cfg(unix)]
fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes its path when dropped, if it is still there.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        if fs::remove_file(&self.0).is_err() {
            // Not a file: a folder, or renamed to its destination already.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
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
