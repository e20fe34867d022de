//! ER-SDE-Solver: the reversed diffusion with its own noise scale `φ(u)`, `u = sigma/alpha`, solved with
//! finite differences of `x0`. Cui et al. 2023, arXiv:2309.06169, with `φ(u) = u·(e^(u^0.3) + 10)`
//! (ER SDE 5). One evaluation.
//!
//! The last difference estimates the slope at the middle of the last step; at order 3 the second difference moves it
//! to the end.

use super::Solver;
use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// ER-SDE-Solver.
#[derive(Clone, Copy, Debug)]
pub struct ErSde {
    /// 1 to 3.
    pub order: usize,
    /// `φ`: `u` itself is the probability-flow ODE, `u²` the reversed diffusion.
    pub scale: fn(f64) -> f64,
}

impl ErSde {
    /// Creates it with the paper's scale 5.
    pub const fn new(order: usize) -> Self {
        Self { order, scale: |u| u * (u.powf(0.3).exp() + 10.0) }
    }
}

/// `∫ f` from `a` to `b` by Simpson's rule.
fn integral(a: f64, b: f64, f: impl Fn(f64) -> f64) -> f64 {
    let n = 200;
    let h = (b - a) / f64::from(n);
    let weight = |i| if i == 0 || i == n { 1.0 } else { 2.0 + 2.0 * f64::from(i % 2) };
    (0..=n).map(|i| weight(i) * f(a + h * f64::from(i))).sum::<f64>() * h / 3.0
}

impl<V: Vector> Solver<V> for ErSde {
    fn order(&self) -> usize {
        self.order
    }

    fn memory(&self) -> usize {
        self.order - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let (from, to) = (s.from.nsr(), s.to.nsr());
        if s.to.is_clean() {
            return Ok(p.x0);
        }
        let (alpha, scale) = (s.to.alpha, self.scale);
        // alpha·r·(x/alpha_from), computed from the prediction: finite at pure noise, where r is zero.
        let r = if from.is_finite() { scale(to) / scale(from) } else { 0.0 };
        let kept = if from.is_finite() { r * from } else { 0.0 };
        let noise = s.increment(s.from, s.to);
        let mut terms = vec![
            (alpha, &p.x0),
            (alpha * kept, &p.eps),
            (alpha * ((to - kept) * (to + kept)).max(0.0).sqrt(), &noise),
        ];
        let du = to - from;
        let pasts: Vec<_> = s.pasts(self.order - 1).filter(|_| from.is_finite()).collect();
        if let Some(past) = pasts.first() {
            let first = alpha * (du + scale(to) * integral(to, from, |u| scale(u).recip()));
            let slope = first / (from - past.level.nsr());
            terms.extend([(slope, &p.x0), (-slope, &past.prediction.x0)]);
            if let Some(older) = pasts.get(1) {
                let second = scale(to) * integral(to, from, |u| (u - from) / scale(u));
                let shift = 0.5 * first * (from - past.level.nsr());
                let bend = alpha * (0.5 * du * du + second) + shift;
                let bend = 2.0 * bend / (from - older.level.nsr());
                let newer = bend / (from - past.level.nsr());
                let before = bend / (past.level.nsr() - older.level.nsr());
                terms.extend([
                    (newer, &p.x0),
                    (-newer - before, &past.prediction.x0),
                    (before, &older.prediction.x0),
                ]);
            }
        }
        Ok(V::lin(&terms))
    }
}
