//! DiffPIR. Zhu et al. 2023, arXiv:2305.08995, algorithm 1.
//!
//! The prediction is the prior's half of a splitting; the other half is the proximal point
//! `x̂0 = argmin ‖y − A·x‖² + ρ·‖x − x0‖² = x0 + Aᵀ·(A·Aᵀ + ρ)⁻¹·(y − A·x0)` with `ρ = λ·σ_y²/σ²` and `σ = sigma/alpha`. Then
//! `x_s = alpha·x̂0 + sigma·(√(1−ζ)·eps + √ζ·n)` with `eps = (x − alpha_t·x̂0)/sigma_t`.
//!
//! Bias: `λ` stands for the ratio of the prior's variance to the noise level's, which no constant fits at all levels.

use tweedie_core::{Halt, Solver, lin, trajectory::Step};

use super::{Measurement, Rows};

/// DiffPIR, one evaluation per step.
#[derive(Clone, Debug)]
pub struct DiffPir {
    /// What is known.
    pub measurement: Measurement,
    /// Weight of the prior, `λ`; the paper's are 1 to 13.
    pub lambda: f64,
    /// Share of fresh noise, `ζ`, 0 to 1; the paper's are 0.1 to 1.
    pub zeta: f64,
}

/// The least noise of a measurement, where `ρ` would be 0: as in the authors' code.
const LEAST: f64 = 1e-3;

impl<V: Rows> Solver<V> for DiffPir {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let rho = self.lambda * self.measurement.sigma.max(LEAST).powi(2) / s.from.nsr().powi(2);
        let a = self.measurement.linear();
        let x0 = p.x0.each(|x0| {
            let change = a.adjoint(&a.solve(1.0, rho, &self.measurement.residual(x0)));
            x0.iter().zip(change).map(|(x0, d)| x0 + d).collect()
        });
        let eps = lin![1.0 / s.from.sigma => &s.x, -s.from.alpha / s.from.sigma => &x0];
        if s.to.is_clean() {
            return Ok(x0);
        }
        let n = s.noise();
        let (kept, fresh) = ((1.0 - self.zeta).sqrt(), self.zeta.sqrt());
        Ok(lin![s.to.alpha => &x0, s.to.sigma * kept => &eps, s.to.sigma * fresh => &n])
    }
}
