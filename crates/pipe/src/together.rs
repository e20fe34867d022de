//! Several jobs at once: their flights share calls of the network.
//!
//! Rows of one call may be at different noise levels, steps, solvers and guidance scales, because the network reads the time
//! and the conditions of each row. The results are those of each job alone, bit for bit.

use tweedie_core::Halt;
use tweedie_models::denoiser::Call;
use tweedie_ops::Batch;

use crate::{
    PipelineError,
    flight::{Flight, Next, Snapshot},
};

/// Flights that are driven together.
#[derive(Default)]
pub struct Together {
    members: Vec<Member>,
    next: u64,
    /// Maximum number of rows in one call; 0 for no limit.
    rows: usize,
    calls: usize,
}

struct Member {
    number: u64,
    flight: Flight,
    /// What it needs next.
    ask: Option<Call>,
}

/// What a flight has done in a turn.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Progress {
    /// It has finished a step.
    Step(Box<Snapshot>),
    /// It has arrived and was removed: the samples, to be decoded by [`Job::decode`](crate::Job::decode).
    Done(Batch),
    /// It has failed and was removed.
    Failed(PipelineError),
}

impl Together {
    /// Calls have at most `rows` rows, unless a single flight has more.
    pub fn new(rows: usize) -> Self {
        Self { rows, ..Self::default() }
    }

    /// Adds a flight, and returns its number.
    pub fn add(&mut self, flight: Flight) -> u64 {
        self.next += 1;
        self.members.push(Member { number: self.next, flight, ask: None });
        self.next
    }

    /// Removes a flight: cancels it, or stores it to be resumed later.
    pub fn remove(&mut self, number: u64) -> Option<Flight> {
        let place = self.members.iter().position(|member| member.number == number)?;
        Some(self.members.remove(place).flight)
    }

    /// A flight on its way.
    pub fn flight(&self, number: u64) -> Option<&Flight> {
        self.members.iter().find(|member| member.number == number).map(|member| &member.flight)
    }

    /// Whether no flight is on its way.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Network calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Makes one evaluation for every flight, in as few network calls as possible, and returns what they have done.
    pub fn turn(&mut self) -> Vec<(u64, Progress)> {
        let mut done = Vec::new();
        self.advance(&mut done);
        let mut open: Vec<usize> = (0..self.members.len()).collect();
        while let Some(group) = self.group(&open) {
            self.evaluate(&group, &mut done);
            open.retain(|place| !group.contains(place));
        }
        // Steps are reported before the next evaluation begins.
        self.advance(&mut done);
        done
    }

    /// Lets every flight run until it asks, and removes those that have ended.
    fn advance(&mut self, done: &mut Vec<(u64, Progress)>) {
        let failed =
            |(number, progress): &(u64, Progress)| matches!(progress, Progress::Failed(_)).then_some(*number);
        let failed: Vec<u64> = done.iter().filter_map(failed).collect();
        self.members.retain_mut(|member| {
            if failed.contains(&member.number) {
                return false;
            }
            while member.ask.is_none() {
                let progress = match member.flight.poll() {
                    Ok(Next::Ask(call)) => {
                        member.ask = Some(call);
                        break;
                    }
                    Ok(Next::Step(snapshot)) => Progress::Step(snapshot),
                    Ok(Next::Done(samples)) => Progress::Done(samples),
                    Err(error) => Progress::Failed(error),
                };
                let goes_on = matches!(progress, Progress::Step(_));
                done.push((member.number, progress));
                if !goes_on {
                    return false;
                }
            }
            true
        });
    }

    /// The first of the `open` places, and all that can share its call; `None` if there is none.
    fn group(&self, open: &[usize]) -> Option<Vec<usize>> {
        let (&first, rest) = open.split_first()?;
        let ask = |place: usize| self.members[place].ask.as_ref();
        let mut group = vec![first];
        let Some(call) = ask(first) else { return Some(group) };
        let (job, mut rows) = (self.members[first].flight.job(), call.x.len());
        for &place in rest {
            let Some(other) = ask(place) else { continue };
            let room = self.rows == 0 || rows + other.x.len() <= self.rows;
            if room && job.shares_network_with(self.members[place].flight.job()) && call.fits(other) {
                rows += other.x.len();
                group.push(place);
            }
        }
        Some(group)
    }

    /// Answers a group of asks with one call.
    fn evaluate(&mut self, group: &[usize], done: &mut Vec<(u64, Progress)>) {
        let calls: Vec<Call> = group.iter().filter_map(|place| self.members[*place].ask.take()).collect();
        let (Some(first), Some(call)) = (group.first(), Call::cat(&calls.iter().collect::<Vec<_>>())) else {
            return;
        };
        self.calls += 1;
        let raw = call.forward(self.members[*first].flight.job().network());
        let mut start = 0;
        for (place, call) in group.iter().zip(&calls) {
            let rows = start..start + call.x.len();
            start = rows.end;
            let Member { number, flight, .. } = &mut self.members[*place];
            let supplied = match &raw {
                Ok(raw) => flight.supply(raw.narrow(rows)),
                Err(halt) => Err(flight.failed(Halt::Failed(halt.to_string()))),
            };
            if let Err(error) = supplied {
                done.push((*number, Progress::Failed(error)));
            }
        }
    }
}
