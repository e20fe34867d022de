//! A solver that takes as many steps between consecutive levels of the plan as its tolerance needs.

use super::{DpmSinglestep, Solver};
use crate::{
    lin,
    predict::Halt,
    trajectory::{Step, Tolerance},
    vector::Vector,
};

/// A solver with its own steps between the plan's levels. It must report its [lower order](Step::lower_order), as
/// [`DpmSinglestep`](super::DpmSinglestep) does. The plan only needs the noisiest level and the cleanest one that is
/// not free of noise.
///
/// The error is measured over the whole vector, so the rows of a vector share their steps. Use one trajectory per row
/// if a sample must not depend on others.
#[derive(Clone, Copy, Debug)]
pub struct Adaptive<S> {
    /// The solver.
    pub solver: S,
    /// The error allowed in a step.
    pub tolerance: Tolerance,
}

/// DPM-Solver with adaptive steps.
pub type AdaptiveDpm = Adaptive<DpmSinglestep>;

impl<S> Adaptive<S> {
    /// Creates it with k-diffusion's tolerances.
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
