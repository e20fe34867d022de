//! Multistep DPM-Solver and DPM-Solver++ of order 1 to 3, and their stochastic variants. Derivatives of the
//! prediction in `lambda` are estimated by finite differences, and integrated exactly or by the midpoint rule.
//! Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095. One evaluation.

use super::{
    Solver,
    exponential::{Exponential, FinalOrder, Form},
};
use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// How a second-order solver integrates the slope of the prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The midpoint rule: the prediction at the middle of the step is used for all of it.
    #[default]
    Midpoint,
    /// The exact integral.
    Heun,
}

/// The weight of the curvature at third order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Curvature {
    /// The exact integral: order 3.
    #[default]
    Exact,
    /// As published and in diffusers: half of it, which leaves order 2; with noise, where the sign of a term is
    /// wrong, order 1.
    Published,
}

/// DPM-Solver (`Form::Noise`) or DPM-Solver++ (`Form::Data`), multistep.
#[derive(Clone, Copy, Debug)]
pub struct DpmMultistep {
    /// What is interpolated.
    pub form: Form,
    /// 1 to 3.
    pub order: usize,
    /// Used at order 2.
    pub rule: Rule,
    /// Used at order 3.
    pub curvature: Curvature,
    /// 0 is deterministic; 1 is the reversed diffusion, `sde-dpmsolver` and `sde-dpmsolver++`.
    pub tau: f64,
    /// The order of the last steps.
    pub final_order: FinalOrder,
}

impl DpmMultistep {
    /// A deterministic solver.
    pub const fn new(form: Form, order: usize) -> Self {
        let (rule, curvature) = (Rule::Midpoint, Curvature::Exact);
        Self { form, order, rule, curvature, tau: 0.0, final_order: FinalOrder::LowerIfFew }
    }

    fn curvature(&self, step: &Exponential) -> f64 {
        match (self.curvature, self.tau == 0.0, self.form) {
            (Curvature::Exact, ..) => step.moment(2),
            (_, false, Form::Data) => 0.5 * step.moment(2) - step.to.alpha,
            _ => 0.5 * step.moment(2),
        }
    }
}

impl<V: Vector> Solver<V> for DpmMultistep {
    fn order(&self) -> usize {
        if self.curvature == Curvature::Published { self.order.min(2) } else { self.order }
    }

    fn memory(&self) -> usize {
        self.order - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let step = Exponential { tau: self.tau, ..Exponential::new(self.form, s.from, s.to) };
        let m0 = self.form.of(&p);
        let order = self.order.min(self.final_order.here(s));
        let pasts: Vec<(f64, &V)> =
            s.pasts(order - 1).map(|n| (-step.at(n.level), self.form.of(&n.prediction))).collect();
        let base = || [(step.keep(), &s.x), (step.moment(0), m0)];
        let terms = match pasts[..] {
            [] => {
                let x = step.first_order(&s.x, &p);
                return Ok(step.noised(s, x));
            }
            [(r0, m1)] => {
                let slope = match self.rule {
                    Rule::Midpoint => 0.5 * step.moment(0),
                    Rule::Heun => step.moment(1),
                } / r0;
                [&base()[..], &[(slope, m0), (-slope, m1)]].concat()
            }
            [(r0, m1), (r, m2), ..] => {
                // D1 and D2 are h and h²/2 times the first and second derivative.
                let r1 = r - r0;
                let (slope, curvature) = (step.moment(1), self.curvature(&step));
                let newer = slope * (1.0 + r0 / (r0 + r1)) + curvature / (r0 + r1);
                let older = -slope * r0 / (r0 + r1) - curvature / (r0 + r1);
                let (newer, older) = (newer / r0, older / r1);
                [&base()[..], &[(newer, m0), (older - newer, m1), (-older, m2)]].concat()
            }
        };
        let x = V::lin(&terms);
        Ok(step.noised(s, x))
    }
}
