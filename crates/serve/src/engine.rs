//! The engine: the thread that steps all running jobs.
//!
//! Each turn makes one call of one network: [`Fair`] chooses which parts of jobs take part, [`Pace`] how many rows. Jobs join
//! and leave between turns. Which parts share a call changes no bit of their results.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tweedie_pipe::{
    Job,
    flight::{Flight, FlightState, Snapshot},
    together::Progress,
};

use crate::{
    Config, Fault, ServeError,
    feed::Kind,
    lane::{Key, Lane, Part},
    live::{Live, now},
    metrics::Metrics,
    order::State,
    pace::Pace,
    scribe::{self, Note},
    stop::Stop,
};

/// How often the idle engine looks for jobs whose time is over.
const LOOK: Duration = Duration::from_secs(1);

/// Number of measurements that are remembered.
const MOST_PACES: usize = 1000;

/// A message to the engine.
pub enum Message {
    /// A job that is ready, with stored states of its parts and the rows whose results are stored.
    Start { live: Arc<Live>, job: Arc<Job>, states: Vec<FlightState>, stored: Vec<usize> },
    /// The job of this name was cancelled at this time.
    Cancel(String, Instant),
    /// Stores all states, and stops.
    Stop(oneshot::Sender<()>),
}

/// A running job.
pub struct Running {
    /// What HTTP sees of it.
    pub live: Arc<Live>,
    /// The job.
    pub job: Arc<Job>,
    /// Finished steps and evaluations of each part, by its first image.
    counts: HashMap<usize, (usize, usize)>,
    previewed: Instant,
    /// Number of previews of each part that is on its way, by its first image: those with the fewest are next.
    previews: HashMap<usize, usize>,
    /// Steps at which previews are made in any case.
    partials: Vec<usize>,
    kept: Instant,
}

/// What the engine works with.
pub struct Engine {
    /// The batching settings.
    pub config: Config,
    /// Where results go.
    pub scribe: Sender<Note>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The end of the server.
    pub stop: Stop,
}

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system starts no thread.
    pub fn start(self) -> Result<(Sender<Message>, JoinHandle<()>), ServeError> {
        let (messages, received) = channel();
        let work = Work { engine: self, lanes: Vec::new(), paces: HashMap::new(), running: HashMap::new() };
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || work.run(&received))
            .map_err(ServeError::Thread)?;
        Ok((messages, thread))
    }
}

struct Work {
    engine: Engine,
    lanes: Vec<Lane>,
    /// Measurements of lanes that were closed.
    paces: HashMap<Key, Pace>,
    running: HashMap<String, Running>,
}

