//! CFG++: the guided clean sample is noised again with the unconditional noise prediction, which keeps guided
//! samples on the data manifold. Chung et al. 2024, arXiv:2406.08070, algorithm 2; for solvers other than DDIM
//! by analogy. The guidance scale is between 0 and 1.

use super::{Ddim, Dpmpp2m, Solver};
use crate::{lin, predict::Halt, trajectory::Step, vector::Vector};

/// A solver with CFG++. Without guidance it equals the solver itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct CfgPlusPlus<S>(
    /// The solver.
    pub S,
);

/// DDIM with CFG++.
pub type DdimCfg = CfgPlusPlus<Ddim>;
/// DPM-Solver++(2M) with CFG++.
pub type Dpmpp2mCfg = CfgPlusPlus<Dpmpp2m>;

impl<V: Vector, S: Solver<V>> Solver<V> for CfgPlusPlus<S> {
    fn order(&self) -> usize {
        self.0.order()
    }

    fn memory(&self) -> usize {
        self.0.memory()
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let x = self.0.step(s)?;
        Ok(match p.null_eps {
            Some(null) => lin![1.0 => &x, s.to.sigma => &null, -s.to.sigma => &p.eps],
            None => x,
        })
    }
}
