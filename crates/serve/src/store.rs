//! Files by the SHA-256 of their content: `inputs/HASH` for uploads, `files/HASH.png` and so on for results. LoRAs and
//! ControlNets of the server are elsewhere and have names.

use std::{
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

/// What requests can refer to by a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A file.
    Lora,
    /// A folder.
    ControlNet,
}

impl Part {
    /// Its name in messages.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Lora => "LoRA",
            Self::ControlNet => "ControlNet",
        }
    }

    /// The folder that stored requests put it in, whose file name tells people what was used.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Lora => "loras",
            Self::ControlNet => "controlnets",
        }
    }
}

/// A part of the server that requests can refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What it is.
    pub part: Part,
    /// Its name: that of the file without the extension, or of the folder.
    pub name: String,
    /// Its place.
    pub path: PathBuf,
    /// The SHA-256 of its content.
    pub sha256: String,
}

/// The files of a data folder.
#[derive(Clone, Debug)]
pub struct Store {
    inputs: PathBuf,
    results: PathBuf,
    named: Arc<[Named]>,
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
        let store = Self { inputs, results, named: Arc::default(), swept: Arc::default() };
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

    /// The same store with LoRAs and ControlNets that requests can name.
    ///
    /// # Errors
    /// If one cannot be read, or two have the same name.
    pub fn with_named(self, paths: &[(Part, &Path)]) -> Result<Self, ServeError> {
        let mut all: Vec<Named> = Vec::new();
        for (part, path) in paths {
            let wrong = |reason: String| ServeError::Config { path: (*path).into(), reason };
            if (*part == Part::ControlNet) != path.is_dir() && path.exists() {
                let kind = if *part == Part::ControlNet { "the folder of a ControlNet" } else { "a file" };
                return Err(wrong(format!("expected {kind}")));
            }
            let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
            let name = name.and_then(|name| name.to_str());
            let name = name.ok_or_else(|| wrong("its name is not UTF-8 text".into()))?;
            let file = RecordedFile::of(path).map_err(|e| wrong(e.to_string()))?;
            if all.iter().any(|other| other.part == *part && other.name == name) {
                let noun = part.noun();
                return Err(wrong(format!("two {noun}s are called `{name}`; rename one")));
            }
            let sha256 = file.sha256.unwrap_or_default();
            all.push(Named { part: *part, name: name.into(), path: (*path).into(), sha256 });
        }
        Ok(Self { named: all.into(), ..self })
    }

    /// The parts of this kind that requests can name.
    pub fn named(&self, part: Part) -> impl Iterator<Item = &Named> {
        self.named.iter().filter(move |named| named.part == part)
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

    /// The bytes of the file that `write` writes to the path that it gets.
    ///
    /// # Errors
    /// Those of `write` and of the system.
    pub fn scratch<E: From<io::Error>>(
        &self,
        ending: &str,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let fresh = self.results.join(format!("{FRESH}{}.{ending}", uuid::Uuid::new_v4().simple()));
        let bytes = write(&fresh).and_then(|()| Ok(fs::read(&fresh)?));
        let _ = fs::remove_file(&fresh);
        bytes
    }

    /// The path of a result, if it exists.
    pub fn result(&self, hash: &str, ending: &str) -> Option<PathBuf> {
        let ending = ENDINGS.iter().find(|known| **known == ending)?;
        let path = is_hash(hash).then(|| self.results.join(format!("{hash}.{ending}")))?;
        path.is_file().then_some(path)
    }

    /// The path of an upload, result, LoRA or ControlNet with this hash.
    pub fn find(&self, hash: &str) -> Option<PathBuf> {
        if let Some(named) = self.named.iter().find(|named| named.sha256 == hash) {
            return Some(named.path.clone());
        }
        self.of_clients(hash)
    }

    /// The path of an upload or result with this hash.
    pub fn of_clients(&self, hash: &str) -> Option<PathBuf> {
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
