//! DPM2: Euler's method to the midpoint in `lambda`, then the whole step with the slope found there. Karras et al.
//! 2022, arXiv:2206.00364, algorithm 2 with the midpoint of Lu et al. 2022, arXiv:2206.00927; k-diffusion's
//! `dpm_2`. Order 2, two evaluations, one in a step into a clean level.

use super::Solver;
use crate::{lin, predict::Halt, trajectory::Step, vector::Vector};

/// DPM2, in diffusers KDPM2.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dpm2;

impl<V: Vector> Solver<V> for Dpm2 {
    fn order(&self) -> usize {
        2
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        if !s.is_finite() {
            return Ok(lin![s.to.alpha => &p.x0, s.to.sigma => &p.eps]);
        }
        let (u, v) = (s.from.nsr(), s.to.nsr());
        let middle = s.schedule().at_nsr((u * v).sqrt());
        let x = lin![middle.alpha => &p.x0, middle.sigma => &p.eps];
        let slope = s.predict_at(&x, middle)?.eps;
        Ok(lin![s.to.alpha / s.from.alpha => &s.x, s.to.alpha * (v - u) => &slope])
    }
}
