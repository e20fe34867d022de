//! Solvers of the probability-flow ODE: each goes from one level to the next by one formula.

use crate::{predict::Halt, trajectory::Step, vector::Vector};

/// A sampler's formula for one step.
pub trait Solver<V: Vector>: Send + Sync {
    /// Order of convergence of the global error, for smooth denoisers.
    fn order(&self) -> usize;

    /// How many past nodes it reads.
    fn memory(&self) -> usize {
        0
    }

    /// The sample at `s.to`.
    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt>;
}
