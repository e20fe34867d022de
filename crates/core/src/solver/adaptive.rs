//! A solver that takes as many steps from each level of the plan to the next as its tolerance asks for.

use super::Solver;
use crate::{
    lin,
    predict::Halt,
    trajectory::{Step, Tolerance},
    vector::Vector,
};

/// A solver with steps of its own between the plan's levels. It must tell its
/// [lower order](Step::lower_order), as [`DpmSinglestep`](super::DpmSinglestep) does. The plan need only hold the
/// noisiest level and the cleanest one that is not free of noise.
///
/// The error is measured over the whole vector: rows of one vector share their steps. Give each row a trajectory
/// of its own where a sample must not depend on others.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive<S> {
    /// The solver.
    pub solver: S,
    /// The error that a step may have.
    pub tolerance: Tolerance,
}

impl<S> Adaptive<S> {
    /// With k-diffusion's tolerances.
    pub const fn new(solver: S) -> Self {
        Self { solver, tolerance: Tolerance::K_DIFFUSION }
    }
}

impl<V: Vector, S: Solver<V>> Solver<V> for Adaptive<S> {
    fn order(&self) -> usize {
        self.solver.order()
    }

    fn memory(&self) -> usize {
        self.solver.memory()
    }

    fn tolerance(&self) -> Option<Tolerance> {
        Some(self.tolerance)
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        if s.is_finite() {
            return self.solver.step(s);
        }
        let p = s.predict()?;
        Ok(lin![s.to.alpha => &p.x0, s.to.sigma => &p.eps])
    }
}
