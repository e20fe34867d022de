//! `PNDMScheduler` begun at a later call of the network, as image-to-image pipelines do: diffusers leaves out the
//! first times of its list, but counts what it does from the call that it begins with.

use tweedie_core::{Halt, Level, Move, Plan, Solver, Vector, trajectory::Step};

use super::pndm::Pndm;

/// Calls of the network in the Runge-Kutta start: three steps of four stages.
const START: usize = 12;

impl Pndm {
    /// The plan without its first `step` calls of the network, and the solver that follows it if that is not the
    /// same.
    pub(super) fn begun_at(&self, plan: &Plan, step: usize) -> Option<(Plan, Option<Begun>)> {
        let solves: Vec<(usize, Level)> = (plan.steps().enumerate())
            .filter(|(_, (_, m))| matches!(m, Move::Solve(_)))
            .map(|(index, (level, _))| (index, level))
            .collect();
        if step == 0 || step >= solves.len() {
            return None;
        }
        if self.runge_kutta {
            let times: Vec<f64> = solves.iter().map(|(_, level)| level.t).collect();
            let begun = Begun::new(*self, &times, step)?;
            return Some((begun.plan(plan), Some(begun)));
        }
        // The second call is made for the first step's end, though the list names the second time twice only at its
        // beginning. So no time is told twice, and of the levels passed one is not stepped from. The first call is
        // for the level before, but where that is named twice.
        let start = solves[(step - 1).max(1)].1;
        let mut moves = vec![Move::Solve(solves[step].1)];
        if let Some(&(index, level)) = solves.get(step + 1) {
            moves.push(Move::Relabel(level));
            moves.extend(&plan.moves[index..]);
        }
        Some((Plan { start, start_std: start.alpha.hypot(start.sigma), moves, ..plan.clone() }, None))
    }
}

/// A Runge-Kutta start begun within: its stages are told the times from there on, but taken to begin where those of
/// the whole list do.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pndm: Pndm,
    /// What the network is told, call by call.
    told: Vec<f64>,
    /// The times that the steps of the start are taken to begin at.
    bases: [f64; 3],
}

impl Begun {
    /// Without the first `skipped` calls of a plan through `times`; none if the start is not whole.
    fn new(pndm: Pndm, times: &[f64], skipped: usize) -> Option<Self> {
        let &[first, second, third, fourth, ..] = times else { return None };
        let mut told = Vec::with_capacity(times.len() + START);
        for (from, to) in [(first, second), (second, third), (third, fourth)] {
            let above = to + pndm.half();
            told.extend([from, above, above, to]);
        }
        told.extend(&times[3..]);
        told.drain(..skipped);
        Some(Self { pndm, told, bases: [first, second, third] })
    }

    /// The calls of each step.
    fn steps(&self) -> impl Iterator<Item = &[f64]> {
        let (start, rest) = self.told.split_at(START.min(self.told.len()));
        start.chunks(4).chain(rest.chunks(1))
    }

    fn plan(&self, whole: &Plan) -> Plan {
        let level = |t: f64| if t < 0.0 { self.pndm.end } else { whole.schedule.level(t) };
        let mut moves: Vec<Move> = Vec::new();
        for (step, told) in self.steps().enumerate() {
            let Some((&first, &last)) = told.first().zip(told.last()) else { continue };
            if moves.last().is_some_and(|end| end.to() != level(first)) {
                moves.push(Move::Relabel(level(first)));
            }
            moves.push(Move::Solve(match (step < self.bases.len(), told.len() % 2) {
                (false, _) => level(first - self.pndm.stride),
                (true, 0) => level(last),
                (true, _) => level(last - self.pndm.half()),
            }));
        }
        let start = level(self.told.first().copied().unwrap_or(0.0));
        Plan { start, start_std: start.alpha.hypot(start.sigma), moves, ..whole.clone() }
    }
}

impl<V: Vector> Solver<V> for Begun {
    fn order(&self) -> usize {
        2
    }

    fn memory(&self) -> usize {
        3
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        match (self.bases.get(s.index), self.steps().nth(s.index)) {
            (Some(&base), Some(told)) => self.pndm.runge_kutta(s, s.schedule().level(base), told),
            _ => self.pndm.multistep(s),
        }
    }
}
