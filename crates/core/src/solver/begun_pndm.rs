//! [`StridedPndm`] started at a later call of the network, as in image-to-image pipelines: diffusers omits the first
//! timesteps of its list, but counts calls from the one that it starts with.

use super::{AnySolver, Solver, StridedPndm};
use crate::{
    plan::{Move, Plan},
    predict::Halt,
    trajectory::Step,
    vector::Vector,
};

/// Calls of the network in the Runge-Kutta start: three steps of four stages.
const START: usize = 12;

impl StridedPndm {
    /// The plan without its first `step` calls of the network, and the solver for it. `None` if they are the same as
    /// for any solver.
    pub(super) fn begun_at(&self, plan: &Plan, step: usize) -> Option<(Plan, AnySolver)> {
        let solves = plan.solve_starts();
        if step == 0 || step >= solves.len() {
            return None;
        }
        if self.runge_kutta {
            let times: Vec<f64> = solves.iter().map(|(_, level)| level.t).collect();
            let begun = BegunPndm::new(*self, &times, step)?;
            return Some((begun.plan(plan), begun.into()));
        }
        // The second call belongs to the end of the first step, but the list repeats the second timestep only at its
        // start. So no timestep is repeated, and one of the levels is never stepped from. The first call is at the level
        // before, unless that is repeated.
        let start = solves[(step - 1).max(1)].1;
        let mut moves = vec![Move::Solve(solves[step].1)];
        if let Some(&(index, level)) = solves.get(step + 1) {
            moves.push(Move::Relabel(level));
            moves.extend(&plan.moves[index..]);
        }
        Some((
            Plan { start, start_std: start.alpha.hypot(start.sigma), moves, ..plan.clone() },
            (*self).into(),
        ))
    }
}

/// [`StridedPndm`] with a Runge–Kutta start that begins in the middle: its stages get the timesteps from there on, but
/// are interpreted as if they began at those of the whole list.
#[derive(Clone, Debug)]
pub struct BegunPndm {
    pndm: StridedPndm,
    /// The timesteps passed to the network, call by call.
    calls: Vec<f64>,
    /// The timesteps at which the steps of the start are assumed to begin.
    bases: [f64; 3],
}

impl BegunPndm {
    /// Without the first `skipped` calls of a plan through `times`; `None` if the start is incomplete.
    fn new(pndm: StridedPndm, times: &[f64], skipped: usize) -> Option<Self> {
        let &[first, second, third, fourth, ..] = times else { return None };
        let mut calls = Vec::with_capacity(times.len() + START);
        for (from, to) in [(first, second), (second, third), (third, fourth)] {
            let above = to + pndm.half();
            calls.extend([from, above, above, to]);
        }
        calls.extend(&times[3..]);
        calls.drain(..skipped);
        Some(Self { pndm, calls, bases: [first, second, third] })
    }

    /// The calls of each step.
    fn steps(&self) -> impl Iterator<Item = &[f64]> {
        let (start, rest) = self.calls.split_at(START.min(self.calls.len()));
        start.chunks(4).chain(rest.chunks(1))
    }

    fn plan(&self, whole: &Plan) -> Plan {
        let level = |t: f64| if t < 0.0 { self.pndm.end } else { whole.schedule.level(t) };
        let mut moves: Vec<Move> = Vec::new();
        for (step, calls) in self.steps().enumerate() {
            let Some((&first, &last)) = calls.first().zip(calls.last()) else { continue };
            if moves.last().is_some_and(|end| end.to() != level(first)) {
                moves.push(Move::Relabel(level(first)));
            }
            moves.push(Move::Solve(match (step < self.bases.len(), calls.len() % 2) {
                (false, _) => level(first - self.pndm.stride),
                (true, 0) => level(last),
                (true, _) => level(last - self.pndm.half()),
            }));
        }
        let start = level(self.calls.first().copied().unwrap_or(0.0));
        Plan { start, start_std: start.alpha.hypot(start.sigma), moves, ..whole.clone() }
    }
}

impl<V: Vector> Solver<V> for BegunPndm {
    fn order(&self) -> usize {
        2
    }

    fn memory(&self) -> usize {
        3
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        match (self.bases.get(s.index), self.steps().nth(s.index)) {
            (Some(&base), Some(calls)) => self.pndm.runge_kutta(s, s.schedule().level(base), calls),
            _ => self.pndm.multistep(s),
        }
    }
}
