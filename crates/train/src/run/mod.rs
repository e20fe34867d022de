//! The training loop as an iterator: steps, checkpoints, exact resume, logs, validation, previews and the finished model, for
//! any task. The caller controls progress and stopping.

mod advance;
mod save;

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tweedie_data::Dataset;
use tweedie_hub::files::write_atomic;

use crate::{
    checkpoint::{self, Found, State},
    config::{ConfigBuilder, RunConfig},
    error::TrainError,
    event::TrainEvent,
    lock::FolderLock,
    log::{self, Log},
    post_hoc::SNAPSHOTS,
    task::{self, Size, Task},
};

/// A training run. Iterating it trains; each item is an event. It ends after an error.
///
/// ```no_run
/// use tweedie_train::{ConfigBuilder, TrainEvent, TrainLoop};
///
/// let config = ConfigBuilder::preset("tiny")?.set("run.steps=50")?.build()?;
/// for event in TrainLoop::new(config)? {
///     if let TrainEvent::Step(step) = event? {
///         eprintln!("{} {}", step.step, step.loss);
///     }
/// }
/// # Ok::<(), tweedie_train::TrainError>(())
/// ```
pub struct TrainLoop {
    config: RunConfig,
    data: Dataset,
    /// Number of its images reported as corrupt.
    skipped: usize,
    task: Box<dyn Task>,
    state: State,
    log: Log,
    saved: Option<PathBuf>,
    /// The steps of the latest validation, preview and checkpoint.
    done: Done,
    events: VecDeque<TrainEvent>,
    stop: StopHandle,
    session: Option<Instant>,
    recent: VecDeque<Instant>,
    phase: Phase,
    lock: FolderLock,
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    validation: Option<u64>,
    preview: Option<u64>,
    save: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    Training,
    Over,
}

/// Requests that a run saves and stops, from any thread.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// The run saves and stops after the current step.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

const CHECKPOINTS: &str = "checkpoints";
const CONFIG: &str = "config.toml";

