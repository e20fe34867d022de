//! DPS. Chung et al. 2023, arXiv:2209.14687, algorithm 1.
//!
//! The reverse step of DDPM, then a gradient step: `x_s = a·x0 + b·x + σ·n − ζ·∇_x ‖y − A(x0(x))‖`, through the network. `A`
//! may be any differentiable operator. The norm's gradient has a length that does not depend on the size of the residual,
//! as in the authors' `ζ_i = ζ'/‖y − A(x0)‖`.
//!
//! Bias: `p(y | x)` is replaced by `p(y | x0(x))`, and `ζ` is chosen, not derived; results are likely samples rather than
//! samples of the posterior.

use tweedie_core::{Halt, Solver, forward::posterior, lin, trajectory::Step};

use super::{Measurement, Rows};
use crate::operators::dot;

/// DPS, one evaluation and one backward pass per step.
#[derive(Clone, Debug)]
pub struct Dps {
    /// What is known.
    pub measurement: Measurement,
    /// The step size `ζ'`; the paper's are 0.3 to 1 with 1000 steps.
    pub zeta: f64,
}

impl Dps {
    /// What the network pulls back: `−∂‖y − A(x0)‖/∂x0`.
    pub(super) fn cotangent(&self, x0: &[f64]) -> Vec<f64> {
        let residual = self.measurement.residual(x0);
        let norm = dot(&residual, &residual).sqrt();
        let unit: Vec<f64> = residual.iter().map(|r| if norm > 0.0 { r / norm } else { 0.0 }).collect();
        self.measurement.operator.pull(x0, &unit)
    }
}

impl<V: Rows> Solver<V> for Dps {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        let g = p.pulled.ok_or_else(|| Halt::Failed("DPS needs a gradient with every prediction".into()))?;
        let step = posterior(s.from, s.to);
        let std = step.variance.sqrt();
        let n = if std > 0.0 { s.noise() } else { lin![0.0 => &p.x0] };
        Ok(lin![step.x0 => &p.x0, step.x => &s.x, std => &n, self.zeta => &g])
    }
}
