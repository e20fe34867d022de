//! DDRM. Kawar, Elad, Ermon & Song 2022, arXiv:2201.11793, equations 7 and 8.
//!
//! In coordinates along the right singular vectors of `A`, with `x/alpha` at the noise level `σ = sigma/alpha` and the noise
//! `σ_y/s` of `ȳ`:
//!
//! - not measured: `N(x0 + √(1−η²)·σ·eps, η²·σ²)`;
//! - `σ < σ_y/s`: `N(x0 + √(1−η²)·σ·(ȳ − x0)/(σ_y/s), η²·σ²)`;
//! - `σ ≥ σ_y/s`: `N((1−η_b)·x0 + η_b·ȳ, σ² − η_b²·σ_y²/s²)`.
//!
//! Bias: like DDNM's, and the noise of the measurement is only weighed against the prior through the network.

use tweedie_core::{Halt, Solver, lin, trajectory::Step};

use super::{Measurement, Rows};

/// DDRM, one evaluation per step.
#[derive(Clone, Debug)]
pub struct Ddrm {
    /// What is known.
    pub measurement: Measurement,
    /// Amount of fresh noise, 0 to 1; the paper's is 0.85.
    pub eta: f64,
    /// Weight of the measurement where it is less noisy than the sample; the paper's is 1.
    pub eta_b: f64,
}

impl<V: Rows> Solver<V> for Ddrm {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let (sigma, Self { eta, eta_b, .. }) = (s.to.nsr(), self);
        let (kept, fresh) = ((1.0 - eta * eta).sqrt() * sigma, eta * sigma);
        let n = if s.to.is_clean() { lin![0.0 => &s.x] } else { s.noise() };
        let free = lin![1.0 => &p.x0, kept => &p.eps, fresh => &n];
        let directions = self.measurement.directions();
        let (start, x0, n) = (free.rows(), p.x0.rows(), n.rows());
        let rows = start.iter().zip(x0.iter().zip(&n)).map(|(free, (x0, n))| {
            directions.combine(free, [x0, n], |d, [x0, n]| match d.sigma {
                noisy if sigma < noisy => x0 + kept * (d.y - x0) / noisy + fresh * n,
                clean => {
                    let own = eta_b * clean;
                    (1.0 - eta_b) * x0 + eta_b * d.y + ((sigma - own) * (sigma + own)).max(0.0).sqrt() * n
                }
            })
        });
        let next = free.with(rows.collect());
        Ok(lin![s.to.alpha => &next])
    }
}
