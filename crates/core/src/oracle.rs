//! Exact denoisers: data whose `E[x0 | x]` is known at every level, for tests and tutorials.
//!
//! For `x0 ~ N(m, v)` each level's marginal is `N(alpha·m, s)` with `s = alpha²·v + sigma²`, so
//! `E[x0 | x] = m + alpha·v/s·(x − alpha·m)` and `E[eps | x] = sigma/s·(x − alpha·m)`. A mixture weights its
//! components' predictions by their posterior probabilities.

use crate::{
    level::Level,
    predict::{Denoiser, Halt, Prediction},
};

/// Why an exact denoiser cannot be made or evaluated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OracleError {
    /// An unexpected number of elements.
    #[error("{what} has {found} elements: expected {expected}")]
    Length {
        /// What has the wrong length.
        what: &'static str,
        /// Number of elements found.
        found: usize,
        /// Number of elements expected.
        expected: usize,
    },
    /// A variance or a weight out of range.
    #[error("{what} = {value}: expected a finite number {expected}")]
    Value {
        /// Name of the parameter.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The allowed range.
        expected: &'static str,
    },
    /// A mixture without components.
    #[error("a mixture needs at least one component")]
    Empty,
}

/// Gaussian data with independent elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Gaussian {
    /// Creates it from the mean and the variance of each element. A variance may be zero.
    pub fn new(mean: Vec<f64>, variance: Vec<f64>) -> Result<Self, OracleError> {
        length("variance", variance.len(), mean.len())?;
        for &value in &variance {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(OracleError::Value { what: "variance", value, expected: "≥ 0" });
            }
        }
        Ok(Self { mean, variance })
    }

    /// Mean and variance of each element at a level.
    fn marginal(&self, at: Level) -> impl Iterator<Item = (f64, f64)> + '_ {
        let spread = at.sigma * at.sigma;
        self.mean
            .iter()
            .zip(&self.variance)
            .map(move |(m, v)| (at.alpha * m, at.alpha * at.alpha * v + spread))
    }

    /// `ln p(x)` at a noise level.
    pub fn log_density(&self, x: &[f64], at: Level) -> f64 {
        let terms = x.iter().zip(self.marginal(at));
        terms.map(|(x, (m, s))| -0.5 * ((x - m).powi(2) / s + (std::f64::consts::TAU * s).ln())).sum()
    }

    /// The exact solution of the probability-flow ODE from `x`: `y` with the same `(y − alpha·m)/√s`.
    pub fn flow(&self, x: &[f64], from: Level, to: Level) -> Vec<f64> {
        let ends = self.marginal(from).zip(self.marginal(to));
        x.iter().zip(ends).map(|(x, ((m, s), (n, r)))| n + (r / s).sqrt() * (x - m)).collect()
    }

    fn predict(&self, x: &[f64], at: Level) -> Prediction<Vec<f64>> {
        let mut out = Prediction::new(Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        for ((x, (m, s)), (mean, variance)) in
            x.iter().zip(self.marginal(at)).zip(self.mean.iter().zip(&self.variance))
        {
            // Without variance the clean sample is known, and there is no noise to predict.
            let scaled = if s == 0.0 { 0.0 } else { (x - m) / s };
            out.x0.push(mean + at.alpha * variance * scaled);
            out.eps.push(at.sigma * scaled);
        }
        out
    }
}

impl Denoiser<Vec<f64>> for Gaussian {
    fn denoise(&self, x: &Vec<f64>, at: Level) -> Result<Prediction<Vec<f64>>, Halt> {
        length("x", x.len(), self.mean.len()).map_err(|e| Halt::Failed(e.to_string()))?;
        Ok(self.predict(x, at))
    }
}

/// A mixture of Gaussians.
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianMixture {
    components: Vec<(f64, Gaussian)>,
}

