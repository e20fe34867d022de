//! The training loop, as an iterator: steps, checkpoints, exact resume, logs, validation, previews and the finished
//! model, whatever the task. Progress and stopping belong to whoever holds it.

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
        vacant(&config.run.out)?;
        let lock = FolderLock::take(&config.run.out)?;
        // Another process may have begun one meanwhile.
        vacant(&config.run.out)?;
        Self::build(config, lock, Found::default(), Vec::new())
    }

    /// Goes on with the run in the folder `out`, from its latest whole checkpoint, as it was configured.
    ///
    /// # Errors
    /// As [`TrainLoop::new`], and when there is no run.
    pub fn resume(out: &Path) -> Result<Self, TrainError> {
        let path = out.join(CONFIG);
        let mut config = ConfigBuilder::file(&path)?.build()?;
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
        // Found out before the work, and not after it.
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
                warnings.push(format!(
                    "{what} changed since the last checkpoint; the run goes on with the new ones"
                ));
            }
        }
        state.inputs = inputs;
        for (path, reason) in damaged {
            let kept = checkpoint::set_aside(&path)?;
            warnings.push(format!("skipped: {reason}; it is now called {}", kept.display()));
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

/// Numbers that differ where the images, or their names and classes, do. The images themselves only where they are in
/// memory: to decode all of them may take longer than the run.
fn images_of(data: &Dataset) -> Result<BTreeMap<String, String>, TrainError> {
    let mut sum = 0;
    for (name, class) in data.names().zip(data.classes()) {
        sum = crc32c::crc32c_append(sum, format!("{name} {class:?}\n").as_bytes());
    }
    let mut found = BTreeMap::from([("the names or classes of the images".to_owned(), format!("{sum:08x}"))]);
    if data.is_cached() {
        let mut sum = 0;
        for index in 0..data.len() {
            sum = crc32c::crc32c_append(sum, &data.get(index)?.image.pixels);
        }
        found.insert("the images".into(), format!("{sum:08x}"));
    }
    Ok(found)
}

/// Whether a new run can begin in the folder `out`.
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
