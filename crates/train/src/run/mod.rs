//! The training loop as an iterator: steps, checkpoints, exact resume, logs, validation, previews and the finished model, for
//! any task. The caller controls progress and stopping.

mod advance;
mod save;
mod start;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    checkpoint::State, config::RunConfig, error::TrainError, event::TrainEvent, lock::FolderLock, log::Log,
    share::Share, source::RunData, task::Task,
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
    data: RunData,
    /// Number of its images reported as corrupt.
    skipped: usize,
    task: Box<dyn Task>,
    state: State,
    /// Only the first rank writes it.
    log: Option<Log>,
    saved: Option<PathBuf>,
    /// The steps of the latest validation, preview and checkpoint.
    done: Done,
    events: VecDeque<TrainEvent>,
    /// Warnings of another rank than the first, which are told by the first.
    untold: Vec<String>,
    stop: StopHandle,
    session: Option<Instant>,
    recent: VecDeque<Instant>,
    phase: Phase,
    /// Held by the first rank.
    _lock: Option<FolderLock>,
    share: Share,
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
    /// The resolved configuration.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The latest checkpoint, if there is one. Only known to the first rank.
    pub fn saved(&self) -> Option<&Path> {
        self.saved.as_deref()
    }

    /// A handle to stop the run from any thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    fn elapsed(&self) -> f64 {
        self.state.elapsed_s + self.session.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }

    /// Whether the run ends now: on all ranks if one of them was stopped, or once the first one's time is over. Tells the
    /// warnings of all ranks. Collective.
    fn is_over(&mut self) -> Result<bool, TrainError> {
        let run = &self.config.run;
        let reached = run.steps.is_some_and(|n| self.state.step >= n);
        let late = self.share.is_first() && run.minutes.is_some_and(|m| self.elapsed() >= 60.0 * m);
        let all = self.share.agree(Ok((self.stop.is_requested(), late, std::mem::take(&mut self.untold))))?;
        let mut over = reached;
        for (rank, (stopped, late, warnings)) in all.into_iter().enumerate() {
            if stopped {
                self.stop.request();
            }
            over |= stopped || late;
            let warnings =
                warnings.into_iter().map(|text| TrainEvent::Warning(format!("rank {rank}: {text}")));
            self.events.extend(warnings);
        }
        Ok(over)
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
