//! The one sampling loop: plan × solver × denoiser.

use std::collections::VecDeque;

use crate::{
    forward::renoised,
    level::Level,
    noise::Noise,
    plan::{Move, Plan},
    predict::{Denoiser, Halt, Prediction},
    schedule::{Axis, NoiseSchedule},
    solver::Solver,
    vector::Vector,
};

/// A level at which the denoiser was asked, and its answer.
#[derive(Clone, Debug)]
pub struct Node<V> {
    /// Where.
    pub level: Level,
    /// The sample there, as the solver left it.
    pub x: V,
    /// What it answered.
    pub prediction: Prediction<V>,
}

/// What a solver is lent for one step.
pub struct Step<'s, V> {
    /// The sample at `from`. A predictor-corrector may improve it.
    pub x: V,
    /// The present level.
    pub from: Level,
    /// The level to reach.
    pub to: Level,
    /// How many solver steps of the plan came before this one.
    pub index: usize,
    /// How many solver steps of the plan come after this one.
    pub remaining: usize,
    schedule: &'s dyn NoiseSchedule,
    model: &'s dyn Denoiser<V>,
    noise: &'s mut dyn Noise<V>,
    history: &'s VecDeque<Node<V>>,
    here: Option<Prediction<V>>,
    evals: usize,
    draws: &'s mut u64,
}

impl<'s, V: Vector> Step<'s, V> {
    /// The prediction at `x` and `from`, computed at most once.
    pub fn predict(&mut self) -> Result<Prediction<V>, Halt> {
        match &self.here {
            Some(p) => Ok(p.clone()),
            None => {
                let p = self.predict_at(&self.x.clone(), self.from)?;
                self.here = Some(p.clone());
                Ok(p)
            }
        }
    }

    /// The prediction anywhere else. One evaluation.
    pub fn predict_at(&mut self, x: &V, at: Level) -> Result<Prediction<V>, Halt> {
        self.evals += 1;
        self.model.denoise(x, at)
    }

    /// The `k`-th last node before `from` (`k ≥ 1`), if the trajectory has come through it in the
    /// direction of this step, without fresh noise since.
    pub fn past(&self, k: usize) -> Option<&'s Node<V>> {
        let node = self.history.get(k.checked_sub(1)?)?;
        let before = self.from.lambda() - node.level.lambda();
        (before * (self.to.lambda() - self.from.lambda()) > 0.0).then_some(node)
    }

    /// The last nodes before `from`, newest first: at most `most`, and none beyond a level of pure noise or
    /// without any, where `lambda` is infinite.
    pub fn pasts(&self, most: usize) -> impl Iterator<Item = &'s Node<V>> {
        (1..=most).map_while(|k| self.past(k)).take_while(|node| node.level.lambda().is_finite())
    }

    /// Whether both ends are finite in `lambda`: neither pure noise nor clean.
    pub fn is_finite(&self) -> bool {
        self.from.lambda().is_finite() && self.to.lambda().is_finite()
    }

    /// The process to which the levels belong.
    pub fn schedule(&self) -> &dyn NoiseSchedule {
        self.schedule
    }

    /// Where to integrate: the schedule's axis, or a flow's where this step meets pure noise.
    pub fn axis(&self) -> Axis {
        if self.from.alpha == 0.0 || self.to.alpha == 0.0 { Axis::Flow } else { self.schedule.axis() }
    }

    /// The noise of a stochastic solver's step from `from` to `to`, a standard normal:
    /// [`Noise::increment`].
    pub fn increment(&mut self, from: Level, to: Level) -> V {
        self.noise.increment(&self.x, from, to)
    }

    /// Fresh standard normal noise.
    pub fn noise(&mut self) -> V {
        *self.draws += 1;
        self.noise.normal(&self.x, *self.draws - 1)
    }
}

/// A trajectory after one of its moves.
#[derive(Clone, Debug)]
pub struct Moment<V> {
    /// Moves made so far.
    pub index: usize,
    /// Moves in the plan.
    pub of: usize,
    /// The level of `x`.
    pub level: Level,
    /// The sample.
    pub x: V,
    /// The clean sample as last predicted, for previews; `None` after a move without evaluation.
    pub x0: Option<V>,
    /// Network evaluations so far.
    pub evals: usize,
}

/// A sampling run that can be held, stepped and dropped.
pub struct Trajectory<'a, V> {
    plan: &'a Plan,
    solver: &'a dyn Solver<V>,
    model: &'a dyn Denoiser<V>,
    noise: &'a mut dyn Noise<V>,
    x: V,
    level: Level,
    history: VecDeque<Node<V>>,
    index: usize,
    solves: usize,
    solved: usize,
    evals: usize,
    draws: u64,
    halted: bool,
}

/// Starts at `x` (already scaled to `plan.start`) and yields a [`Moment`] after every move.
/// The last moment holds the result.
pub fn sample<'a, V: Vector>(
    plan: &'a Plan,
    solver: &'a dyn Solver<V>,
    model: &'a dyn Denoiser<V>,
    x: V,
    noise: &'a mut dyn Noise<V>,
) -> Trajectory<'a, V> {
    Trajectory {
        plan,
        solver,
        model,
        noise,
        x,
        level: plan.start,
        history: VecDeque::new(),
        index: 0,
        solves: plan.solves(),
        solved: 0,
        evals: 0,
        draws: 0,
        halted: false,
    }
}

impl<V: Vector> Trajectory<'_, V> {
    /// Runs to the end and returns the final sample.
    pub fn finish(mut self) -> Result<V, Halt> {
        for moment in self.by_ref() {
            moment?;
        }
        Ok(self.x)
    }

    fn solve(&mut self, to: Level) -> Result<Option<V>, Halt> {
        let from = self.level;
        let mut step = Step {
            x: self.x.clone(),
            from,
            to,
            index: self.solved,
            remaining: self.solves - self.solved - 1,
            schedule: &*self.plan.schedule,
            model: self.model,
            noise: self.noise,
            history: &self.history,
            here: None,
            evals: 0,
            draws: &mut self.draws,
        };
        let x = self.solver.step(&mut step)?;
        let (here, evals, before) = (step.here, step.evals, step.x);
        let x0 = here.as_ref().map(|p| p.x0.clone());
        if let Some(prediction) = here {
            self.history.push_front(Node { level: from, x: before, prediction });
            self.history.truncate(self.solver.memory());
        }
        self.x = x;
        self.level = to;
        self.solved += 1;
        self.evals += evals;
        Ok(x0)
    }

    fn renoise(&mut self, to: Level, scale: f64) {
        let n = self.noise.normal(&self.x, self.draws);
        self.draws += 1;
        self.x = renoised(&self.x, &n, self.level, to, scale);
        // What was learnt on the way down belongs to another path now.
        self.history.clear();
        self.level = to;
    }
}

impl<V: Vector> Iterator for Trajectory<'_, V> {
    type Item = Result<Moment<V>, Halt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.halted {
            return None;
        }
        let step = *self.plan.moves.get(self.index)?;
        let x0 = match step {
            Move::Solve(to) => match self.solve(to) {
                Ok(x0) => x0,
                Err(halt) => {
                    self.halted = true;
                    return Some(Err(halt));
                }
            },
            Move::Renoise { to, scale } => {
                self.renoise(to, scale);
                None
            }
            Move::Relabel(level) => {
                self.level = level;
                None
            }
        };
        self.index += 1;
        Some(Ok(Moment {
            index: self.index,
            of: self.plan.moves.len(),
            level: self.level,
            x: self.x.clone(),
            x0,
            evals: self.evals,
        }))
    }
}
