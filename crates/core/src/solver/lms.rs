//! k-diffusion's linear multistep sampler: Adams–Bashforth with the weights for the actual step sizes in the coordinates
//! of an [`Axis`](crate::schedule::Axis). Katherine Crowson 2022. One evaluation.

use super::Solver;
use crate::{
    level::Level,
    phi::weights,
    predict::{Halt, Prediction},
    trajectory::Step,
    vector::Vector,
};

/// Linear multistep method.
#[derive(Clone, Copy, Debug)]
pub struct Lms {
    /// Number of predictions, 1 to 4.
    pub order: usize,
    /// `sigma/alpha` of up to three levels before the plan's start, the last one first: the first predictions are
    /// weighted as if there were predictions at these, like in diffusers.
    pub before: [Option<f64>; 3],
}

impl Lms {
    /// Creates it for a whole plan.
    pub const fn new(order: usize) -> Self {
        Self { order, before: [None; 3] }
    }

    /// The solver for a plan without its first steps, which were at these levels.
    pub(super) fn begun_after(mut self, skipped: &[Level]) -> Self {
        self.before = [None; 3];
        self.before.iter_mut().zip(skipped.iter().rev()).for_each(|(b, level)| *b = Some(level.nsr()));
        self
    }

    /// A step with the weights of more predictions than there are.
    fn begun_step<V: Vector>(&self, s: &Step<'_, V>, p: &Prediction<V>) -> V {
        let (u, du) = (s.from.nsr(), s.to.nsr() - s.from.nsr());
        let (mut nodes, mut slopes) = (vec![0.0], vec![&p.eps]);
        for past in (1..self.order).map_while(|k| s.past(k)) {
            nodes.push((past.level.nsr() - u) / du);
            slopes.push(&past.prediction.eps);
        }
        nodes.extend(self.before.iter().flatten().map(|nsr| (nsr - u) / du));
        nodes.truncate(self.order);
        let weights = (0..slopes.len()).map(|k| s.to.alpha * du * integral(&nodes, k));
        let kept = (s.to.alpha / s.from.alpha, &s.x);
        let terms: Vec<(f64, &V)> = std::iter::once(kept).chain(weights.zip(slopes)).collect();
        V::lin(&terms)
    }
}

impl<V: Vector> Solver<V> for Lms {
    fn order(&self) -> usize {
        self.order
    }

    fn memory(&self) -> usize {
        self.order - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        if s.index + 1 < self.order && self.before[0].is_some() {
            return Ok(self.begun_step(s, &p));
        }
        let axis = s.axis();
        let (u, du) = (axis.coordinate(s.from), axis.coordinate(s.to) - axis.coordinate(s.from));
        let (mut nodes, mut slopes) = (vec![0.0], vec![axis.slope(&p)]);
        for past in (1..self.order).map_while(|k| s.past(k)) {
            let r = (axis.coordinate(past.level) - u) / du;
            if !r.is_finite() {
                break;
            }
            nodes.push(r);
            slopes.push(axis.slope(&past.prediction));
        }
        let (scale, ratio) = (axis.scale(s.to), axis.scale(s.to) / axis.scale(s.from));
        let weights = weights(&nodes, |j| scale * du / (j as f64 + 1.0));
        let terms: Vec<(f64, &V)> =
            std::iter::once((ratio, &s.x)).chain(weights.into_iter().zip(&slopes)).collect();
        Ok(V::lin(&terms))
    }
}

/// The integral over `0..1` of the polynomial that is 1 at `nodes[k]` and 0 at the others.
fn integral(nodes: &[f64], k: usize) -> f64 {
    let mut coefficients = vec![1.0];
    for (_, node) in nodes.iter().enumerate().filter(|(i, _)| *i != k) {
        let scale = 1.0 / (nodes[k] - node);
        let mut next = vec![0.0; coefficients.len() + 1];
        for (j, c) in coefficients.iter().enumerate() {
            next[j] -= c * node * scale;
            next[j + 1] += c * scale;
        }
        coefficients = next;
    }
    coefficients.iter().enumerate().map(|(j, c)| c / (j as f64 + 1.0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrals_of_lagrange_polynomials() {
        // Adams and Bashforth's weights.
        let nodes = [0.0, -1.0, -2.0, -3.0];
        let weights = [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0];
        for (k, w) in weights.iter().enumerate() {
            assert!((integral(&nodes, k) - w).abs() < 1e-14);
        }
    }
}
