//! `x_to = alpha_to·x0 + sigma_to·eps`: the predicted clean sample, noised again with the predicted noise. The
//! same formula has four names: DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12), Euler's method in
//! `sigma/alpha` (Karras et al. 2022, arXiv:2206.00364), Euler's method for flows, and DPM-Solver++ of order 1
//! (Lu et al. 2022, arXiv:2211.01095, eq. 4.1). Order 1, one evaluation.

use super::Solver;
use crate::{lin, predict::Halt, trajectory::Step, vector::Vector};

/// DDIM, Euler, flow-matching Euler, DPM-Solver++(1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Ddim;

impl<V: Vector> Solver<V> for Ddim {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        Ok(lin![s.to.alpha => &p.x0, s.to.sigma => &p.eps])
    }
}
