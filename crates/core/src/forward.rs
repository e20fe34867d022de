//! The forward process `q` between any two levels of one process, as pure functions of the levels.
//!
//! For `s` cleaner than `t`: `q(x_t | x_s) = N(k·x_s, b)` with `k = alpha_t/alpha_s` and
//! `b = sigma_t² − k²·sigma_s²`; the posterior `q(x_s | x_t, x0)` follows by Bayes' rule. Ho et al. 2020,
//! arXiv:2006.11239, eqs. 2–7; Kingma et al. 2021, arXiv:2107.00630, appendix A.

use crate::{level::Level, lin, vector::Vector};

/// `q(x_to | x_from) = N(keep·x_from, variance)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// Factor of the less noisy sample.
    pub keep: f64,
    /// Variance of the added noise.
    pub variance: f64,
}

/// The step of the forward process from one level to a noisier or equal one. Between two levels of pure noise
/// (`alpha = 0`) it only rescales.
///
/// ```
/// use tweedie_core::{NoiseSchedule, forward::transition, schedule::TableSchedule};
/// let ddpm = TableSchedule::linear(1000, 1e-4, 0.02)?;
/// let step = transition(ddpm.level(499.0), ddpm.level(500.0));
/// assert!((step.variance - ddpm.betas()[500]).abs() < 1e-14);
/// # Ok::<(), tweedie_core::schedule::ScheduleError>(())
/// ```
pub fn transition(from: Level, to: Level) -> Transition {
    let keep = if from.alpha == 0.0 { to.sigma / from.sigma } else { to.alpha / from.alpha };
    // A difference of squares, factored, because the levels are often close.
    let kept = keep * from.sigma;
    Transition { keep, variance: ((to.sigma - kept) * (to.sigma + kept)).max(0.0) }
}

/// `q(x_to | x_from, x0) = N(x0·x0 + x·x_from, variance)` for a less noisy `to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// Coefficient of the clean sample in the mean.
    pub x0: f64,
    /// Coefficient of the noisy sample in the mean.
    pub x: f64,
    /// The variance `β̃`.
    pub variance: f64,
}

/// The posterior of the level `to`, given the sample at the noisier level `from` and the clean sample.
pub fn posterior(from: Level, to: Level) -> Posterior {
    if from.sigma == 0.0 {
        return Posterior { x0: 0.0, x: to.alpha / from.alpha, variance: 0.0 };
    }
    let up = transition(to, from);
    let share = up.variance / (from.sigma * from.sigma);
    let ratio = to.sigma / from.sigma;
    Posterior { x0: to.alpha * share, x: up.keep * ratio * ratio, variance: to.sigma * to.sigma * share }
}

impl Posterior {
    /// The mean for a noisy and a clean sample.
    pub fn mean<V: Vector>(&self, x: &V, x0: &V) -> V {
        lin![self.x0 => x0, self.x => x]
    }
}

/// The posterior's mean in terms of the noisy sample and its noise: coefficients `(x, eps)` with
/// `mean = x·x_from + eps·eps`. Infinite if `from.alpha = 0`; use [`posterior`] there.
pub fn posterior_eps(from: Level, to: Level) -> (f64, f64) {
    let up = transition(to, from);
    (1.0 / up.keep, -up.variance / (up.keep * from.sigma))
}

/// The closed form `x = alpha·x0 + sigma·eps`.
pub fn noised<V: Vector>(x0: &V, eps: &V, at: Level) -> V {
    lin![at.alpha => x0, at.sigma => eps]
}

/// One step of the forward process with the standard normal `eps`, its noise multiplied by `scale`
/// (1 for the process itself).
pub fn renoised<V: Vector>(x: &V, eps: &V, from: Level, to: Level, scale: f64) -> V {
    let up = transition(from, to);
    lin![up.keep => x, scale * up.variance.sqrt() => eps]
}
