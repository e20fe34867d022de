//! The training loop, as an iterator: steps, checkpoints, exact resume, logs, validation, previews and the finished
//! model, whatever the task. Progress and stopping belong to whoever holds it.

mod advance;
mod save;

use std::{
    collections::VecDeque,
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
    checkpoint::{self, Checkpoint, State},
    config::RunConfig,
    error::TrainError,
    event::TrainEvent,
    lock::FolderLock,
    log::Log,
    task::{self, Size, Task},
};

/// A training run. Iterating it trains; each item is something that happened. After an error it is over.
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
    /// How many of its images were told to be corrupt.
    skipped: usize,
    task: Box<dyn Task>,
    state: State,
    log: Log,
    saved: Option<PathBuf>,
    /// The steps at which the latest validation, preview and checkpoint were made.
    done: Done,
    events: VecDeque<TrainEvent>,
    stop: StopHandle,
    session: Option<Instant>,
    recent: VecDeque<Instant>,
    phase: Phase,
    _lock: FolderLock,
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

/// Asks a run to save and end, from any thread.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<AtomicBool>);

impl StopHandle {
    /// The run saves and ends after the step it is making.
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
    /// A new run in the folder `run.out`.
    ///
    /// # Errors
    /// When the folder holds a run already or cannot be written, or the data, model or device are not
    /// as the configuration says.
    pub fn new(config: RunConfig) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let out = &config.run.out;
        if out.join(CONFIG).exists() {
            return Err(TrainError::Occupied { path: out.clone() });
        }
        let (out, ours) = (out.clone(), !out.exists());
        Self::build(config, None, None, Vec::new()).inspect_err(|e| {
            // Nothing half-written stays of a run that could not begin.
            if ours && !matches!(e, TrainError::Busy { .. }) {
                let _ = std::fs::remove_dir_all(out);
            }
        })
    }

    /// Goes on with the run in the folder `out`, from its latest whole checkpoint, as it was configured.
    ///
    /// # Errors
    /// As [`TrainLoop::new`], and when there is no run.
    pub fn resume(out: &Path) -> Result<Self, TrainError> {
        let path = out.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|e| TrainError::io(&path, e))?;
        let mut config: RunConfig = toml::from_str(&text)
            .map_err(|e| TrainError::Toml { origin: path.display().to_string(), reason: e.to_string() })?;
        config.run.out = out.into();
        Self::resume_with(config)
    }

    /// Goes on with the run in `run.out`, configured anew where that leaves the bits alone: its length, what
    /// it reports and saves.
    ///
    /// # Errors
    /// As [`TrainLoop::resume`], and [`TrainError::Changed`] naming the keys that differ.
    pub fn resume_with(config: RunConfig) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let out = config.run.out.clone();
        if !out.join(CONFIG).exists() {
            let reason = "there is no run to resume (config.toml is missing)";
            return Err(TrainError::Checkpoint { path: out, reason: reason.into() });
        }
        let lock = FolderLock::take(&out)?;
        let (found, wrong) = checkpoint::latest(&out.join(CHECKPOINTS))?;
        let mut warnings: Vec<_> = wrong.iter().map(|e| format!("skipped: {e}")).collect();
        match &found {
            None => warnings.push("no whole checkpoint: starting from step 0".into()),
            Some(checkpoint) => {
                let keys = checkpoint.state.config.differences(&config);
                if !keys.is_empty() {
                    return Err(TrainError::Changed { path: out, keys });
                }
            }
        }
        Self::build(config, Some(lock), found, warnings)
    }

    fn build(
        config: RunConfig,
        lock: Option<FolderLock>,
        from: Option<Checkpoint>,
        warnings: Vec<String>,
    ) -> Result<Self, TrainError> {
        let device = config.run.device()?;
        let data = Dataset::open(&config.data)?;
        let task = task::open(&config, &data, &device, from.as_ref())?;
        let mut state = match &from {
            Some(checkpoint) => State { config: config.clone(), ..checkpoint.state.clone() },
            None => State::new(&config),
        };
        state.class_names = data.class_names().to_vec();
        let out = &config.run.out;
        let lock = lock.map_or_else(|| FolderLock::take(out), Ok)?;
        let log = Log::open(out, &state.logs)?;
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
            _lock: lock,
            config,
        };
        run.tell_skipped();
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

    /// By which any thread can end the run.
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
