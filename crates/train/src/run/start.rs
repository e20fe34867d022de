//! Starts and resumes runs.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tweedie_hub::files::write_atomic;
use tweedie_system::ranks::{Alone, Program, Ranks};

use super::{CHECKPOINTS, CONFIG, Done, Phase, StopHandle, TrainLoop};
use crate::{
    checkpoint::{self, Checkpoint, Found, State},
    config::{ConfigBuilder, RunConfig},
    error::TrainError,
    event::TrainEvent,
    lock::FolderLock,
    log::{self, Log},
    post_hoc::SNAPSHOTS,
    share::Share,
    source::RunData,
    task::{self, Size, Task, TaskKind},
};

/// The folder of a run, as the first rank found it.
struct Place {
    lock: FolderLock,
    found: Found,
    warnings: Vec<String>,
}

/// What must be equal on all ranks.
#[derive(Serialize, Deserialize)]
struct Facts {
    version: String,
    program: String,
    host: String,
    instructions: String,
    config: RunConfig,
    inputs: BTreeMap<String, String>,
    step: u64,
    weights: u32,
}

impl TrainLoop {
    /// Creates a new run in the folder `run.out`.
    ///
    /// # Errors
    /// If the folder already contains a run or cannot be written, or the data, model or device do not match the configuration.
    pub fn new(config: RunConfig) -> Result<Self, TrainError> {
        Self::new_on(config, Arc::new(Alone))
    }

    /// As [`TrainLoop::new`], on several ranks, each of which calls it with the same configuration. The bits do not depend on
    /// their number. Only the first rank writes to the folder.
    ///
    /// # Errors
    /// Those of [`TrainLoop::new`], of any rank; if the step has fewer passes than there are ranks; and
    /// [`TrainError::Differ`] naming what differs between ranks.
    pub fn new_on(config: RunConfig, ranks: Arc<dyn Ranks>) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let share = Share::new(&config, ranks)?;
        let out = config.run.out.clone();
        Self::build(config, share, || {
            vacant(&out)?;
            let lock = FolderLock::take(&out)?;
            // Another process may have started a run meanwhile.
            vacant(&out)?;
            Ok(Place { lock, found: Found::default(), warnings: Vec::new() })
        })
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
        Self::resume_on(config, Arc::new(Alone))
    }

    /// As [`TrainLoop::resume_with`], on several ranks, which may be more or fewer than before. All of them read the
    /// checkpoint.
    ///
    /// # Errors
    /// Those of [`TrainLoop::resume_with`] and [`TrainLoop::new_on`].
    pub fn resume_on(config: RunConfig, ranks: Arc<dyn Ranks>) -> Result<Self, TrainError> {
        let config = config.resolved()?;
        let share = Share::new(&config, ranks)?;
        let (out, asked) = (config.run.out.clone(), config.clone());
        Self::build(config, share, || {
            if !out.join(CONFIG).exists() {
                let reason = "no run to resume (config.toml is missing)";
                return Err(TrainError::Checkpoint { path: out.clone(), reason: reason.into() });
            }
            let lock = FolderLock::take(&out)?;
            let found = checkpoint::latest(&out.join(CHECKPOINTS))?;
            let mut warnings = Vec::new();
            match &found.checkpoint {
                None => warnings.push("there is no checkpoint yet: starting from step 0".into()),
                Some(checkpoint) => {
                    let keys = checkpoint.state.config.differences(&asked);
                    if !keys.is_empty() {
                        return Err(TrainError::Changed { path: out.clone(), keys });
                    }
                }
            }
            Ok(Place { lock, found, warnings })
        })
    }

    /// Builds the run; the first rank prepares its folder by `place`.
    fn build(
        config: RunConfig,
        share: Share,
        place: impl FnOnce() -> Result<Place, TrainError>,
    ) -> Result<Self, TrainError> {
        let out = config.run.out.clone();
        let place = share.is_first().then(place).transpose();
        let (mut place, told) = match place {
            Ok(place) => {
                let found = place.as_ref().and_then(|place| place.found.checkpoint.as_ref());
                let path = found.map(|checkpoint| checkpoint.path.clone());
                (place, Ok(path))
            }
            Err(error) => (None, Err(error)),
        };
        // All ranks continue from the checkpoint that the first one found.
        let path = share.agree(told)?.into_iter().next().flatten();
        let from = match &mut place {
            Some(place) => Ok(place.found.checkpoint.take()),
            None => path.as_deref().map(Checkpoint::open).transpose(),
        };
        let from = share.together(from)?;
        let device = share.together(config.run.device())?;
        if share.is_first() {
            // Checked before the work.
            tweedie_system::files::check_folder(&out).map_err(|e| TrainError::io(&out, e))?;
            for folder in [&out, &out.join(CHECKPOINTS), &out.join(SNAPSHOTS)] {
                tweedie_system::files::sweep_own(folder);
            }
        }
        let (data, notes) = share.together(RunData::open(&config))?;
        let open = || task::open(&config, &data, &device, from.as_ref(), &share);
        // The first rank writes the latents of images, sounds or clips, which the others then read.
        let latent = matches!(
            config.task,
            TaskKind::TextToImage | TaskKind::TextToSound | TaskKind::TextToVideo | TaskKind::Prior
        );
        let waits = latent && !share.is_first();
        let task = if waits { None } else { Some(open()) };
        let task = match share.together(task.transpose())? {
            Some(task) => Ok(task),
            None => open(),
        };
        let task = share.together(task)?;
        let inputs = task.inputs().and_then(|mut inputs| {
            inputs.extend(data.sums()?);
            Ok(inputs)
        });
        let facts = inputs.map(|inputs| Facts::of(&config, inputs, &*task, from.as_ref(), &share));
        let facts = share.agree(facts)?;
        Facts::compare(&facts)?;

        let (lock, damaged, mut warnings) = match place {
            Some(Place { lock, found, warnings }) => (Some(lock), found.damaged, warnings),
            None => (None, Vec::new(), Vec::new()),
        };
        warnings.extend(notes);
        if !tweedie_ops::is_cpu(&device) {
            let name = &config.run.device;
            warnings.push(format!(
                "how much memory {name} has is not known: whether the run fits was not checked"
            ));
        }
        if let Some((passes, most)) = share.uneven() {
            let count = share.ranks().count();
            warnings.push(format!(
                "the {passes} passes of a step (run.accumulation) cannot be dealt out evenly to {count} ranks: a step takes as \
                 long as {most} passes"
            ));
        }
        let mut state = match &from {
            Some(checkpoint) => State { config: config.clone(), ..checkpoint.state.clone() },
            None => State::new(&config),
        };
        state.class_names = data.class_names().to_vec();
        let inputs = facts.into_iter().next().map(|facts| facts.inputs).unwrap_or_default();
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
        let mut log = None;
        if share.is_first() {
            log = Some(Log::open(&out, &state.logs)?);
            write_atomic(&out.join(CONFIG), config.to_toml()?.as_bytes())?;
        }
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
            untold: Vec::new(),
            stop: StopHandle::default(),
            session: None,
            recent: VecDeque::new(),
            phase: Phase::Fresh,
            _lock: lock.map(|mut lock| {
                lock.begun();
                lock
            }),
            config,
            share,
        };
        run.tell_skipped();
        Ok(run)
    }
}

