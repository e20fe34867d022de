//! A lane: the parts of jobs that can share calls of one network.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tweedie_pipe::{
    Job,
    flight::{Flight, FlightState},
    together::{Progress, Together},
};

use crate::{
    fair::{Fair, Waiting},
    live::Live,
    order::State,
    pace::Pace,
};

/// Rows of a part in a call, so that large requests do not hold up small ones.
const ROWS: usize = 4;

/// Some images of a job.
pub struct Part {
    live: Arc<Live>,
    job: Arc<Job>,
    rows: Range<usize>,
    seat: Seat,
    step: usize,
}

/// Where a part is.
enum Seat {
    /// It has not begun.
    Fresh,
    /// It waits for a call.
    Parked(Box<Flight>),
    /// It takes part in calls, under this number.
    Taken(u64),
    /// It is done.
    Left,
}

impl Part {
    /// The part with these images, which may have begun.
    pub fn new(live: &Arc<Live>, job: &Arc<Job>, rows: Range<usize>, flight: Option<Flight>) -> Self {
        let seat = flight.map_or(Seat::Fresh, |flight| Seat::Parked(Box::new(flight)));
        Self { live: live.clone(), job: job.clone(), rows, seat, step: 0 }
    }

    fn id(&self) -> &str {
        &self.live.order.id
    }

    /// Its rows in a call.
    fn width(&self) -> usize {
        self.rows.len() * width_of(&self.job)
    }

    fn waiting(&self) -> Waiting {
        let order = &self.live.order;
        let rank = (order.deadline.unwrap_or(u64::MAX), self.live.number, self.rows.start);
        Waiting { client: order.client.clone(), priority: order.priority, rank, rows: self.width() }
    }

    fn steps_left(&self) -> usize {
        self.job.recipe().plan.solves().saturating_sub(self.step)
    }
}

/// Rows in a call for each image: two if the prediction is guided.
fn width_of(job: &Job) -> usize {
    let solver = job.recipe().solver.name();
    if job.scale_for(solver) != 1.0 && job.can_be_guided() { 2 } else { 1 }
}

/// What a turn has done.
pub struct Turned {
    /// Network calls.
    pub calls: usize,
    /// Rows in them.
    pub rows: usize,
    /// Rows that were allowed.
    pub room: usize,
    /// Jobs whose first step this was.
    pub first: Vec<String>,
    /// What happened, with the job and its images.
    pub progress: Vec<(String, Range<usize>, Progress)>,
}

/// What the calls of a lane have in common: the time for a row depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    model: String,
    shape: String,
    precision: String,
}

impl Key {
    /// The key for the parts of a job.
    pub fn of(live: &Live, job: &Job) -> Self {
        let precision = job.request().precision.unwrap_or_default().to_string();
        Self { model: live.order.model.clone(), shape: job.shape().to_string(), precision }
    }
}

/// Parts that can share calls.
pub struct Lane {
    key: Key,
    like: Arc<Job>,
    parts: Vec<Part>,
    together: Together,
    fair: Fair,
    pace: Pace,
    batching: bool,
    time: Duration,
}

impl Lane {
    /// A lane for jobs like this one, with earlier measurements. It competes with other lanes as if it had had `time`.
    pub fn new(key: Key, like: &Arc<Job>, pace: Pace, batching: bool, time: Duration) -> Self {
        Self {
            key,
            like: like.clone(),
            parts: Vec::new(),
            together: Together::new(0),
            fair: Fair::default(),
            pace,
            batching,
            time,
        }
    }

    /// The images of each part.
    pub fn parts_of(job: &Job) -> Vec<Range<usize>> {
        if job.is_joined() {
            return job.spoken_parts();
        }
        let size = job.chunk().min((ROWS / width_of(job)).max(1));
        (0..job.count()).step_by(size).map(|start| start..(start + size).min(job.count())).collect()
    }

    /// Whether the parts of this job belong here.
    pub fn takes(&self, key: &Key, job: &Job) -> bool {
        self.key == *key && self.like.shares_network_with(job)
    }

    /// What its calls have in common, and the measurements.
    pub fn measured(&self) -> (Key, Pace) {
        (self.key.clone(), self.pace.clone())
    }

    /// Adds parts.
    pub fn add(&mut self, parts: Vec<Part>) {
        self.parts.extend(parts);
    }

    /// Removes the parts of a job.
    pub fn remove(&mut self, id: &str) {
        for part in self.parts.iter().filter(|part| part.id() == id) {
            if let Seat::Taken(number) = part.seat {
                self.together.remove(number);
            }
        }
        self.parts.retain(|part| part.id() != id);
    }

