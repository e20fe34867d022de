//! SA-Solver: a stochastic Adams predictor and a corrector that uses the new prediction and the same noise.
//! Xue et al. 2023, arXiv:2309.05019, algorithm 1. One evaluation.

use super::{
    Solver,
    exponential::{Exponential, FinalOrder, Form},
};
use crate::{level::Level, predict::Halt, trajectory::Step, vector::Vector};

/// SA-Solver.
#[derive(Clone, Copy, Debug)]
pub struct SaSolver {
    /// What is interpolated.
    pub form: Form,
    /// Number of predictions that the predictor uses, 1 to 4.
    pub predictor: usize,
    /// Number of predictions that the corrector uses, 1 to 4; 0 for no corrector.
    pub corrector: usize,
    /// Amount of noise: 0 is the ODE, 1 the reversed diffusion.
    pub tau: f64,
    /// The range of times, inclusive, in which steps are stochastic; all by default.
    pub times: Option<(f64, f64)>,
    /// The order of the last steps.
    pub final_order: FinalOrder,
    /// Whether second-order steps on `x0` integrate the slope without the exponential. The order is the same, but
    /// long steps overshoot. diffusers does this, like the authors' code.
    pub simple: bool,
}

impl SaSolver {
    /// Creates it with noise in all steps.
    pub const fn new(predictor: usize, corrector: usize, tau: f64) -> Self {
        let final_order = FinalOrder::LowerIfFew;
        Self { form: Form::Data, predictor, corrector, tau, times: None, final_order, simple: false }
    }

    fn interval(&self, from: Level, to: Level) -> Exponential {
        let within = self.times.is_none_or(|(min, max)| from.t >= min && from.t <= max);
        let tau = if within { self.tau } else { 0.0 };
        Exponential { tau, ..Exponential::new(self.form, from, to) }
    }

    /// The step through `nodes`.
    fn through<V: Vector>(&self, step: &Exponential, x: &V, nodes: &[(f64, &V)]) -> V {
        let simple = self.simple && self.form == Form::Data && nodes.len() == 2;
        step.through(x, nodes, |j| if simple && j == 1 { 0.5 * step.gain() } else { step.moment(j) })
    }

    fn corrected<V: Vector>(&self, s: &mut Step<'_, V>, fresh: &V) -> Option<V> {
        if self.corrector == 0 || !s.from.lambda().is_finite() {
            return None;
        }
        let start = s.pasts(1).next()?;
        let limit = self.final_order.limit(s.remaining + 1, s.index + 1 + s.remaining).saturating_add(1);
        let step = self.interval(start.level, s.from);
        let mut nodes = vec![(1.0, fresh)];
        nodes.extend(
            s.pasts(self.corrector.min(limit) - 1).map(|n| (step.at(n.level), self.form.of(&n.prediction))),
        );
        let x = self.through(&step, &start.x, &nodes);
        Some(step.noised(s, x))
    }
}

impl<V: Vector> Solver<V> for SaSolver {
    fn order(&self) -> usize {
        self.predictor.max(self.corrector)
    }

    fn memory(&self) -> usize {
        (self.predictor.max(self.corrector) - 1).max(self.corrector.min(1))
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let fresh = self.form.of(&p);
        if let Some(x) = self.corrected(s, fresh) {
            s.x = x;
        }
        let step = self.interval(s.from, s.to);
        let order = self.predictor.min(self.final_order.here(s));
        let mut nodes = vec![(0.0, fresh)];
        nodes.extend(s.pasts(order - 1).map(|n| (step.at(n.level), self.form.of(&n.prediction))));
        let x = match nodes.len() {
            1 => step.first_order(&s.x, &p),
            _ => self.through(&step, &s.x, &nodes),
        };
        Ok(step.noised(s, x))
    }
}