impl Facts {
    fn of(
        config: &RunConfig,
        inputs: BTreeMap<String, String>,
        task: &dyn Task,
        from: Option<&Checkpoint>,
        share: &Share,
    ) -> Self {
        let mut facts = Self {
            version: env!("CARGO_PKG_VERSION").into(),
            program: String::new(),
            host: String::new(),
            instructions: tweedie_ops::instruction_set().to_string(),
            config: config.clone(),
            inputs,
            step: from.map_or(0, |checkpoint| checkpoint.state.step),
            weights: 0,
        };
        if share.is_shared() {
            let Program { print, host } = Program::own();
            (facts.program, facts.host) = (print, host);
            facts.weights = task.fingerprint();
        }
        facts
    }

    /// Compares all ranks with the first.
    fn compare(all: &[Self]) -> Result<(), TrainError> {
        let Some((first, others)) = all.split_first() else { return Ok(()) };
        for (rank, other) in others.iter().enumerate() {
            let mut what = Vec::new();
            let mut note = |name: &str, found: &str, expected: &str| {
                if found != expected {
                    let or = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
                    what.push(format!("{name} ({} instead of {})", or(found), or(expected)));
                }
            };
            note("the version of tweedie", &other.version, &first.version);
            note("the program's file", &other.program, &first.program);
            note("the instruction set of the CPU", &other.instructions, &first.instructions);
            note("the step of the checkpoint", &other.step.to_string(), &first.step.to_string());
            let names: std::collections::BTreeSet<_> =
                first.inputs.keys().chain(other.inputs.keys()).collect();
            for name in names {
                let of = |facts: &Self| facts.inputs.get(name).cloned().unwrap_or_default();
                note(name, &of(other), &of(first));
            }
            what.extend(first.config.all_differences(&other.config));
            // Whatever differs above also changes the weights.
            if what.is_empty() && other.weights != first.weights {
                what.push("the initial weights".into());
            }
            if !what.is_empty() {
                let host =
                    if other.host == first.host { String::new() } else { format!(" (on {})", other.host) };
                return Err(TrainError::Differ { rank: rank + 1, host, what });
            }
        }
        Ok(())
    }
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
