//! UniPC: the sample is first corrected with the new prediction by repeating the last step, then the next step is
//! predicted. Both integrate the polynomial through the predictions exactly, except at the lowest orders, which use
//! `B(h)` for the integral. Zhao et al. 2023, arXiv:2302.04867. One order above the predictor's, one evaluation.

use super::{
    Solver,
    exponential::{Exponential, FinalOrder, Form},
};
use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// The paper's `B(h)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bh {
    /// `h`: better at 5 or 6 steps.
    Bh1,
    /// `e^h − 1`.
    #[default]
    Bh2,
}

/// UniPC.
#[derive(Clone, Copy, Debug)]
pub struct UniPc {
    /// What is interpolated.
    pub form: Form,
    /// Order of the predictor, 1 to 4.
    pub order: usize,
    /// The paper's `B(h)`.
    pub bh: Bh,
    /// Solver steps, counted from 0, after which the sample is not corrected.
    pub uncorrected: Uncorrected,
    /// The order of the last steps.
    pub final_order: FinalOrder,
}

/// The steps after which UniPC does not correct.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uncorrected {
    /// Every step is corrected.
    #[default]
    None,
    /// No step is corrected.
    All,
    /// A bit mask: bit `k` for step `k`. diffusers' `disable_corrector`.
    Steps(u64),
}

impl Uncorrected {
    fn contains(self, step: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Steps(bits) => step < 64 && bits >> step & 1 == 1,
        }
    }
}

impl UniPc {
    /// Creates it with a corrector, on `x0`.
    pub const fn new(order: usize, bh: Bh) -> Self {
        let (form, uncorrected, final_order) = (Form::Data, Uncorrected::None, FinalOrder::LowerIfFew);
        Self { form, order, bh, uncorrected, final_order }
    }

    /// The step through `nodes`; with two nodes, `B(h)/2` replaces the integral of the slope.
    fn through<V: Vector>(&self, step: &Exponential, x: &V, nodes: &[(f64, &V)]) -> V {
        let half = 0.5 * if self.bh == Bh::Bh1 { step.gain() } else { step.moment(0) };
        let simple = nodes.len() == 2;
        step.through(x, nodes, |j| if simple && j == 1 { half } else { step.moment(j) })
    }

    fn corrected<V: Vector>(&self, s: &Step<'_, V>, fresh: &V) -> Option<V> {
        if s.index == 0 || self.uncorrected.contains(s.index - 1) || !s.from.lambda().is_finite() {
            return None;
        }
        let limit = self.final_order.limit(s.remaining + 1, s.index + 1 + s.remaining);
        let pasts: Vec<_> = s.pasts(self.order.min(limit)).collect();
        let start = pasts.first()?;
        let step = Exponential::new(self.form, start.level, s.from);
        let mut nodes = vec![(1.0, fresh)];
        nodes.extend(pasts.iter().map(|n| (step.at(n.level), self.form.of(&n.prediction))));
        Some(self.through(&step, &start.x, &nodes))
    }
}

impl<V: Vector> Solver<V> for UniPc {
    fn order(&self) -> usize {
        if self.uncorrected == Uncorrected::All { self.order } else { self.order + 1 }
    }

    fn memory(&self) -> usize {
        self.order
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let fresh = self.form.of(&p);
        if let Some(x) = self.corrected(s, fresh) {
            s.x = x;
        }
        let step = Exponential::new(self.form, s.from, s.to);
        let order = self.order.min(self.final_order.here(s));
        let mut nodes = vec![(0.0, fresh)];
        nodes.extend(s.pasts(order - 1).map(|n| (step.at(n.level), self.form.of(&n.prediction))));
        if nodes.len() == 1 {
            return Ok(step.first_order(&s.x, &p));
        }
        Ok(self.through(&step, &s.x, &nodes))
    }
}
