//! The input of a solver for one step.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{
    level::Level,
    noise::Noise,
    predict::{Halt, Prediction},
    schedule::{Axis, NoiseSchedule},
    vector::Vector,
};

/// A level that the trajectory has passed, with its prediction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node<V> {
    /// The noise level.
    pub level: Level,
    /// The sample there, as the solver left it.
    pub x: V,
    /// The denoiser's prediction for it.
    pub prediction: Prediction<V>,
}

/// A point where a prediction is needed.
#[derive(Clone, Debug)]
pub(super) struct Question<V> {
    pub x: V,
    pub at: Level,
    /// Whether it is the prediction at the start of the step, which is stored in the history.
    pub here: bool,
}

/// The input of a solver for one step.
///
/// A step may run several times: it ends early with [`Halt::Pending`] when it needs a prediction that is not available
/// yet, and runs again from its beginning once it is. So a solver must do the same each time: it must not have state of
/// its own, and noise is numbered.
pub struct Step<'s, V> {
    /// The sample at `from`. A predictor-corrector may improve it.
    pub x: V,
    /// The current level.
    pub from: Level,
    /// The level to reach.
    pub to: Level,
    /// Number of solver steps of the plan before this one.
    pub index: usize,
    /// Number of solver steps of the plan after this one.
    pub remaining: usize,
    pub(super) schedule: &'s dyn NoiseSchedule,
    pub(super) noise: &'s mut dyn Noise<V>,
    pub(super) history: &'s VecDeque<Node<V>>,
    /// The prediction at the start, if it is available.
    pub(super) here: Option<Prediction<V>>,
    /// The available predictions elsewhere, in the order of requests.
    pub(super) stages: &'s [Prediction<V>],
    /// Number of these that this run has read.
    pub(super) read: usize,
    pub(super) question: Option<Question<V>>,
    pub(super) draws: u64,
    pub(super) wants_low: bool,
    pub(super) low: Option<V>,
}

impl<'s, V: Vector> Step<'s, V> {
    /// The prediction at `x` and `from`. At most one evaluation, however often it is called.
    pub fn predict(&mut self) -> Result<Prediction<V>, Halt> {
        match &self.here {
            Some(p) => Ok(p.clone()),
            None => Err(self.ask(self.x.clone(), self.from, true)),
        }
    }

    /// The prediction at any other point. Costs one evaluation.
    pub fn predict_at(&mut self, x: &V, at: Level) -> Result<Prediction<V>, Halt> {
        match self.stages.get(self.read) {
            Some(p) => {
                self.read += 1;
                Ok(p.clone())
            }
            None => Err(self.ask(x.clone(), at, false)),
        }
    }

    fn ask(&mut self, x: V, at: Level, here: bool) -> Halt {
        self.question = Some(Question { x, at, here });
        Halt::Pending
    }

    /// The `k`-th last node before `from` (`k ≥ 1`), if the trajectory passed it in the direction of this step and no fresh
    /// noise was added since.
    pub fn past(&self, k: usize) -> Option<&'s Node<V>> {
        let node = self.history.get(k.checked_sub(1)?)?;
        let before = self.from.lambda() - node.level.lambda();
        (before * (self.to.lambda() - self.from.lambda()) > 0.0).then_some(node)
    }

    /// The last nodes before `from`, newest first: at most `most`, and none at or before a level of pure noise or without
    /// noise, where `lambda` is infinite.
    pub fn pasts(&self, most: usize) -> impl Iterator<Item = &'s Node<V>> {
        (1..=most).map_while(|k| self.past(k)).take_while(|node| node.level.lambda().is_finite())
    }

    /// Whether both ends have finite `lambda`: neither pure noise nor clean.
    pub fn is_finite(&self) -> bool {
        self.from.lambda().is_finite() && self.to.lambda().is_finite()
    }

    /// The process that the levels belong to.
    pub fn schedule(&self) -> &dyn NoiseSchedule {
        self.schedule
    }

    /// The coordinates to integrate in: the schedule's axis, or a flow's if this step starts at pure noise.
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
        self.draws += 1;
        self.noise.normal(&self.x, self.draws - 1)
    }

    /// Reports the result of the next lower order, whose distance from the step's own result estimates the step's error.
    /// `low` is only computed if step sizes depend on it.
    pub fn lower_order(&mut self, low: impl FnOnce(&Self) -> V) {
        if self.wants_low {
            self.low = Some(low(self));
        }
    }
}
