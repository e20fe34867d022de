//! The linear multistep method of `LMSDiscreteScheduler`: if its schedule starts late, it weights predictions as if all
//! earlier ones existed.

use tweedie_core::{Halt, Level, Solver, Vector, solver, trajectory::Step};

const ORDER: usize = 4;

/// Linear multistep method with four predictions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lms {
    /// `sigma/alpha` of up to three levels before the plan's start, the last one first.
    before: [Option<f64>; ORDER - 1],
}

impl Lms {
    /// The solver for a plan without its first steps, which were at these levels.
    pub(super) fn begun_after(skipped: &[Level]) -> Self {
        let mut before = [None; ORDER - 1];
        before.iter_mut().zip(skipped.iter().rev()).for_each(|(b, level)| *b = Some(level.nsr()));
        Self { before }
    }
}

impl<V: Vector> Solver<V> for Lms {
    fn order(&self) -> usize {
        ORDER
    }

    fn memory(&self) -> usize {
        ORDER - 1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        if s.index >= ORDER - 1 || self.before[0].is_none() {
            return solver::Lms { order: ORDER }.step(s);
        }
        let p = s.predict()?;
        let (u, du) = (s.from.nsr(), s.to.nsr() - s.from.nsr());
        let (mut nodes, mut slopes) = (vec![0.0], vec![&p.eps]);
        for past in (1..ORDER).map_while(|k| s.past(k)) {
            nodes.push((past.level.nsr() - u) / du);
            slopes.push(&past.prediction.eps);
        }
        nodes.extend(self.before.iter().flatten().map(|nsr| (nsr - u) / du));
        nodes.truncate(ORDER);
        let weights = (0..slopes.len()).map(|k| s.to.alpha * du * integral(&nodes, k));
        let kept = (s.to.alpha / s.from.alpha, &s.x);
        let terms: Vec<(f64, &V)> = std::iter::once(kept).chain(weights.zip(slopes)).collect();
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
