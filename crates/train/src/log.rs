//! The log of a run: JSON lines and a TensorBoard event file. Both are only appended to, and truncated when the run resumes
//! from a checkpoint.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{
    error::TrainError,
    event::{Figure, Step},
    task::Validation,
    tensorboard::{self, Summary},
};

pub(crate) const LINES: &str = "log.jsonl";
const EVENTS: &str = "tensorboard/events.out.tfevents.tweedie";

/// The points of the loss curves so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curves {
    pub train: Vec<(u64, f64)>,
    pub held_out: Vec<(u64, f64)>,
    pub held_out_ema: Vec<(u64, f64)>,
}

/// Both files, open for appending.
pub(crate) struct Log {
    lines: Append,
    events: Append,
    pub curves: Curves,
}

impl Log {
    /// Opens the log in the folder `out`, truncated to `lengths`: lines and events after a checkpoint belong to steps that will
    /// be repeated, and the last line may be incomplete.
    pub fn open(out: &Path, lengths: &BTreeMap<String, u64>) -> Result<Self, TrainError> {
        let length = |name| lengths.get(name).copied().unwrap_or(0);
        let lines = Append::open(out.join(LINES), length(LINES))?;
        let mut events = Append::open(out.join(EVENTS), length(EVENTS))?;
        if events.length == 0 {
            events.write(&tensorboard::header(now()))?;
        }
        let text = fs::read(&lines.path).map_err(|e| TrainError::io(&lines.path, e))?;
        Ok(Self { lines, events, curves: Curves::read(&text) })
    }

    /// The current lengths, after flushing to the disk.
    pub fn lengths(&mut self) -> Result<BTreeMap<String, u64>, TrainError> {
        self.lines.sync()?;
        self.events.sync()?;
        Ok(BTreeMap::from([(LINES.to_owned(), self.lines.length), (EVENTS.to_owned(), self.events.length)]))
    }

    /// Logs a step, with the mean `loss` since the last line, and its other `figures`.
    pub fn step(&mut self, step: &Step, loss: f64, figures: &[Figure]) -> Result<(), TrainError> {
        self.curves.train.push((step.step, loss));
        let line = json!({
            "event": "step",
            "step": step.step,
            "images": step.images,
            "loss": loss,
            "grad_norm": step.grad_norm,
            "learning_rate": step.learning_rate,
            "images_per_s": step.images_per_s,
            "elapsed_s": step.elapsed_s,
        });
        self.line(line, figures)?;
        let scalars = [
            ("loss/train", loss),
            ("optimizer/grad_norm", step.grad_norm),
            ("optimizer/learning_rate", step.learning_rate),
            ("images_per_s", step.images_per_s),
        ];
        self.scalars(step.step, &scalars, "train", figures)
    }

    /// Logs a validation.
    pub fn validation(&mut self, step: u64, found: &Validation) -> Result<(), TrainError> {
        let Validation { loss, ema_loss, figures } = found;
        self.curves.held_out.push((step, *loss));
        self.curves.held_out_ema.extend(ema_loss.map(|e| (step, e)));
        let line = json!({"event": "validation", "step": step, "loss": loss, "ema_loss": ema_loss});
        self.line(line, figures)?;
        let scalars: Vec<_> = [("loss/held_out", Some(*loss)), ("loss/held_out_ema", *ema_loss)]
            .into_iter()
            .filter_map(|(n, v)| Some((n, v?)))
            .collect();
        self.scalars(step, &scalars, "held_out", figures)
    }

    /// Logs a grid of samples, given as a PNG file.
    pub fn preview(&mut self, step: u64, width: usize, height: usize, png: &[u8]) -> Result<(), TrainError> {
        self.events.write(&tensorboard::event(
            now(),
            step,
            &[Summary::Image { tag: "samples", width, height, png }],
        ))
    }

    fn scalars(
        &mut self,
        step: u64,
        scalars: &[(&'static str, f64)],
        group: &str,
        figures: &[Figure],
    ) -> Result<(), TrainError> {
        let tags: Vec<_> = figures.iter().map(|f| (format!("{group}/{}", f.name), f.value)).collect();
        let scalars = scalars.iter().copied().chain(tags.iter().map(|(tag, value)| (tag.as_str(), *value)));
        let scalars: Vec<_> = scalars.map(|(tag, value)| Summary::Scalar { tag, value }).collect();
        self.events.write(&tensorboard::event(now(), step, &scalars))
    }

    fn line(&mut self, mut value: Value, figures: &[Figure]) -> Result<(), TrainError> {
        if !figures.is_empty() {
            let figures = figures.iter().map(|f| (f.name.clone(), json!(f.value)));
            value["figures"] = Value::Object(figures.collect());
        }
        self.lines.write(format!("{value}\n").as_bytes())
    }
}

impl Curves {
    fn read(text: &[u8]) -> Self {
        let mut curves = Self::default();
        for line in text.split(|&b| b == b'\n') {
            let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
            let (Some(step), loss) = (value["step"].as_u64(), value["loss"].as_f64()) else { continue };
            match value["event"].as_str() {
                Some("step") => curves.train.extend(loss.map(|l| (step, l))),
                Some("validation") => {
                    curves.held_out.extend(loss.map(|l| (step, l)));
                    curves.held_out_ema.extend(value["ema_loss"].as_f64().map(|l| (step, l)));
                }
                _ => {}
            }
        }
        curves
    }
}

/// Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A file that is appended to.
struct Append {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Append {
    /// Opens it truncated to `length`; a shorter file is not changed.
    fn open(path: PathBuf, length: u64) -> Result<Self, TrainError> {
        let open = || {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut file =
                OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let length = length.min(file.metadata()?.len());
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            Ok((file, length))
        };
        let (file, length) = open().map_err(|e| TrainError::io(&path, e))?;
        Ok(Self { path, file, length })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.file.write_all(bytes).map_err(|e| TrainError::io(&self.path, e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(|e| TrainError::io(&self.path, e))
    }
}
