//! FPS-SMC: filtering by particles. Dou & Song 2024, "Diffusion posterior sampling for linear inverse problem solving: a
//! filtering perspective", algorithm 2.
//!
//! The measurement is noised like the samples, `y_t = k·y_s + √b·A·z`, which makes `p(y_t | x_t) = N(A·x_t, alpha_t²·σ_y²)`:
//! a hidden Markov model that runs from noise to the clean sample. Each step draws all samples from
//! `p(x_s | x_t, y_s)`, a Gaussian with the mean `μ + K·(y_s − A·μ)` and the gain
//! `K = τ²·Aᵀ·(τ²·A·Aᵀ + alpha_s²·σ_y²)⁻¹`, where `N(μ, τ²)` is the reverse step; before that, the samples are drawn again with
//! the weights `p(y_s | x_t) = N(A·μ, τ²·A·Aᵀ + alpha_s²·σ_y²)`, systematically.
//!
//! Exact for many particles, small steps and an exact network, over runs: the samples of one run share one path `y_t`.

use tweedie_core::{
    Halt, Level, Move, Plan, Solver,
    forward::{posterior, transition},
    lin,
    trajectory::Step,
};

use super::{Measurement, Rows, pigdm::spread};
use crate::operators::dot;

/// FPS-SMC, one evaluation per step. All rows are one population.
#[derive(Clone, Debug)]
pub struct Particles {
    measurement: Measurement,
    /// The noised measurement at the end of each step of the plan.
    path: Vec<Vec<f64>>,
}

impl Particles {
    /// The filter along `plan`. `noise(i)` is standard normal noise of the shape of one sample, for each step.
    pub fn new(measurement: Measurement, plan: &Plan, mut noise: impl FnMut(usize) -> Vec<f64>) -> Self {
        let ends: Vec<Level> =
            plan.moves.iter().filter(|step| matches!(step, Move::Solve(_))).map(|step| step.to()).collect();
        let (mut y, mut at) = (measurement.y.clone(), Level::CLEAN);
        let mut path = vec![Vec::new(); ends.len()];
        for (i, to) in ends.iter().enumerate().rev() {
            let up = transition(at, *to);
            let z = measurement.operator.apply(&noise(i));
            y.iter_mut().zip(z).for_each(|(y, z)| *y = up.keep * *y + up.variance.sqrt() * z);
            path[i] = y.clone();
            at = *to;
        }
        Self { measurement, path }
    }
}

impl<V: Rows> Solver<V> for Particles {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let x0 = s.predict()?.x0;
        let step = posterior(s.from, s.to);
        let mean = step.mean(&s.x, &x0);
        let Some(y) = self.path.get(s.index) else { return Ok(mean) };
        let a = self.measurement.linear();
        if step.variance == 0.0 {
            // The last step draws nothing. What the prediction leaves open is taken as ΠGDM's r².
            let spread = spread(s.from);
            let noise = self.measurement.sigma.powi(2).max(1e-10 * spread);
            return Ok(mean.each(|row| {
                let change = a.adjoint(&a.solve(spread, noise, &self.measurement.residual(row)));
                row.iter().zip(change).map(|(x, d)| x + spread * d).collect()
            }));
        }
        let noise = (s.to.alpha * self.measurement.sigma).powi(2).max(1e-10 * step.variance);
        let gain = |rest: &[f64]| a.solve(step.variance, noise, rest);
        let rest = |x: &[f64]| -> Vec<f64> { y.iter().zip(a.apply(x)).map(|(y, ax)| y - ax).collect() };

        // Drawn again with the weights p(y_s | x_t).
        let means = mean.rows();
        let logs: Vec<f64> = means.iter().map(|row| -0.5 * dot(&rest(row), &gain(&rest(row)))).collect();
        // With two standard normal values, exp(−(a² + b²)/2) is uniform.
        let square = |n: V| n.rows().first().and_then(|row| row.first()).map_or(1.0, |v| v * v);
        let place = (-0.5 * (square(s.noise()) + square(s.noise()))).exp();
        let chosen: Vec<Vec<f64>> = systematic(&logs, place).into_iter().map(|i| means[i].clone()).collect();

        // N(μ, τ²) conditioned on y_s: with noise n and m, x + K·(y_s − A·x − alpha_s·σ_y·m) for x = μ + τ·n.
        let (n, m) = (s.noise().rows(), s.noise().rows());
        let std = step.variance.sqrt();
        let rows = chosen.iter().zip(n.iter().zip(&m)).map(|(mean, (n, m))| {
            let x: Vec<f64> = mean.iter().zip(n).map(|(x, n)| x + std * n).collect();
            let mut gap = rest(&x);
            // A sample has at least as many values as its measurement, or else the noise is repeated.
            gap.iter_mut().enumerate().for_each(|(i, r)| *r -= noise.sqrt() * m[i % m.len()]);
            let change = a.adjoint(&gain(&gap));
            x.iter().zip(change).map(|(x, d)| x + step.variance * d).collect()
        });
        Ok(lin![1.0 => &mean.with(rows.collect())])
    }
}

/// Indices drawn with the weights `exp(logs)`, as many as there are, at the places `(k + place)/count` of their cumulated
/// weights.
fn systematic(logs: &[f64], place: f64) -> Vec<usize> {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|l| (l - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let (mut sum, mut index) = (weights.first().copied().unwrap_or(1.0), 0);
    (0..logs.len())
        .map(|k| {
            let until = (k as f64 + place) / logs.len() as f64 * total;
            while sum < until && index + 1 < weights.len() {
                index += 1;
                sum += weights[index];
            }
            index
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn particles_are_drawn_by_weight() {
        let logs = [0.1f64, 0.6, 0.3].map(f64::ln);
        let mut counts = [0usize; 3];
        for k in 0..1000 {
            systematic(&logs, (f64::from(k) + 0.5) / 1000.0).into_iter().for_each(|i| counts[i] += 1);
        }
        for (count, weight) in counts.iter().zip([0.1, 0.6, 0.3]) {
            assert!((*count as f64 - 3000.0 * weight).abs() <= 3.0, "{counts:?}");
        }
        assert_eq!(systematic(&[-1e9, 0.0, -1e9], 0.5), [1, 1, 1]);
    }
}
