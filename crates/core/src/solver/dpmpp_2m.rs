//! DPM-Solver++(2M). Lu et al. 2022, arXiv:2211.01095, algorithm 2. Order 2, one evaluation.
//!
//! `x_to = sigma_to/sigma_from·x − alpha_to·(e^−h − 1)·D`, where `D` extrapolates `x0` linearly in
//! `lambda` to the midpoint of the step, from the current prediction and the previous one.

use super::{FinalOrder, Solver};
use crate::{lin, predict::Halt, trajectory::Step, vector::Vector};

/// DPM-Solver++(2M).
#[derive(Clone, Copy, Debug, Default)]
pub struct Dpmpp2m {
    /// The order of the last step.
    pub final_order: FinalOrder,
}

impl<V: Vector> Solver<V> for Dpmpp2m {
    fn order(&self) -> usize {
        2
    }

    fn memory(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let lower = s.to.is_clean() || self.final_order.here(s) < 2;
        let Some(past) = s.past(1).filter(|_| !lower) else {
            return Ok(lin![s.to.alpha => &p.x0, s.to.sigma => &p.eps]);
        };
        let h = s.to.lambda() - s.from.lambda();
        let c = 0.5 * h / (s.from.lambda() - past.level.lambda());
        let weight = -s.to.alpha * (-h).exp_m1();
        Ok(lin![
            s.to.sigma / s.from.sigma => &s.x,
            weight * (1.0 + c) => &p.x0,
            -weight * c => &past.prediction.x0,
        ])
    }
}
