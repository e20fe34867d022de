//! DDNM and DDNM+. Wang, Yu & Zhang 2023, arXiv:2212.00490, algorithms 1 and 3.
//!
//! The predicted clean sample is corrected in the range of the operator, `x̂0 = x0 − Σ·A⁺·(A·x0 − y)`, before the reverse
//! step `x_s = a·x̂0 + b·x_t + √Φ·n`. Without noise of the measurement `Σ = 1` and `Φ` is the posterior's variance `σ²`. With
//! noise `σ_y`, along a direction with the singular value `s` (section 3.3 and appendix I),
//! `Σ = min(1, σ·s/(a·σ_y))` and `Φ = σ² − (a·Σ·σ_y/s)²`, so that the noise of the measurement is part of the noise of the
//! step. An operator that is not linear corrects by its own projection; then the measurement has no noise.
//!
//! Bias: what is not measured follows the measurement only through the network, so its distribution is narrower or shifted
//! where the prior correlates both.

use tweedie_core::{Halt, Solver, forward::posterior, lin, trajectory::Step};

use super::{Measurement, Rows};

/// DDNM+, one evaluation per step.
#[derive(Clone, Debug)]
pub struct Ddnm(pub Measurement);

impl<V: Rows> Solver<V> for Ddnm {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let x0 = s.predict()?.x0;
        let step = posterior(s.from, s.to);
        let std = step.variance.sqrt();
        let n = if std > 0.0 { s.noise() } else { lin![0.0 => &x0] };
        if self.0.sigma == 0.0 {
            let x0 = x0.each(|row| self.0.consistent(row));
            return Ok(lin![step.x0 => &x0, step.x => &s.x, std => &n]);
        }
        let directions = self.0.directions();
        let limit = |sigma: f64| (std / (step.x0 * sigma)).min(1.0);
        let corrected =
            x0.each(|row| directions.combine(row, [row], |d, [x0]| x0 - limit(d.sigma) * (x0 - d.y)));
        let noise = n.each(|row| {
            let scaled: Vec<f64> = row.iter().map(|n| std * n).collect();
            directions.combine(&scaled, [row], |d, [n]| {
                let own = step.x0 * limit(d.sigma) * d.sigma;
                ((std - own) * (std + own)).max(0.0).sqrt() * n
            })
        });
        Ok(lin![step.x0 => &corrected, step.x => &s.x, 1.0 => &noise])
    }
}
