//! The prediction of consistency models, `c_skip·x + c_out·x0`, which is the sample itself at time 0. Song et al. 2023,
//! arXiv:2303.01469, eq. 5, with the coefficients of latent consistency models: Luo et al. 2023,
//! arXiv:2310.04378. Order 1, one evaluation. For plans of [`Plan::consistency`](crate::Plan::consistency).

use super::Solver;
use crate::{lin, predict::Halt, trajectory::Step, vector::Vector};

/// `c_skip = d²/(s²+d²)`, `c_out = s/√(s²+d²)` with `s = time_scale·t` and `d = sigma_data`.
#[derive(Clone, Copy, Debug)]
pub struct Consistency {
    /// Standard deviation of the data: 0.5 in the paper.
    pub sigma_data: f64,
    /// 10 in the paper, for times up to 1000.
    pub time_scale: f64,
}

impl<V: Vector> Solver<V> for Consistency {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let (time, data) = (self.time_scale * s.from.t, self.sigma_data);
        let size = time.hypot(data);
        let (skip, out) = ((data / size).powi(2), time / size);
        Ok(lin![
            skip => &s.x,
            s.to.alpha * out => &p.x0,
            s.to.sigma * out => &p.eps,
        ])
    }
}
