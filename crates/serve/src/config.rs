//! The configuration: what flags and the TOML file set.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tweedie_pipe::{EmbeddingFile, LoraFile, Pipeline, PipelineError, RecordedFile, Request};
use tweedie_system::files;

use crate::ServeError;

/// A model that can be served. It is loaded when it is needed first.
pub struct Model {
    /// The name that requests use.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Approximate bytes of its weights in memory.
    pub bytes: u64,
    /// How many times larger per side it makes an image, if that is what it does.
    pub enlarges: Option<usize>,
    /// Loads it.
    pub load: Load,
}

/// See [`Model::load`].
pub type Load = Box<dyn Fn(&Changes) -> Result<Pipeline, PipelineError> + Send + Sync>;

/// What a request adds to a model: it is loaded once more for each of these.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// LoRAs to merge.
    pub loras: Vec<LoraFile>,
    /// Learned tokens.
    pub embeddings: Vec<EmbeddingFile>,
    /// The folders of ControlNets.
    pub controls: Vec<RecordedFile>,
}

impl Changes {
    /// Those of a request.
    pub fn of(request: &Request) -> Self {
        Self {
            loras: request.loras.clone(),
            embeddings: request.embeddings.clone(),
            controls: request.controls.iter().filter_map(|control| control.net.clone()).collect(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.loras.len() + self.embeddings.len() + self.controls.len()
    }

    /// Approximate bytes of weights in memory beside those of the model. LoRAs are merged.
    pub fn bytes(&self) -> u64 {
        let files = |folder: &RecordedFile| std::fs::read_dir(&folder.path).into_iter().flatten().flatten();
        let weights = self.controls.iter().flat_map(files).filter(|file| {
            Path::new(&file.file_name()).extension().is_some_and(|ending| ending == "safetensors")
        });
        weights.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How the server works. The keys of the TOML file are those of this table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address.
    pub listen: SocketAddr,
    /// The folder of the journal, results and uploaded images.
    pub data_dir: PathBuf,
    /// A file of lines `NAME TOKEN`, one per client.
    pub tokens: Option<PathBuf>,
    /// LoRAs that requests can name, by the names of the files without the extension.
    pub loras: Vec<PathBuf>,
    /// Folders of ControlNets that requests can name.
    pub controlnets: Vec<PathBuf>,
    /// Names under which a proxy serves this server, besides loopback addresses. Only checked without tokens.
    pub hosts: Vec<String>,
    /// Whether jobs share calls of the network. Without, they run one after the other.
    pub batching: bool,
    /// Maximum number of rows in one call of the network.
    pub rows: usize,
    /// Memory for weights in MiB; by default half of the available memory.
    pub model_memory: Option<u64>,
    /// Disk space for finished results in MiB; the oldest are deleted.
    pub gallery: u64,
    /// Seconds between two entries of running jobs in the journal.
    pub journal_every: f64,
    /// Minimum seconds between two previews of a job.
    pub preview_every: f64,
    /// Limits for clients.
    pub limits: Limits,
}

/// What one client may ask.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Jobs that are queued or running, of all clients.
    pub queue: usize,
    /// Those of one client.
    pub jobs: usize,
    /// Images in one request.
    pub count: usize,
    /// Steps in one request.
    pub steps: usize,
    /// Pixels in one request: count × height × width.
    pub pixels: usize,
    /// Bytes of the body of a request.
    pub body: usize,
    /// Seconds from acceptance after which a job fails; 0 for none. A request can set less.
    pub seconds: u64,
    /// Whether clients may use the priority `high`.
    pub high_priority: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7860)),
            data_dir: "tweedie-data".into(),
            tokens: None,
            loras: Vec::new(),
            controlnets: Vec::new(),
            hosts: Vec::new(),
            batching: true,
            rows: 32,
            model_memory: None,
            gallery: 4096,
            journal_every: 5.0,
            preview_every: 0.25,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 256,
            jobs: 64,
            count: 64,
            steps: 250,
            pixels: 1 << 24,
            body: 32 << 20,
            seconds: 0,
            high_priority: true,
        }
    }
}

/// The largest file that is read as configuration.
const MOST: u64 = 1 << 20;

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// If it cannot be read, or a key or value is invalid.
    pub fn read(path: &Path) -> Result<Self, ServeError> {
        let text =
            files::read_text(path, MOST).map_err(|source| ServeError::File { path: path.into(), source })?;
        let wrong = |reason: String| ServeError::Config { path: path.into(), reason };
        let config: Self = toml::from_str(&text).map_err(|e| wrong(e.to_string().trim_end().into()))?;
        config.check().map_err(wrong)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let least = [
            ("rows", self.rows),
            ("limits.queue", self.limits.queue),
            ("limits.jobs", self.limits.jobs),
            ("limits.count", self.limits.count),
            ("limits.steps", self.limits.steps),
            ("limits.pixels", self.limits.pixels),
            ("limits.body", self.limits.body),
        ];
        if let Some((key, _)) = least.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` = 0: expected at least 1"));
        }
        for (key, value) in [("journal_every", self.journal_every), ("preview_every", self.preview_every)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("`{key}` = {value}: expected seconds ≥ 0"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("serve.toml");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Config::read(&path)
        };
        let config = read("listen = '127.0.0.1:0'\n[limits]\nqueue = 3\n").unwrap();
        assert_eq!((config.listen.port(), config.limits.queue, config.limits.jobs), (0, 3, 64));
        for (text, words) in [
            ("lisen = 3", "lisen"),
            ("rows = 0", "`rows` = 0"),
            ("[limits]\nqueue = -1", "queue"),
            ("journal_every = nan", "journal_every"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("serve.toml") && error.contains(words), "{error}");
        }
    }
}