impl Work {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let failure = tweedie_ops::failure();
            if let Some(failure) = &failure
                && !self.engine.stop.is_set()
            {
                tracing::error!(error = %failure, "the server stops; accepted jobs go on when it is started again");
                self.engine.stop.now();
            }
            let idle = self.lanes.is_empty() || failure.is_some();
            let next = match idle {
                true => messages.recv_timeout(LOOK),
                false => messages.try_recv().map_err(|e| match e {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
            };
            match next {
                Ok(Message::Start { live, job, states, stored }) => self.admit(live, job, states, &stored),
                Ok(Message::Cancel(id, at)) => self.cancel(&id, at),
                Ok(Message::Stop(done)) => {
                    if failure.is_none() {
                        self.running.values_mut().for_each(|running| running.kept = long_ago());
                        self.keep(Duration::ZERO);
                    }
                    let _ = done.send(());
                    return;
                }
                // Nothing can be computed or read any more.
                Err(RecvTimeoutError::Timeout) if failure.is_some() => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.drop_late();
                    self.turn();
                    self.keep(Duration::from_secs_f64(self.engine.config.journal_every));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes a job in: one part for every few images, resumed where a state is stored.
    fn admit(&mut self, live: Arc<Live>, job: Arc<Job>, states: Vec<FlightState>, stored: &[usize]) {
        if live.is_cancelled() || live.outcome().is_some() {
            return;
        }
        let mut parts = Vec::new();
        let mut taken = stored.to_vec();
        for state in states {
            let rows = state.rows.clone();
            if rows.clone().any(|row| taken.contains(&row)) {
                continue;
            }
            match Flight::resume(&job, state) {
                Ok(flight) => {
                    taken.extend(rows.clone());
                    parts.push(Part::new(&live, &job, rows, Some(flight)));
                }
                Err(e) => tracing::warn!(job = live.order.id, error = %e, "a part begins again"),
            }
        }
        for rows in Lane::parts_of(&job) {
            let (mut next, end) = (rows.start, rows.end);
            while next < end {
                let free = |row: &usize| !taken.contains(row);
                let Some(start) = (next..end).find(free) else { break };
                next = (start..end).take_while(free).count() + start;
                parts.push(Part::new(&live, &job, start..next, None));
            }
        }
        let each = job.recipe().plan.solves();
        let steps = each * parts.len();
        live.set(|progress| progress.steps = steps);
        let partials =
            (1..=live.order.partials).map(|i| (i * each / (live.order.partials + 1)).max(1)).collect();
        let running = Running {
            live: live.clone(),
            job: job.clone(),
            counts: HashMap::new(),
            previewed: long_ago(),
            previews: HashMap::new(),
            partials,
            kept: Instant::now(),
        };
        self.running.insert(live.order.id.clone(), running);
        let key = Key::of(&live, &job);
        match self.lanes.iter_mut().find(|lane| lane.takes(&key, &job)) {
            Some(lane) => lane.add(parts),
            None => {
                let Config { rows, batching, .. } = self.engine.config;
                let time = self.lanes.iter().map(Lane::time).min().unwrap_or_default();
                let pace = self.paces.get(&key).cloned().unwrap_or_else(|| Pace::new(rows));
                let mut lane = Lane::new(key, &job, pace, batching, time);
                lane.add(parts);
                self.lanes.push(lane);
            }
        }
    }

    /// Removes lanes without parts, which would hold their models in memory.
    fn close_lanes(&mut self) {
        // Sizes are chosen by clients, so there may be any number of keys.
        if self.paces.len() > MOST_PACES {
            self.paces.clear();
        }
        self.paces.extend(self.lanes.iter().filter(|lane| lane.is_empty()).map(Lane::measured));
        self.lanes.retain(|lane| !lane.is_empty());
    }

    fn cancel(&mut self, id: &str, at: Instant) {
        if self.running.contains_key(id) {
            self.drop_job(id);
            let seconds = at.elapsed().as_secs_f64();
            self.engine.metrics.freeing.note(seconds);
            tracing::info!(job = id, seconds, "freed the rows of a cancelled job");
        }
    }

    /// Lets a job go.
    fn drop_job(&mut self, id: &str) {
        if self.running.remove(id).is_some() {
            self.lanes.iter_mut().for_each(|lane| lane.remove(id));
            self.close_lanes();
        }
    }

    fn fail(&mut self, id: &str, fault: Fault) {
        if let Some(running) = self.running.get(id) {
            let _ = self.engine.scribe.send(Note::End { live: running.live.clone(), fault });
        }
        self.drop_job(id);
    }

    fn drop_late(&mut self) {
        let now = now();
        let late: Vec<String> =
            self.running.values().filter(|r| r.live.is_late(now)).map(|r| r.live.order.id.clone()).collect();
        for id in late {
            self.fail(&id, scribe::late());
        }
    }

    /// One call of the network of the lane that has had the least time.
    fn turn(&mut self) {
        let Some(lane) = self.lanes.iter_mut().min_by_key(|lane| lane.time()) else { return };
        let begun = Instant::now();
        let turned = catch_unwind(AssertUnwindSafe(|| lane.turn()));
        let seconds = begun.elapsed().as_secs_f64();
        lane.spend(begun.elapsed());
        let turned = match turned {
            Ok(turned) => turned,
            Err(_) => {
                tracing::error!("a step failed unexpectedly");
                // The state of the parts in this call is unknown; the others are unharmed.
                let fault = Fault::unexpected("a step");
                let ids = lane.abandon();
                ids.iter().for_each(|id| self.fail(id, fault.clone()));
                self.close_lanes();
                return;
            }
        };
        let metrics = &self.engine.metrics;
        metrics.turn.note(seconds);
        metrics.calls.add(turned.calls);
        metrics.rows.add(turned.rows);
        metrics.room.add(turned.room);
        if turned.calls == 1 {
            lane.note(turned.rows, seconds);
        }
        for id in &turned.first {
            if let Some(running) = self.running.get(id) {
                metrics.waiting.note(running.live.arrived.elapsed().as_secs_f64());
            }
        }
        for (id, rows, progress) in turned.progress {
            match progress {
                Progress::Failed(error) => self.fail(&id, Fault::from(error).without_folders()),
                Progress::Step(snapshot) => self.stepped(&id, *snapshot),
                Progress::Done(samples) => {
                    if let Some(running) = self.running.get_mut(&id) {
                        running.previews.remove(&rows.start);
                        let (live, job) = (running.live.clone(), running.job.clone());
                        let _ = self.engine.scribe.send(Note::Done {
                            live,
                            job,
                            rows,
                            samples: Box::new(samples),
                        });
                    }
                }
            }
        }
        let unfinished: HashSet<&str> = self.lanes.iter().flat_map(Lane::ids).collect();
        self.running.retain(|id, _| unfinished.contains(id.as_str()));
        self.close_lanes();
    }

    fn stepped(&mut self, id: &str, snapshot: Snapshot) {
        let Some(running) = self.running.get_mut(id) else { return };
        self.engine.metrics.steps.add(snapshot.rows.len());
        running.counts.insert(snapshot.rows.start, (snapshot.step, snapshot.evals));
        let (step, evaluations) =
            running.counts.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
        let lane = self.lanes.iter().find(|lane| lane.ids().any(|own| own == id));
        let left = lane.map_or(Some(0.0), |lane| lane.seconds_left(&running.live));
        running.live.set(|progress| {
            progress.state = State::Running;
            (progress.step, progress.evaluations, progress.left) = (step, evaluations, left);
            progress.begun.get_or_insert_with(Instant::now);
        });
        running.live.feed.push(Kind::Step, &running.live.told());
        let every = Duration::from_secs_f64(self.engine.config.preview_every);
        let fewest = running.previews.values().min().copied().unwrap_or(0);
        let own = running.previews.entry(snapshot.rows.start).or_insert(fewest);
        let is_next = *own <= fewest;
        let watched = running.live.feed.is_watched() && running.previewed.elapsed() >= every && is_next;
        let promised = running.partials.iter().position(|at| *at == snapshot.step);
        let free = !running.live.previewing.swap(true, Ordering::Relaxed);
        if promised.is_some() || (watched && free) {
            running.previewed = Instant::now();
            *own += 1;
            let (live, job) = (running.live.clone(), running.job.clone());
            let _ =
                self.engine.scribe.send(Note::Preview { live, job, snapshot: Box::new(snapshot), promised });
        } else if free {
            running.live.previewing.store(false, Ordering::Relaxed);
        }
    }

    /// Stores the states of jobs that were not stored for some time.
    fn keep(&mut self, every: Duration) {
        for (id, running) in &mut self.running {
            if running.kept.elapsed() < every {
                continue;
            }
            running.kept = Instant::now();
            let states: Vec<FlightState> = self.lanes.iter().flat_map(|lane| lane.states(id)).collect();
            if !states.is_empty() {
                let _ = self.engine.scribe.send(Note::Keep { live: running.live.clone(), states });
            }
        }
    }
}

fn long_ago() -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
}
