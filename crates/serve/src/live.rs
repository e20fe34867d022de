//! The jobs that have not ended: what HTTP handlers, the engine and the scribe share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use tweedie_media::{Audio, pcm16};

use crate::{
    Fault,
    config::Limits,
    feed::{Feed, Kind},
    order::{Order, State},
};

/// The number of the next job.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Milliseconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64)
}

/// How far a job is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Its state.
    pub state: State,
    /// Finished steps, over all its parts.
    pub step: usize,
    /// All steps; 0 until the job is prepared.
    pub steps: usize,
    /// Network evaluations so far.
    pub evaluations: usize,
    /// Estimate of the seconds until the end.
    pub left: Option<f64>,
    /// When the first step began.
    pub begun: Option<Instant>,
}

/// A part of a sound.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Number of its channels.
    pub channels: usize,
    /// Values per second of each channel, in Hz.
    pub rate: u32,
    /// Integers of 16 bits, little-endian, channel by channel in turn.
    pub values: Vec<u8>,
}

/// A job that has not ended.
#[derive(Debug)]
pub struct Live {
    /// What was ordered.
    pub order: Order,
    /// Its events.
    pub feed: Arc<Feed>,
    /// When this process got it.
    pub arrived: Instant,
    /// Grows with every job.
    pub number: u64,
    /// Set once nobody wants it any more.
    pub cancelled: AtomicBool,
    /// A preview is being made; the next one waits.
    pub previewing: AtomicBool,
    /// Images without a stored result.
    pub missing: AtomicUsize,
    /// The sound of a spoken text, as far as it is made.
    heard: Mutex<Heard>,
    progress: Mutex<Progress>,
    outcome: Mutex<Option<Result<(), Fault>>>,
}

impl Live {
    /// The job of an order.
    pub fn new(order: Order, count: usize) -> Self {
        let progress =
            Progress { state: State::Queued, step: 0, steps: 0, evaluations: 0, left: None, begun: None };
        Self {
            order,
            feed: Arc::default(),
            arrived: Instant::now(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            cancelled: AtomicBool::new(false),
            previewing: AtomicBool::new(false),
            missing: AtomicUsize::new(count),
            heard: Mutex::default(),
            progress: Mutex::new(progress),
            outcome: Mutex::new(None),
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        *self.lock()
    }

    /// Its state for those who ask. Its end is told by the journal, with the results.
    pub fn state(&self) -> State {
        let state = self.progress().state;
        if state.is_last() { State::Running } else { state }
    }

    /// Changes how far it is.
    pub fn set(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the sound of a spoken text.
    pub fn hear(&self, sound: &Audio) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        (heard.channels, heard.rate) = (sound.channels.len(), sound.rate);
        heard.values.extend(pcm16(sound).0);
        let bytes = heard.values.len();
        drop(heard);
        self.feed.push(Kind::Sound, &json!({ "id": self.order.id, "bytes": bytes }));
    }

    /// The sound of a spoken text from its byte number `from` on.
    pub fn heard(&self, from: usize) -> Heard {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Heard { values: heard.values.get(from..).unwrap_or_default().to_vec(), ..*heard }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether its time is over.
    pub fn is_late(&self, now: u64) -> bool {
        self.order.deadline.is_some_and(|at| now > at)
    }

    /// Sets its end, once, and tells the readers of its events. Returns whether this was the first time.
    pub fn end(&self, outcome: Result<(), Fault>, data: serde_json::Value) -> bool {
        let mut place = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if place.is_some() {
            return false;
        }
        let (state, kind) = match &outcome {
            Ok(()) => (State::Finished, Kind::Finished),
            Err(fault) if fault.code == "cancelled" => (State::Cancelled, Kind::Cancelled),
            Err(_) => (State::Failed, Kind::Failed),
        };
        *place = Some(outcome);
        drop(place);
        self.set(|progress| progress.state = state);
        self.feed.push(kind, &data);
        true
    }

    /// How it ended.
    pub fn outcome(&self) -> Option<Result<(), Fault>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The data of events about progress.
    pub fn told(&self) -> serde_json::Value {
        let Progress { state, step, steps, evaluations, left, .. } = self.progress();
        json!({
            "id": self.order.id, "state": state.name(), "step": step, "steps": steps, "evaluations": evaluations,
            "seconds_left": left,
        })
    }
}

/// All jobs that have not ended, by name.
#[derive(Debug, Default)]
pub struct Board {
    jobs: Mutex<HashMap<String, Arc<Live>>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job if neither the queue nor the client's part of it is full.
    ///
    /// # Errors
    /// [`Fault::busy`].
    pub fn enter(&self, live: &Arc<Live>, limits: &Limits) -> Result<(), Fault> {
        let mut jobs = self.lock();
        let wait = || {
            let left: f64 = jobs.values().filter_map(|live| live.progress().left).fold(1.0, f64::min);
            (left.ceil() as u64).clamp(1, 60)
        };
        if jobs.len() >= limits.queue {
            return Err(Fault::busy(
                format!("the queue is full: {} jobs are waiting or running", jobs.len()),
                wait(),
            ));
        }
        let own = jobs.values().filter(|other| other.order.client == live.order.client).count();
        if own >= limits.jobs {
            return Err(Fault::busy(
                format!("you have {own} jobs that are waiting or running, the maximum"),
                wait(),
            ));
        }
        jobs.insert(live.order.id.clone(), live.clone());
        Ok(())
    }

    /// Adds a job from the journal, which was accepted before.
    pub fn restore(&self, live: &Arc<Live>) {
        self.lock().insert(live.order.id.clone(), live.clone());
    }

    /// Removes a job.
    pub fn leave(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The job of this name.
    pub fn find(&self, id: &str) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    /// All jobs, in the order of their acceptance.
    pub fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|live| live.number);
        all
    }

    /// Number of jobs.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Number of waiting jobs that were accepted before this one.
    pub fn place(&self, live: &Live) -> usize {
        let waits =
            |other: &&Arc<Live>| other.progress().state == State::Queued && other.number < live.number;
        self.lock().values().filter(waits).count()
    }
}