    /// Whether it has no parts.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The jobs of its parts.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(Part::id)
    }

    /// The time that its calls have taken.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Adds to its time.
    pub fn spend(&mut self, time: Duration) {
        self.time += time;
    }

    /// Takes in how long a call took.
    pub fn note(&mut self, rows: usize, seconds: f64) {
        self.pace.note(rows, seconds);
    }

    /// Estimate of the seconds until a job has ended: for its parts, and those that go before it or belong to other clients.
    pub fn seconds_left(&self, live: &Live) -> Option<f64> {
        let order = |live: &Live| (live.order.priority, live.order.deadline.unwrap_or(u64::MAX), live.number);
        let before =
            |part: &&Part| part.live.order.client != live.order.client || order(&part.live) <= order(live);
        let rows: usize = self.parts.iter().filter(before).map(|part| part.steps_left() * part.width()).sum();
        Some(self.pace.seconds_per_row()? * rows as f64)
    }

    /// The states of the parts of a job that have begun.
    pub fn states(&self, id: &str) -> Vec<FlightState> {
        let own = self.parts.iter().filter(|part| part.id() == id);
        own.filter_map(|part| match &part.seat {
            Seat::Parked(flight) => Some(flight.state()),
            Seat::Taken(number) => self.together.flight(*number).map(Flight::state),
            Seat::Fresh | Seat::Left => None,
        })
        .collect()
    }

    /// Forgets the parts that took part in the last call, and returns their jobs.
    pub fn abandon(&mut self) -> Vec<String> {
        let taken = |part: &&Part| matches!(part.seat, Seat::Taken(_));
        let mut ids: Vec<String> = self.parts.iter().filter(taken).map(|part| part.id().to_owned()).collect();
        ids.dedup();
        self.together = Together::new(0);
        self.parts.retain(|part| !matches!(part.seat, Seat::Taken(_)));
        ids
    }

    /// One evaluation for the parts whose turn it is.
    pub fn turn(&mut self) -> Turned {
        let open = self.open();
        let waiting: Vec<Waiting> = open.iter().map(|place| self.parts[*place].waiting()).collect();
        let room = self.pace.rows();
        let chosen =
            if self.batching { self.fair.choose(room, &waiting) } else { self.alone(&open, &waiting) };
        let rows = chosen.iter().map(|index| waiting[*index].rows).sum();
        let chosen: Vec<usize> = chosen.into_iter().map(|index| open[index]).collect();
        let mut first = Vec::new();
        for (place, part) in self.parts.iter_mut().enumerate() {
            let goes = chosen.contains(&place);
            part.seat = match std::mem::replace(&mut part.seat, Seat::Left) {
                Seat::Fresh if goes => {
                    if part.live.progress().state == State::Queued && !first.contains(&part.live.order.id) {
                        first.push(part.live.order.id.clone());
                        part.live.set(|progress| {
                            progress.state = State::Running;
                            progress.begun = Some(Instant::now());
                        });
                    }
                    Seat::Taken(self.together.add(Flight::new(&part.job, part.rows.clone())))
                }
                Seat::Parked(flight) if goes => {
                    part.live.set(|progress| progress.state = State::Running);
                    Seat::Taken(self.together.add(*flight))
                }
                Seat::Taken(number) if !goes => match self.together.remove(number) {
                    Some(flight) => Seat::Parked(Box::new(flight)),
                    None => Seat::Left,
                },
                seat => seat,
            };
        }
        let before = self.together.calls();
        let progress = self.together.turn();
        let calls = self.together.calls() - before;
        let progress =
            progress.into_iter().filter_map(|(number, progress)| self.noted(number, progress)).collect();
        self.parts.retain(|part| !matches!(part.seat, Seat::Left));
        let Self { fair, parts, .. } = self;
        fair.forget(|client| parts.iter().any(|part| part.live.order.client == client));
        Turned { calls, rows, room: room.max(rows), first, progress }
    }

    fn noted(&mut self, number: u64, progress: Progress) -> Option<(String, Range<usize>, Progress)> {
        let own = |part: &&mut Part| matches!(part.seat, Seat::Taken(taken) if taken == number);
        let part = self.parts.iter_mut().find(own)?;
        match &progress {
            Progress::Step(snapshot) => part.step = snapshot.step,
            Progress::Done(_) | Progress::Failed(_) => part.seat = Seat::Left,
        }
        Some((part.id().to_owned(), part.rows.clone(), progress))
    }

    /// The places of the parts that may go: of a spoken text only the first, so that its sound begins soon.
    fn open(&self) -> Vec<usize> {
        let is_earlier =
            |other: &Part, part: &Part| other.id() == part.id() && other.rows.start < part.rows.start;
        let waits =
            |part: &Part| part.job.is_joined() && self.parts.iter().any(|other| is_earlier(other, part));
        (0..self.parts.len()).filter(|place| !waits(&self.parts[*place])).collect()
    }

    /// Without batching: of the `open` places, whose parts are `waiting`, those of the job that goes first, as many as it would
    /// put into one call alone.
    fn alone(&self, open: &[usize], waiting: &[Waiting]) -> Vec<usize> {
        let part = |index: usize| &self.parts[open[index]];
        let mut all: Vec<usize> = (0..waiting.len()).collect();
        all.sort_by_key(|index| (waiting[*index].priority, waiting[*index].rank));
        let Some(first) = all.first().map(|index| part(*index)) else { return Vec::new() };
        let mut left = first.job.chunk();
        all.retain(|index| {
            let part = part(*index);
            let fits = part.id() == first.id() && part.rows.len() <= left;
            left -= if fits { part.rows.len() } else { 0 };
            fits
        });
        all
    }
}
