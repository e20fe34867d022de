//! ΠGDM. Song, Vahdat, Mardani & Kautz 2023, "Pseudoinverse-guided diffusion models for inverse problems", algorithm 1.
//!
//! `p(x0 | x)` is taken as a Gaussian with the predicted mean and the variance `r²`, so
//! `∇ ln p(y | x) ≈ g = Jᵀ·Aᵀ·(r²·A·Aᵀ + σ_y²)⁻¹·(y − A·x0)` with the network's Jacobian `J = ∂x0/∂x` and, for data of
//! variance 1, `r² = sigma²/(sigma² + alpha²)`. The step is DDIM's with `η`, plus `alpha_s·alpha·r²·g` as in the authors' code.
//!
//! With Tweedie's formula instead of this weight ([`Weight::Tweedie`]), the conditional prediction is `x0 + sigma²/alpha·g`
//! and `eps − sigma·g`: exact for Gaussian data with independent values of variance 1, in the limit of small steps. But at
//! high noise levels it multiplies the errors of the network's Jacobian by `1/alpha`, so it needs many steps or an exact
//! network.
//!
//! Bias: for data of another variance, `r²` is too large or too small; too large gives the measurement too little weight. The
//! paper's weight does not shrink with the steps, so its results depend on their number.

use tweedie_core::{Halt, Level, Solver, forward::posterior, lin, trajectory::Step};

use super::{Measurement, Rows};

/// ΠGDM, one evaluation and one backward pass per step.
#[derive(Clone, Debug)]
pub struct PiGdm {
    /// What is known.
    pub measurement: Measurement,
    /// Amount of fresh noise, 0 to 1; the paper's is 1.
    pub eta: f64,
    /// How the gradient enters the step.
    pub weight: Weight,
}

/// How the gradient of the likelihood enters a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weight {
    /// As in the authors' code: `alpha_s·alpha·r²·g` is added.
    #[default]
    Paper,
    /// As the score of the likelihood in Tweedie's formula.
    Tweedie,
}

/// `sigma²/(sigma² + alpha²)`: the variance of data of variance 1, given the noisy sample.
pub(super) fn spread(at: Level) -> f64 {
    at.sigma * at.sigma / (at.sigma * at.sigma + at.alpha * at.alpha)
}

/// The least variance of the noise where that of the measurement is zero, relative to `r²`.
const LEAST: f64 = 1e-8;

impl PiGdm {
    /// What the network pulls back: `Aᵀ·(r²·A·Aᵀ + σ_y²)⁻¹·(y − A·x0)`.
    pub(super) fn cotangent(&self, x0: &[f64], at: Level) -> Vec<f64> {
        let r2 = spread(at);
        let a = self.measurement.linear();
        let noise = self.measurement.sigma.powi(2).max(LEAST * r2);
        a.adjoint(&a.solve(r2, noise, &self.measurement.residual(x0)))
    }
}

impl<V: Rows> Solver<V> for PiGdm {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let g = p.pulled.ok_or_else(|| Halt::Failed("ΠGDM needs a gradient with every prediction".into()))?;
        let from = s.from;
        let (x0, eps, own) = match self.weight {
            Weight::Paper => (p.x0, p.eps, s.to.alpha * from.alpha * spread(from)),
            Weight::Tweedie => (
                lin![1.0 => &p.x0, from.sigma * from.sigma / from.alpha => &g],
                lin![1.0 => &p.eps, -from.sigma => &g],
                0.0,
            ),
        };
        let up = self.eta * posterior(from, s.to).variance.sqrt();
        let kept = ((s.to.sigma - up) * (s.to.sigma + up)).max(0.0).sqrt();
        let n = if up > 0.0 { s.noise() } else { lin![0.0 => &x0] };
        Ok(lin![s.to.alpha => &x0, kept => &eps, up => &n, own => &g])
    }
}
