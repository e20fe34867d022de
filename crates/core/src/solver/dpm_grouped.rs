//! DPM-Solver and DPM-Solver++ whose stages are the plan's own levels: steps in groups of one, two or three, each
//! computed from the group's first sample and all its predictions so far. diffusers' `DPMSolverSinglestep`; Lu et
//! al. 2022, arXiv:2206.00927. One evaluation per step.

use super::{
    Solver,
    dpm_multistep::{Curvature, Rule},
    dpm_singlestep::combined,
    exponential::{Exponential, Form},
};
use crate::{lin, predict::Halt, trajectory::Step, vector::Vector};

/// DPM-Solver (`Form::Noise`) or DPM-Solver++ (`Form::Data`), singlestep over the plan's levels.
#[derive(Clone, Copy, Debug)]
pub struct DpmGrouped {
    /// What is interpolated.
    pub form: Form,
    /// 1 to 3: the size of a group.
    pub order: usize,
    /// How the slope of the prediction is integrated; at order 3, `Heun` also uses the curvature.
    pub rule: Rule,
    /// Used at order 3 with noise and `Rule::Heun`: as published, one term of the curvature has the wrong sign.
    pub curvature: Curvature,
    /// 0 is deterministic; 1 is the reversed diffusion.
    pub tau: f64,
    /// Whether the last steps have lower order, the very last order 1. diffusers' `lower_order_final`.
    pub lower_final: bool,
    /// Number of steps in the whole plan, if only its last part is run. Groups are counted from its start.
    pub steps: Option<usize>,
}

impl DpmGrouped {
    /// A deterministic solver.
    pub const fn new(form: Form, order: usize) -> Self {
        let (rule, curvature) = (Rule::Midpoint, Curvature::Exact);
        Self { form, order, rule, curvature, tau: 0.0, lower_final: false, steps: None }
    }

    /// The order of step `index` of `steps`, its position in the group. With a lower order at the end, a complete
    /// last group is split.
    fn order_of(&self, index: usize, steps: usize) -> usize {
        let whole = index + 1 == steps && steps.is_multiple_of(self.order);
        if self.lower_final && whole { 1 } else { index % self.order + 1 }
    }
}

impl<V: Vector> Solver<V> for DpmGrouped {
    fn order(&self) -> usize {
        self.order
    }

    fn memory(&self) -> usize {
        self.order - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let steps = self.steps.unwrap_or(0).max(s.index + 1 + s.remaining);
        let order = if s.is_finite() { self.order_of(steps - 1 - s.remaining, steps) } else { 1 };
        let pasts: Vec<_> = s.pasts(order - 1).collect();
        let (first, level) = pasts.last().map_or((&s.x, s.from), |node| (&node.x, node.level));
        let step = Exponential { tau: self.tau, ..Exponential::new(self.form, level, s.to) };
        let x = match pasts[..] {
            [] => step.first_order(first, &p),
            [.., start] => {
                let mut later = vec![(step.at(s.from), self.form.of(&p))];
                later.extend(pasts.iter().map(|n| (step.at(n.level), self.form.of(&n.prediction))));
                later.pop();
                later.reverse();
                let m0 = self.form.of(&start.prediction);
                let x = combined(&step, self.rule, first, m0, &later);
                match later[..] {
                    [(r1, m1), (r2, m2)]
                        if self.curvature == Curvature::Published
                            && (self.rule, self.form) == (Rule::Heun, Form::Data)
                            && self.tau != 0.0 =>
                    {
                        // The second difference, times h².
                        let c = -2.0 * step.to.alpha / (r2 - r1);
                        lin![1.0 => &x, c / r2 => m2, -c / r1 => m1, c * (1.0 / r1 - 1.0 / r2) => m0]
                    }
                    _ => x,
                }
            }
        };
        Ok(step.noised(s, x))
    }
}
