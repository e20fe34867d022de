//! DDPM with a learned variance, `ln Σ = v·ln β + (1 − v)·ln β̃` with the network's `v`. Nichol & Dhariwal 2021,
//! arXiv:2102.09672, eq. 15. Order 1, one evaluation. Falls back to `β̃` if the network predicts no variance.

use super::Solver;
use crate::{
    forward::{posterior, transition},
    lin,
    predict::Halt,
    trajectory::Step,
    vector::Vector,
};

/// Ancestral sampling with [`Prediction::variance`](crate::Prediction::variance).
#[derive(Clone, Copy, Debug, Default)]
pub struct LearnedVariance;

impl<V: Vector> Solver<V> for LearnedVariance {
    fn order(&self) -> usize {
        1
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let p = s.predict()?;
        if s.to.is_clean() {
            return Ok(p.x0);
        }
        let small = posterior(s.from, s.to).variance;
        let down = ((s.to.sigma - small.sqrt()) * (s.to.sigma + small.sqrt())).max(0.0).sqrt();
        let fresh = s.noise();
        // √Σ is √β̃·(β/β̃)^((1+v)/4), for v from −1 to 1.
        let quarter = 0.25 * (transition(s.to, s.from).variance / small).ln();
        let (noise, deviation) = match &p.variance {
            Some(v) => (fresh.times_exp(&lin![quarter => v]), small.sqrt() * quarter.exp()),
            None => (fresh, small.sqrt()),
        };
        Ok(lin![s.to.alpha => &p.x0, down => &p.eps, deviation => &noise])
    }
}
