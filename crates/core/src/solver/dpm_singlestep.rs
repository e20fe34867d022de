//! DPM-Solver and DPM-Solver++ with stages inside the step, of order 2 and 3. Lu et al. 2022,
//! arXiv:2206.00927, algorithms 1 and 2, and arXiv:2211.01095, algorithm 1. The number of evaluations is the order.
//! With the rule of Heun on `x0`, the stages and weights are those of RES: Zhang et al. 2023,
//! arXiv:2308.02157.

use super::{
    Solver,
    dpm_multistep::Rule,
    exponential::{Exponential, Form},
};
use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// DPM-Solver (`Form::Noise`) or DPM-Solver++ (`Form::Data`), singlestep.
#[derive(Clone, Copy, Debug)]
pub struct DpmSinglestep {
    /// What is interpolated.
    pub form: Form,
    /// 2 or 3.
    pub order: usize,
    /// How the slope of the prediction is integrated; at order 3, `Heun` also uses the curvature.
    pub rule: Rule,
}

/// The step from the prediction `m0` at its start and those at two later `r`: `m1` at `r1`, `m2` at `r2`.
pub(super) fn combined<V: Vector>(step: &Exponential, rule: Rule, x: &V, m0: &V, later: &[(f64, &V)]) -> V {
    let base = [(step.keep(), x), (step.moment(0), m0)];
    let terms = match (later, rule) {
        ([], _) => base.to_vec(),
        ([(r1, m1)], _) => {
            let slope = if rule == Rule::Midpoint { 0.5 * step.moment(0) } else { step.moment(1) } / r1;
            [&base[..], &[(slope, *m1), (-slope, m0)]].concat()
        }
        ([_, (r2, m2), ..], Rule::Midpoint) => {
            let slope = step.moment(1) / r2;
            [&base[..], &[(slope, *m2), (-slope, m0)]].concat()
        }
        ([(r1, m1), (r2, m2), ..], Rule::Heun) => {
            return step.through(x, &[(0.0, m0), (*r1, m1), (*r2, m2)], |j| step.moment(j));
        }
    };
    V::lin(&terms)
}

impl<V: Vector> Solver<V> for DpmSinglestep {
    fn order(&self) -> usize {
        self.order
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let step = Exponential::new(self.form, s.from, s.to);
        if !s.is_finite() {
            return Ok(step.first_order(&s.x, &p));
        }
        let (from, lambda) = (s.from, s.from.lambda());
        let m0 = self.form.of(&p);
        let first = if self.order == 2 { 0.5 } else { 1.0 / 3.0 };
        let at = s.schedule().at_lambda(lambda + first * step.h());
        let stage = Exponential::new(self.form, from, at).first_order(&s.x, &p);
        let p1 = s.predict_at(&stage, at)?;
        let m1 = self.form.of(&p1);
        if self.order == 2 {
            s.lower_order(|s| step.first_order(&s.x, &p));
            return Ok(combined(&step, self.rule, &s.x, m0, &[(first, m1)]));
        }
        let second = 2.0 / 3.0;
        let at = s.schedule().at_lambda(lambda + second * step.h());
        let stage = Exponential::new(self.form, from, at);
        let stage = combined(&stage, Rule::Heun, &s.x, m0, &[(first / second, m1)]);
        let p2 = s.predict_at(&stage, at)?;
        let m2 = self.form.of(&p2);
        s.lower_order(|s| combined(&step, Rule::Midpoint, &s.x, m0, &[(first, m1)]));
        Ok(combined(&step, self.rule, &s.x, m0, &[(first, m1), (second, m2)]))
    }
}
