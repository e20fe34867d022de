//! Explicit Runge–Kutta methods for the probability-flow ODE in the coordinates of an
//! [`Axis`](crate::schedule::Axis). Each method is a tableau; they share one loop over the stages.
//!
//! Heun's method is Karras et al. 2022, arXiv:2206.00364, algorithm 1.

use super::Solver;
use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// Coefficients of an explicit Runge–Kutta method.
#[derive(Clone, Copy, Debug)]
pub struct Tableau {
    /// Order of convergence.
    pub order: usize,
    /// Positions of the stages after the first, as fractions of the step.
    pub nodes: &'static [f64],
    /// For each of these stages, the weights of the earlier slopes.
    pub stages: &'static [&'static [f64]],
    /// The weights of all slopes in the result.
    pub weights: &'static [f64],
}

/// An explicit Runge–Kutta method. A step to a clean level falls back to Euler's method if a stage would lie
/// there, since no noise can be predicted from a clean sample.
#[derive(Clone, Copy, Debug)]
pub struct RungeKutta(pub Tableau);

/// Heun's method, the trapezoidal rule. Order 2, two evaluations.
pub const HEUN: RungeKutta =
    RungeKutta(Tableau { order: 2, nodes: &[1.0], stages: &[&[1.0]], weights: &[0.5, 0.5] });

/// The midpoint rule. Order 2, two evaluations.
pub const MIDPOINT: RungeKutta =
    RungeKutta(Tableau { order: 2, nodes: &[0.5], stages: &[&[0.5]], weights: &[0.0, 1.0] });

/// Kutta's classical method. Order 4, four evaluations.
pub const CLASSICAL: RungeKutta = RungeKutta(Tableau {
    order: 4,
    nodes: &[0.5, 0.5, 1.0],
    stages: &[&[0.5], &[0.0, 0.5], &[0.0, 0.0, 1.0]],
    weights: &[1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0],
});

impl<V: Vector> Solver<V> for RungeKutta {
    fn order(&self) -> usize {
        self.0.order
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let Tableau { nodes, stages, weights, .. } = self.0;
        let axis = s.axis();
        let (from, to) = (s.from, s.to);
        let (start, du) = (axis.coordinate(from), axis.coordinate(to) - axis.coordinate(from));
        let mut slopes = vec![axis.slope(&s.predict()?)];
        if to.is_clean() && nodes.contains(&1.0) {
            return Ok(advance(&s.x, axis.scale(from), axis.scale(to), du, &[1.0], &slopes));
        }
        for (&node, stage) in nodes.iter().zip(stages) {
            let at = if node == 1.0 { to } else { s.schedule().at_nsr(axis.nsr(start + node * du)) };
            let x = advance(&s.x, axis.scale(from), axis.scale(at), du, stage, &slopes);
            slopes.push(axis.slope(&s.predict_at(&x, at)?));
        }
        Ok(advance(&s.x, axis.scale(from), axis.scale(to), du, weights, &slopes))
    }
}

/// `y + du·Σ wᵢ·kᵢ` in the coordinates of the axis, scaled back.
fn advance<V: Vector>(x: &V, from: f64, to: f64, du: f64, weights: &[f64], slopes: &[V]) -> V {
    let slopes = weights.iter().zip(slopes).filter(|(w, _)| **w != 0.0);
    let terms: Vec<(f64, &V)> =
        std::iter::once((to / from, x)).chain(slopes.map(|(w, k)| (to * du * w, k))).collect();
    V::lin(&terms)
}
