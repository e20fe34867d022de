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
    flights: Vec<(u64, Flight)>,
    next: u64,
    /// Maximum number of rows in one call; 0 for no limit.
    rows: usize,
    calls: usize,
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
        self.flights.push((self.next, flight));
        self.next
    }

    /// Removes a flight: cancels it, or stores it to be resumed later.
    pub fn remove(&mut self, number: u64) -> Option<Flight> {
        let place = self.flights.iter().position(|(found, _)| *found == number)?;
        Some(self.flights.remove(place).1)
    }

    /// Whether no flight is on its way.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Network calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Makes one evaluation for every flight, in as few network calls as possible, and returns what they have done.
    pub fn turn(&mut self) -> Vec<(u64, Progress)> {
        let mut done = Vec::new();
        let mut asks: Vec<(u64, Call)> = Vec::new();
        let mut gone = Vec::new();
        for (number, flight) in &mut self.flights {
            loop {
                match flight.poll() {
                    Ok(Next::Ask(call)) => {
                        asks.push((*number, call));
                        break;
                    }
                    Ok(Next::Step(snapshot)) => done.push((*number, Progress::Step(snapshot))),
                    Ok(Next::Done(samples)) => {
                        gone.push(*number);
                        done.push((*number, Progress::Done(samples)));
                        break;
                    }
                    Err(error) => {
                        gone.push(*number);
                        done.push((*number, Progress::Failed(error)));
                        break;
                    }
                }
            }
        }
        gone.into_iter().for_each(|number| drop(self.remove(number)));
        while !asks.is_empty() {
            let group = self.group(&asks);
            for (number, result) in self.call(&asks, &group) {
                let Some((_, flight)) = self.flights.iter_mut().find(|(found, _)| *found == number) else {
                    continue;
                };
                let supplied = match result {
                    Ok(raw) => flight.supply(raw),
                    Err(halt) => Err(flight.failed(halt)),
                };
                if let Err(error) = supplied {
                    self.remove(number);
                    done.push((number, Progress::Failed(error)));
                }
            }
            asks = asks
                .into_iter()
                .enumerate()
                .filter(|(place, _)| !group.contains(place))
                .map(|(_, ask)| ask)
                .collect();
        }
        done
    }

    /// The places of the first ask and of all that can share its call.
    fn group(&self, asks: &[(u64, Call)]) -> Vec<usize> {
        let job = |number: u64| self.flights.iter().find(|(found, _)| *found == number).map(|(_, f)| f.job());
        let Some((first, call)) = asks.first() else { return Vec::new() };
        let mut rows = call.x.len();
        let mut group = vec![0];
        for (place, (number, other)) in asks.iter().enumerate().skip(1) {
            let shared = match (job(*first), job(*number)) {
                (Some(a), Some(b)) => a.shares_network_with(b),
                _ => false,
            };
            let room = self.rows == 0 || rows + other.x.len() <= self.rows;
            if shared && room && call.fits(other) {
                rows += other.x.len();
                group.push(place);
            }
        }
        group
    }

    /// The outputs of one call for a group of asks.
    fn call(&mut self, asks: &[(u64, Call)], group: &[usize]) -> Vec<(u64, Result<Batch, Halt>)> {
        let members: Vec<&(u64, Call)> = group.iter().filter_map(|place| asks.get(*place)).collect();
        let calls: Vec<&Call> = members.iter().map(|(_, call)| call).collect();
        let job = members
            .first()
            .and_then(|(number, _)| self.flights.iter().find(|(found, _)| found == number))
            .map(|(_, flight)| flight.job().clone());
        let (Some(job), Some(call)) = (job, Call::cat(&calls)) else { return Vec::new() };
        self.calls += 1;
        match call.forward(job.network()) {
            Err(halt) => {
                let failed = || Halt::Failed(halt.to_string());
                members.iter().map(|(number, _)| (*number, Err(failed()))).collect()
            }
            Ok(raw) => {
                let mut start = 0;
                let part = |(number, call): &&(u64, Call)| {
                    let rows = start..start + call.x.len();
                    start = rows.end;
                    (*number, Ok(raw.narrow(rows)))
                };
                members.iter().map(part).collect()
            }
        }
    }
}
