//! The state of a trajectory between two predictions: only values, so it can be stored.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Moment, Poll,
    control::Substeps,
    step::{Node, Question, Step},
};
use crate::{
    forward::renoised,
    level::Level,
    noise::Noise,
    plan::{Move, Plan},
    predict::{Halt, Prediction},
    solver::Solver,
    vector::Vector,
};

/// Why a state does not belong to a plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StateError {
    /// It has made more moves than the plan has.
    #[error("the state has made {made} moves, but its plan has {of}")]
    Moves {
        /// Moves made by the state.
        made: usize,
        /// Moves in the plan.
        of: usize,
    },
    /// Its sample is at another level than the plan after as many moves.
    #[error(
        "after {made} moves the state has the noise level {found}, but the plan has {expected} (sigma/alpha)"
    )]
    Level {
        /// Moves made by the state.
        made: usize,
        /// The state's noise-to-signal ratio.
        found: f64,
        /// The plan's noise-to-signal ratio.
        expected: f64,
    },
}

/// Everything that a trajectory needs to continue, except the plan, the solver and the noise. It can be stored with serde;
/// a restored trajectory ends with the same bits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State<V> {
    /// The sample, at `level`.
    x: V,
    level: Level,
    /// Past nodes for the solver, newest first.
    history: VecDeque<Node<V>>,
    /// Moves made.
    index: usize,
    /// Solver steps made.
    solved: usize,
    evals: usize,
    /// Noise drawn so far.
    draws: u64,
    /// The prediction at `x`, if it is available.
    here: Option<Prediction<V>>,
    /// The other predictions of the current step so far.
    stages: Vec<Prediction<V>>,
    /// Set within a move with its own step sizes.
    substeps: Option<Substeps>,
    /// The requested prediction. A restored state requests it again.
    #[serde(skip, default = "Option::default")]
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Here,
    Stage,
}

impl<V: Vector> State<V> {
    pub(super) fn new(plan: &Plan, x: V) -> Self {
        Self {
            x,
            level: plan.start,
            history: VecDeque::new(),
            index: 0,
            solved: 0,
            evals: 0,
            draws: 0,
            here: None,
            stages: Vec::new(),
            substeps: None,
            pending: None,
        }
    }

    /// Network evaluations so far.
    pub fn evals(&self) -> usize {
        self.evals
    }

    /// Every value that it holds: the sample, past nodes and predictions. Those of a stored state may come from anywhere, so
    /// who restores one checks that all are samples of one kind.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        let nodes = self.history.iter().flat_map(|node| std::iter::once(&node.x).chain(of(&node.prediction)));
        let others = self.here.iter().chain(&self.stages).flat_map(of);
        std::iter::once(&self.x).chain(nodes).chain(others)
    }

    /// Moves made so far.
    pub fn index(&self) -> usize {
        self.index
    }

    pub(super) fn into_x(self) -> V {
        self.x
    }

    pub(super) fn check(&self, plan: &Plan) -> Result<(), StateError> {
        let (made, of) = (self.index, plan.moves.len());
        if made > of {
            return Err(StateError::Moves { made, of });
        }
        let expected = if made == 0 { plan.start } else { plan.moves[made - 1].to() };
        if self.level != expected && self.substeps.is_none() {
            return Err(StateError::Level { made, found: self.level.nsr(), expected: expected.nsr() });
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, prediction: Prediction<V>) {
        match self.pending.take() {
            Some(Pending::Here) => self.here = Some(prediction),
            Some(Pending::Stage) => self.stages.push(prediction),
            None => return,
        }
        self.evals += 1;
    }

    pub(super) fn poll(
        &mut self,
        plan: &Plan,
        solver: &dyn Solver<V>,
        noise: &mut dyn Noise<V>,
    ) -> Result<Poll<V>, Halt> {
        let Some(&next) = plan.moves.get(self.index) else { return Ok(Poll::Done(self.x.clone())) };
        let x0 = match next {
            Move::Solve(to) => match self.solve(plan, solver, noise, to)? {
                Solved::Asks(Question { x, at, here }) => {
                    self.pending = Some(if here { Pending::Here } else { Pending::Stage });
                    return Ok(Poll::Ask { x, at });
                }
                Solved::There(x0) => x0,
            },
            Move::Renoise { to, scale } => {
                let n = noise.normal(&self.x, self.draws);
                self.draws += 1;
                self.x = renoised(&self.x, &n, self.level, to, scale);
                self.level = to;
                // Past predictions belong to another path after fresh noise.
                self.history.clear();
                None
            }
            Move::Relabel(level) => {
                self.level = level;
                None
            }
        };
        self.index += 1;
        Ok(Poll::Moved(Moment {
            index: self.index,
            of: plan.moves.len(),
            level: self.level,
            x: self.x.clone(),
            x0,
            evals: self.evals,
        }))
    }

    /// Solves up to `end`, in one step or in as many as the solver's tolerance needs.
    fn solve(
        &mut self,
        plan: &Plan,
        solver: &dyn Solver<V>,
        noise: &mut dyn Noise<V>,
        end: Level,
    ) -> Result<Solved<V>, Halt> {
        let finite = self.level.lambda().is_finite() && end.lambda().is_finite();
        let tolerance = solver.tolerance().filter(|_| finite);
        loop {
            let substeps = tolerance.map(|tolerance| {
                let begun = || Substeps::new(&tolerance, solver.order(), &self.x, self.level, end);
                (tolerance, self.substeps.clone().unwrap_or_else(begun))
            });
            let to = match &substeps {
                Some((_, substeps)) => substeps.next(&*plan.schedule, self.level, end),
                None => end,
            };
            let mut step = Step {
                x: self.x.clone(),
                from: self.level,
                to,
                index: self.solved,
                remaining: plan.solves() - self.solved - 1,
                schedule: &*plan.schedule,
                noise: &mut *noise,
                history: &self.history,
                here: self.here.clone(),
                stages: &self.stages,
                read: 0,
                question: None,
                draws: self.draws,
                wants_low: substeps.is_some(),
                low: None,
            };
            let result = solver.step(&mut step);
            let Step { x: before, question, draws, low, .. } = step;
            let x = match (result, question) {
                (Ok(x), _) => x,
                (Err(Halt::Pending), Some(question)) => return Ok(Solved::Asks(question)),
                (Err(halt), _) => return Err(halt),
            };
            self.stages.clear();
            if let Some((tolerance, mut substeps)) = substeps {
                let low = low.as_ref().unwrap_or(&x);
                let accepted = substeps.accept(&tolerance, low, &x)?;
                self.substeps = Some(substeps);
                if !accepted {
                    continue;
                }
            }
            let here = self.here.take();
            let x0 = here.as_ref().map(|p| p.x0.clone());
            if let Some(prediction) = here {
                self.history.push_front(Node { level: self.level, x: before, prediction });
                self.history.truncate(solver.memory());
            }
            (self.x, self.level, self.draws) = (x, to, draws);
            if to == end {
                self.substeps = None;
                self.solved += 1;
                return Ok(Solved::There(x0));
            }
        }
    }
}

/// The values of a prediction.
fn of<V>(p: &Prediction<V>) -> impl Iterator<Item = &V> {
    [&p.x0, &p.eps].into_iter().chain(&p.null_eps).chain(&p.variance).chain(&p.pulled)
}

/// The result of a solver's step.
enum Solved<V> {
    Asks(Question<V>),
    There(Option<V>),
}
