//! Files by the SHA-256 of their content: `inputs/HASH` for uploads, `files/HASH.png` and so on for results.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tweedie_pipe::RecordedFile;
use tweedie_system::files;

use crate::ServeError;

/// Endings of results.
pub const ENDINGS: [&str; 2] = ["png", "wav"];

const HOUR: Duration = Duration::from_secs(3600);
/// The start of the names of results that are being written.
const FRESH: &str = "new-";

/// The files of a data folder.
#[derive(Clone, Debug)]
pub struct Store {
    inputs: PathBuf,
    results: PathBuf,
    /// LoRAs elsewhere by their names, with the SHA-256 of their content.
    loras: Arc<BTreeMap<String, (String, PathBuf)>>,
    /// When unused uploads were deleted last.
    swept: Arc<Mutex<Option<Instant>>>,
}

/// A stored result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The SHA-256 of its content, in hexadecimal.
    pub sha256: String,
    /// The ending of its name.
    pub ending: &'static str,
    /// Its length.
    pub bytes: u64,
}

/// The SHA-256 of `bytes` in hexadecimal.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Store {
    /// The store in this folder, which is created.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn open(folder: &Path) -> Result<Self, ServeError> {
        let (inputs, results) = (folder.join("inputs"), folder.join("files"));
        let store = Self { inputs, results, loras: Arc::default(), swept: Arc::default() };
        for path in [&store.inputs, &store.results] {
            fs::create_dir_all(path).map_err(|source| ServeError::File { path: path.clone(), source })?;
            // What an earlier run has left half-written.
            files::sweep(path);
        }
        let left = fs::read_dir(&store.results).into_iter().flatten().flatten();
        for entry in left.filter(|entry| entry.file_name().to_string_lossy().starts_with(FRESH)) {
            let _ = fs::remove_file(entry.path());
        }
        Ok(store)
    }

    /// The same store with LoRAs that requests can name.
    ///
    /// # Errors
    /// If a file cannot be read, or two have the same name.
    pub fn with_loras(self, paths: &[PathBuf]) -> Result<Self, ServeError> {
        let mut loras = BTreeMap::new();
        for path in paths {
            let wrong = |reason: String| ServeError::Config { path: path.clone(), reason };
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| wrong("the name of a LoRA must be UTF-8 text".into()))?;
            let file = RecordedFile::of(path).map_err(|e| wrong(e.to_string()))?;
            let hash = file.sha256.unwrap_or_default();
            if loras.insert(name.to_owned(), (hash, path.clone())).is_some() {
                return Err(wrong(format!("two LoRAs are called `{name}`; rename a file")));
            }
        }
        Ok(Self { loras: loras.into(), ..self })
    }

    /// The names of the LoRAs.
    pub fn loras(&self) -> impl Iterator<Item = &str> {
        self.loras.keys().map(String::as_str)
    }

    /// The SHA-256 of the LoRA of this name.
    pub fn lora(&self, name: &str) -> Option<&str> {
        self.loras.get(name).map(|(hash, _)| hash.as_str())
    }

    /// Stores an upload and returns its hash.
    ///
    /// # Errors
    /// Those of the system.
    pub fn put_input(&self, bytes: &[u8]) -> io::Result<String> {
        let hash = hash(bytes);
        let path = self.inputs.join(&hash);
        // Also if it exists: it is young again, so it is not deleted before a job uses it.
        files::write(&path, bytes)?;
        Ok(hash)
    }

    /// Stores the file that `write` writes to the path that it gets.
    ///
    /// # Errors
    /// Those of `write` and of the system.
    pub fn put_result<E: From<io::Error>>(
        &self,
        ending: &'static str,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Stored, E> {
        let fresh = self.results.join(format!("{FRESH}{}.{ending}", uuid::Uuid::new_v4().simple()));
        let stored = write(&fresh).and_then(|()| {
            let bytes = fs::read(&fresh)?;
            let sha256 = hash(&bytes);
            fs::rename(&fresh, self.results.join(format!("{sha256}.{ending}")))?;
            Ok(Stored { sha256, ending, bytes: bytes.len() as u64 })
        });
        if stored.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        stored
    }

    /// The path of a result, if it exists.
    pub fn result(&self, hash: &str, ending: &str) -> Option<PathBuf> {
        let ending = ENDINGS.iter().find(|known| **known == ending)?;
        let path = is_hash(hash).then(|| self.results.join(format!("{hash}.{ending}")))?;
        path.is_file().then_some(path)
    }

    /// The path of an upload, result or LoRA with this hash.
    pub fn find(&self, hash: &str) -> Option<PathBuf> {
        if let Some((_, path)) = self.loras.values().find(|(own, _)| own == hash) {
            return Some(path.clone());
        }
        let path = is_hash(hash).then(|| self.inputs.join(hash))?;
        if path.is_file() {
            return Some(path);
        }
        ENDINGS.iter().find_map(|ending| self.result(hash, ending))
    }

    /// Deletes uploads that are older than a day and not used, at most once per hour.
    pub fn sweep_inputs(&self, is_used: impl Fn(&str) -> bool) {
        let mut last = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < HOUR) {
            return;
        }
        *last = Some(Instant::now());
        for entry in fs::read_dir(&self.inputs).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
            let name = entry.file_name();
            if let Some(hash) = name.to_str().filter(|name| is_hash(name))
                && age.is_some_and(|age| age > 24 * HOUR)
                && !is_used(hash)
            {
                self.delete_input(hash);
            }
        }
    }

    /// Deletes a result. It need not exist.
    pub fn delete_result(&self, hash: &str, ending: &str) {
        if let Some(path) = self.result(hash, ending) {
            let _ = fs::remove_file(path);
        }
    }

    /// Deletes an upload. It need not exist.
    pub fn delete_input(&self, hash: &str) {
        if is_hash(hash) {
            let _ = fs::remove_file(self.inputs.join(hash));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_have_the_name_of_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let stored = store.put_result("png", |path| fs::write(path, "abc")).unwrap();
        // The hash of "abc" is an example of FIPS 180-4.
        assert_eq!(stored.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(fs::read(store.result(&stored.sha256, "png").unwrap()).unwrap(), b"abc");
        assert_eq!(store.result(&stored.sha256, "exe"), None);
        assert_eq!(store.result("../inputs/a", "png"), None);
        let failed = store.put_result("png", |path| {
            fs::write(path, "half")?;
            Err(io::Error::other("full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(dir.path().join("files")).unwrap().count(), 1);
        store.delete_result(&stored.sha256, "png");
        assert_eq!(store.find(&stored.sha256), None);
    }
}