impl TrainLoop {
    /// Creates a new run in the folder `run.out`.
    ///
    /// # Errors
    /// If the folder already contains a run or cannot be written, or the data, model or device do not match the configuration.
    pub fn new(config: RunConfig) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        vacant(&config.run.out)?;
        let lock = FolderLock::take(&config.run.out)?;
        // Another process may have started a run meanwhile.
        vacant(&config.run.out)?;
        Self::build(config, lock, Found::default(), Vec::new())
    }

    /// Resumes the run in the folder `out` from its latest complete checkpoint, with its own configuration.
    ///
    /// # Errors
    /// Those of [`TrainLoop::new`], and if there is no run.
    pub fn resume(out: &Path) -> Result<Self, TrainError> {
        let path = out.join(CONFIG);
        let mut config = ConfigBuilder::file(&path)?.build()?;
        config.run.out = out.into();
        Self::resume_with(config)
    }

    /// Resumes the run in `run.out` with changed settings that do not affect the bits: its length, reports and checkpoints.
    ///
    /// # Errors
    /// Those of [`TrainLoop::resume`], and [`TrainError::Changed`] naming the keys that differ.
    pub fn resume_with(config: RunConfig) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let out = config.run.out.clone();
        if !out.join(CONFIG).exists() {
            let reason = "no run to resume (config.toml is missing)";
            return Err(TrainError::Checkpoint { path: out, reason: reason.into() });
        }
        let lock = FolderLock::take(&out)?;
        let checkpoints = out.join(CHECKPOINTS);
        let found = checkpoint::latest(&checkpoints)?;
        let mut warnings = Vec::new();
        match &found.checkpoint {
            None => warnings.push("there is no checkpoint yet: starting from step 0".into()),
            Some(checkpoint) => {
                let keys = checkpoint.state.config.differences(&config);
                if !keys.is_empty() {
                    return Err(TrainError::Changed { path: out, keys });
                }
            }
        }
        Self::build(config, lock, found, warnings)
    }

    fn build(
        config: RunConfig,
        lock: FolderLock,
        Found { checkpoint: from, damaged }: Found,
        mut warnings: Vec<String>,
    ) -> Result<Self, TrainError> {
        let out = config.run.out.clone();
        // Checked before the work.
        tweedie_system::files::check_folder(&out).map_err(|e| TrainError::io(&out, e))?;
        for folder in [&out, &out.join(CHECKPOINTS), &out.join(SNAPSHOTS)] {
            tweedie_system::files::sweep_own(folder);
        }
        let device = config.run.device()?;
        let (data, notes) = task::prepare(&config, Dataset::open(&config.data)?)?;
        warnings.extend(notes);
        let task = task::open(&config, &data, &device, from.as_ref())?;
        let mut state = match &from {
            Some(checkpoint) => State { config: config.clone(), ..checkpoint.state.clone() },
            None => State::new(&config),
        };
        state.class_names = data.class_names().to_vec();
        let mut inputs = task.inputs()?;
        inputs.extend(images_of(&data)?);
        for (what, found) in &inputs {
            if state.inputs.get(what).is_some_and(|before| before != found) {
                warnings
                    .push(format!("{what} changed since the last checkpoint; continuing with the new ones"));
            }
        }
        state.inputs = inputs;
        for (path, reason) in damaged {
            let kept = checkpoint::set_aside(&path)?;
            warnings.push(format!("skipped: {reason}; renamed to {}", kept.display()));
        }
        let log = Log::open(&out, &state.logs)?;
        write_atomic(&out.join(CONFIG), config.to_toml()?.as_bytes())?;
        let mut events: VecDeque<_> = warnings.into_iter().map(TrainEvent::Warning).collect();
        let Size { parameters, images, held_out } = task.size();
        events.push_back(TrainEvent::Started {
            step: state.step,
            steps: config.run.steps,
            parameters,
            images,
            held_out,
        });
        let mut run = Self {
            data,
            skipped: 0,
            task,
            state,
            log,
            done: Done { save: from.as_ref().map(|c| c.state.step), ..Done::default() },
            saved: from.map(|c| c.path),
            events,
            stop: StopHandle::default(),
            session: None,
            recent: VecDeque::new(),
            phase: Phase::Fresh,
            lock,
            config,
        };
        run.tell_skipped();
        run.lock.begun();
        Ok(run)
    }

    /// The resolved configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// A handle to stop the run from any thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    fn elapsed(&self) -> f64 {
        self.state.elapsed_s + self.session.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }

    fn is_over(&self) -> bool {
        let run = &self.config.run;
        self.stop.is_requested()
            || run.steps.is_some_and(|n| self.state.step >= n)
            || run.minutes.is_some_and(|m| self.elapsed() >= 60.0 * m)
    }
}

/// Fingerprints of the images' names and classes, and of the images themselves if they are in memory: decoding all of
/// them may take longer than the run.
fn images_of(data: &Dataset) -> Result<BTreeMap<String, String>, TrainError> {
    let mut sum = 0;
    for (name, class) in data.names().zip(data.classes()) {
        sum = crc32c::crc32c_append(sum, format!("{name} {class:?}\n").as_bytes());
    }
    let mut found = BTreeMap::from([("the names or classes of the images".to_owned(), format!("{sum:08x}"))]);
    if data.is_cached() {
        let mut sum = 0;
        for index in 0..data.len() {
            sum = crc32c::crc32c_append(sum, &data.get(index)?.sample.pixels);
        }
        found.insert("the images".into(), format!("{sum:08x}"));
    }
    Ok(found)
}

/// Checks that a new run can start in the folder `out`.
fn vacant(out: &Path) -> Result<(), TrainError> {
    if out.join(CONFIG).exists() {
        return Err(TrainError::Occupied { path: out.into() });
    }
    let what = if !checkpoint::list(&out.join(CHECKPOINTS))?.is_empty() {
        "checkpoints"
    } else if std::fs::metadata(out.join(log::LINES)).is_ok_and(|log| log.len() > 0) {
        "the log"
    } else {
        return Ok(());
    };
    Err(TrainError::Leftover { path: out.into(), what })
}

impl Iterator for TrainLoop {
    type Item = Result<TrainEvent, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.phase == Phase::Over {
                return None;
            }
            if let Err(e) = self.advance() {
                self.phase = Phase::Over;
                self.events.clear();
                return Some(Err(match e {
                    TrainError::NotFinite { step, what, checkpoint: None } => {
                        TrainError::NotFinite { step, what, checkpoint: self.saved.clone() }
                    }
                    other => other,
                }));
            }
        }
    }
}