impl GaussianMixture {
    /// Creates a mixture from components with positive weights, which are normalized.
    pub fn new(components: Vec<(f64, Gaussian)>) -> Result<Self, OracleError> {
        let size = components.first().ok_or(OracleError::Empty)?.1.mean.len();
        for (value, component) in &components {
            length("mean", component.mean.len(), size)?;
            if !(*value > 0.0 && value.is_finite()) {
                return Err(OracleError::Value { what: "weight", value: *value, expected: "> 0" });
            }
        }
        let total: f64 = components.iter().map(|(w, _)| w).sum();
        Ok(Self { components: components.into_iter().map(|(w, g)| (w / total, g)).collect() })
    }

    /// `ln p(x)` at a noise level.
    pub fn log_density(&self, x: &[f64], at: Level) -> f64 {
        let logs = self.joint(x, at);
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        most + logs.iter().map(|l| (l - most).exp()).sum::<f64>().ln()
    }

    fn joint(&self, x: &[f64], at: Level) -> Vec<f64> {
        self.components.iter().map(|(w, g)| w.ln() + g.log_density(x, at)).collect()
    }
}

impl Denoiser<Vec<f64>> for GaussianMixture {
    fn denoise(&self, x: &Vec<f64>, at: Level) -> Result<Prediction<Vec<f64>>, Halt> {
        let size = self.components.first().map_or(0, |(_, g)| g.mean.len());
        length("x", x.len(), size).map_err(|e| Halt::Failed(e.to_string()))?;
        let logs = self.joint(x, at);
        let total = self.log_density(x, at);
        let mut out = Prediction::new(vec![0.0; size], vec![0.0; size]);
        for ((_, component), log) in self.components.iter().zip(logs) {
            let probability = (log - total).exp();
            let p = component.predict(x, at);
            for (sum, term) in out.x0.iter_mut().zip(&p.x0).chain(out.eps.iter_mut().zip(&p.eps)) {
                *sum += probability * term;
            }
        }
        Ok(out)
    }
}

fn length(what: &'static str, found: usize, expected: usize) -> Result<(), OracleError> {
    if found == expected { Ok(()) } else { Err(OracleError::Length { what, found, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{NoiseSchedule, TableSchedule};

    #[test]
    fn answers_are_tweedies_formula() {
        // E[x0 | x] = (x + sigma²·∇ ln p(x)) / alpha, with the gradient by differences.
        let near = Gaussian::new(vec![1.0, -0.5], vec![0.3, 0.01]).unwrap();
        let far = Gaussian::new(vec![-2.0, 0.5], vec![0.1, 0.6]).unwrap();
        let data = GaussianMixture::new(vec![(3.0, near), (1.0, far)]).unwrap();
        let schedule = TableSchedule::linear(1000, 1e-4, 0.02).unwrap();
        for t in [10.0, 200.0, 700.5, 999.0] {
            let at = schedule.level(t);
            let x = vec![0.4, 0.2];
            let p = data.denoise(&x, at).unwrap();
            for i in 0..2 {
                let h = 1e-5;
                let (mut up, mut down) = (x.clone(), x.clone());
                up[i] += h;
                down[i] -= h;
                let score = (data.log_density(&up, at) - data.log_density(&down, at)) / (2.0 * h);
                assert!((at.alpha * p.x0[i] - x[i] - at.sigma.powi(2) * score).abs() < 1e-8);
                assert!((p.eps[i] + at.sigma * score).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn bad_data_is_refused() {
        assert!(matches!(Gaussian::new(vec![0.0], vec![]), Err(OracleError::Length { .. })));
        assert!(matches!(Gaussian::new(vec![0.0], vec![-1.0]), Err(OracleError::Value { .. })));
        assert_eq!(GaussianMixture::new(vec![]), Err(OracleError::Empty));
        let unit = Gaussian::new(vec![0.0], vec![1.0]).unwrap();
        assert!(unit.denoise(&vec![0.0, 1.0], Level::CLEAN).is_err());
    }
}
