//! Temporary files and folders beside their destination, and the removal of abandoned ones.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tempfile::Builder;

const PREFIX: &str = ".tweedie-";
const SUFFIX: &str = ".tmp";

#[derive(Default)]
struct Open {
    /// Files being written, and folders created for work that has not succeeded yet.
    paths: BTreeSet<PathBuf>,
    /// Folders whose stale files have been removed.
    swept: BTreeSet<PathBuf>,
}

fn all() -> MutexGuard<'static, Open> {
    static ALL: Mutex<Open> = Mutex::new(Open { paths: BTreeSet::new(), swept: BTreeSet::new() });
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process after removing all incomplete files. Signal handlers should call this instead of
/// [`std::process::exit`].
pub fn exit(code: i32) -> ! {
    // Held until the end, so that no new file is started.
    let open = all();
    for path in &open.paths {
        // Other threads may still be adding files to a folder.
        for _ in 0..5 {
            remove(path);
        }
    }
    std::process::exit(code)
}

fn remove(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

/// A file or folder of this process that is removed with its content, on drop and by [`exit`], unless it is
/// [kept](Made::keep).
#[derive(Debug)]
pub struct Made(Option<PathBuf>);

impl Made {
    /// Owns what this process has created at `path`.
    pub fn new(path: &Path) -> Self {
        all().paths.insert(path.into());
        Self(Some(path.into()))
    }

    /// Does not remove it.
    pub fn keep(mut self) {
        self.release();
    }

    fn release(&mut self) -> Option<PathBuf> {
        let path = self.0.take()?;
        all().paths.remove(&path);
        Some(path)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
        self.release();
    }
}

/// A temporary file or folder. It is locked while its writer runs, so that [`sweep`] recognizes stale ones.
pub(crate) struct Aside {
    pub path: PathBuf,
    /// `None` where folders cannot be opened.
    pub file: Option<File>,
    made: Made,
}

impl Aside {
    /// An empty file in the folder of `path`.
    pub fn file(path: &Path) -> io::Result<Self> {
        Self::of(path, 0o666, |builder, folder| {
            let (file, path) = builder.tempfile_in(folder)?.into_parts();
            Ok((path.keep().map_err(|e| e.error)?, Some(file)))
        })
    }

    /// An empty folder in the folder of `path`.
    pub fn folder(path: &Path) -> io::Result<Self> {
        Self::of(path, 0o777, |builder, folder| {
            let path = builder.tempdir_in(folder)?.keep();
            let handle = File::open(&path).ok();
            Ok((path, handle))
        })
    }

    fn of(
        path: &Path,
        mode: u32,
        make: impl Fn(&Builder<'_, '_>, &Path) -> io::Result<(PathBuf, Option<File>)>,
    ) -> io::Result<Self> {
        let folder = parent(path);
        sweep_once(folder);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(12);
        // The usual permissions, restricted by the user's mask.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
        #[cfg(not(unix))]
        let _ = mode;
        loop {
            let mut open = all();
            let (path, file) = make(&builder, folder).map_err(without_name)?;
            open.paths.insert(path.clone());
            drop(open);
            let made = Made(Some(path.clone()));
            // Another process may have swept it before it was locked.
            let lost = file.as_ref().is_some_and(|f| matches!(f.try_lock(), Err(TryLockError::WouldBlock)));
            if !lost && path.exists() {
                return Ok(Self { path, file, made });
            }
        }
    }

    /// Renames it to its destination.
    pub fn rename(self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.made.keep();
        Ok(())
    }
}

/// The system's error without the temporary name, which would confuse users.
fn without_name(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" at path ") {
        Some((reason, _)) => io::Error::new(error.kind(), reason),
        None => error,
    }
}

/// The folder that contains `path`.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes from `folder` the temporary files and folders of processes that have ended without removing them.
pub fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if name.to_str().is_some_and(is_aside) && !all().paths.contains(&path) {
            remove_if_stale(&path);
        }
    }
}

/// Like [`sweep`], for a folder that no other process writes to, which the caller guarantees. Also removes the
/// temporary files of versions up to 0.1.0, which did not lock them.
pub fn sweep_own(folder: &Path) {
    sweep(folder);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_old_aside) {
            remove(&entry.path());
        }
    }
}

/// `.NAME.PROCESS-COUNT.tmp`.
fn is_old_aside(name: &str) -> bool {
    let middle = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(SUFFIX));
    let numbers = middle.and_then(|middle| middle.rsplit_once('.')?.1.split_once('-'));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(process, count)| digits(process) && digits(count))
}

/// Once per process and folder, so that writing many files to a folder does not search it each time.
fn sweep_once(folder: &Path) {
    if all().swept.insert(folder.into()) {
        sweep(folder);
    }
}

fn is_aside(name: &str) -> bool {
    let middle = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    middle.and_then(|middle| middle.split_once('-')).is_some_and(|(process, random)| {
        let digits = !process.is_empty() && process.bytes().all(|b| b.is_ascii_digit());
        digits && random.len() == 12 && random.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// Its writer has ended if it is not locked.
fn remove_if_stale(path: &Path) {
    if let Ok(file) = File::open(path)
        && file.try_lock().is_ok()
    {
        remove(path);
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
    fn names_differ_and_what_is_not_kept_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let (one, two) = (Aside::file(&path).unwrap(), Aside::file(&path).unwrap());
        let folder = Aside::folder(&path).unwrap();
        fs::write(folder.path.join("inside"), "").unwrap();
        assert_eq!(names(dir.path()).len(), 3);
        assert!(names(dir.path()).iter().all(|name| is_aside(name)), "{:?}", names(dir.path()));
        two.rename(&path).unwrap();
        drop((one, folder));
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn errors_do_not_name_the_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = Aside::file(&dir.path().join("none/a")).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains("tweedie"), "{error}");
    }

    #[test]
    #[cfg(unix)]
    fn only_what_nobody_writes_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let used = Aside::file(&dir.path().join("a")).unwrap();
        let used_folder = Aside::folder(&dir.path().join("b")).unwrap();
        for name in [".tweedie-1-abcdefghijkl.tmp", ".tweedie-1-short.tmp", ".a.1-0.tmp"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir_all(dir.path().join(".tweedie-2-ABCDEFGHIJKL.tmp/deep")).unwrap();
        sweep(dir.path());
        let left = names(dir.path());
        assert_eq!(left.len(), 4, "{left:?}");
        assert!(used.path.exists() && used_folder.path.exists());
        // As another process would see it.
        all().paths.remove(&used.path);
        sweep(dir.path());
        assert!(used.path.exists(), "locked");
        sweep_own(dir.path());
        assert_eq!(names(dir.path()).len(), 3, "{:?}", names(dir.path()));
    }

    #[test]
    #[cfg(unix)]
    fn files_have_the_permissions_that_new_files_have() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        fs::write(dir.path().join("plain"), "").unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        let (file, folder) = (Aside::file(&dir.path().join("a")).unwrap(), dir.path().join("b"));
        let aside = Aside::folder(&folder).unwrap();
        assert_eq!(mode(&file.path), mode(&dir.path().join("plain")));
        assert_eq!(mode(&aside.path), mode(&dir.path().join("folder")));
    }
}
