//! Writing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::Path,
};

use super::aside::{Aside, parent};

/// Replaces the file at `path` with `bytes`. Its folder must exist.
///
/// # Errors
/// Those of the system; then `path` is unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Replaces the file at `path` with the output of `fill`. A link is followed; a device or pipe is written directly.
///
/// # Errors
/// Those of `fill` and of the system; then `path` is unchanged.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let path = match fs::metadata(path) {
        Ok(m) if m.is_dir() => return Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a folder")),
        Ok(m) if !m.is_file() => {
            let mut out = BufWriter::new(OpenOptions::new().write(true).open(path)?);
            fill(&mut out)?;
            return out.flush();
        }
        Ok(_) => fs::canonicalize(path)?,
        Err(_) => path.to_path_buf(),
    };
    let aside = Aside::file(&path)?;
    if let Some(file) = &aside.file {
        write_synced(file, fill)?;
    }
    aside.rename(&path)?;
    sync_folder(parent(&path))
}

fn write_synced(file: &File, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    out.flush()?;
    file.sync_all()
}

/// Replaces the folder at `path` as a whole: a new folder is created beside it, filled by `fill`, and renamed, and then the
/// old one is removed. A folder that is neither empty nor contains a file called `marker` is not replaced. `wrap`
/// converts errors of the system.
///
/// # Errors
/// Those of `fill` and of the system; then `path` is unchanged.
pub fn write_folder<E>(
    path: &Path,
    marker: &str,
    wrap: impl Fn(io::Error) -> E,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    check_replaceable(path, marker).map_err(&wrap)?;
    let aside = Aside::folder(path).map_err(&wrap)?;
    fill(&aside.path)?;
    sync_folder(&aside.path).map_err(&wrap)?;
    put_in_place(aside, path).map_err(&wrap)
}

fn put_in_place(aside: Aside, path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        aside.rename(path)?;
    } else if exchange(&aside.path, path).is_err() {
        let old = Aside::folder(path)?;
        fs::remove_dir(&old.path)?;
        fs::rename(path, &old.path)?;
        if let Err(e) = aside.rename(path) {
            // If even that fails, the first error is the one to report.
            let _ = old.rename(path);
            return Err(e);
        }
    }
    sync_folder(parent(path))
}

/// Exchanges two folders atomically, so that one is at `path` whenever the process or the machine stops.
#[cfg(target_os = "linux")]
fn exchange(aside: &Path, path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    // A link is replaced, not what it points to.
    Ok(renameat_with(CWD, aside, CWD, path, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Checks whether [`write_folder`] would replace what is at `path`.
///
/// # Errors
/// If it would not.
pub fn check_replaceable(path: &Path, marker: &str) -> io::Result<()> {
    let foreign = match fs::metadata(path) {
        Err(_) => false,
        Ok(m) if m.is_dir() => !path.join(marker).exists() && fs::read_dir(path)?.next().is_some(),
        Ok(_) => true,
    };
    let reason = || format!("it exists and does not contain a `{marker}`, so it is not replaced");
    if foreign { Err(io::Error::new(io::ErrorKind::AlreadyExists, reason())) } else { Ok(()) }
}

/// A rename is stored in the folder: without this a power cut may undo it.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
