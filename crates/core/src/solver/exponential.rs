//! Common parts of all exponential integrators: over a step of length `h` in `lambda`, the sample is given by an
//! integral over the network's prediction that is exact except for the prediction itself. With `tau` as the
//! amount of fresh noise (0: the probability-flow ODE, 1: the reversed diffusion),
//!
//! - data: `x_to = σ'/σ·e^(−τ²h)·x + (1+τ²)·α'·∫ e^(−(1+τ²)(λ'−λ)) x0 dλ + σ'·√(1−e^(−2τ²h))·z`
//! - noise: `x_to = α'/α·x − (1+τ²)·σ'·∫ e^(λ'−λ) eps dλ + τ·σ'·√(e^(2h)−1)·z`
//!
//! (`'` marks the end of the step). Lu et al. 2022, arXiv:2206.00927, prop. 3.1 and arXiv:2211.01095, prop. 4.1;
//! Xue et al. 2023, arXiv:2309.05019, prop. 4.2. Solvers differ in how they interpolate the prediction.

use crate::{
    level::Level,
    lin,
    phi::{factorial, phi, weights},
    predict::Prediction,
    trajectory::Step,
    vector::Vector,
};

/// Which prediction a solver interpolates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// `x0`: more stable with guidance, and exact for a step to a clean level.
    #[default]
    Data,
    /// `eps`.
    Noise,
}

impl Form {
    /// The selected part of a prediction.
    pub fn of<V>(self, p: &Prediction<V>) -> &V {
        match self {
            Self::Data => &p.x0,
            Self::Noise => &p.eps,
        }
    }
}

/// The order of a multistep solver's last steps. A step to a clean level always has order 1, for which the
/// formula is exact: the step is infinitely long in `lambda`, so there is nothing to extrapolate to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum FinalOrder {
    /// 1 in the last step and at most 2 in the one before, in plans of fewer than 15 steps; more stable.
    /// diffusers' `lower_order_final`.
    #[default]
    LowerIfFew,
    /// 1 in the last step: diffusers' `euler_at_final`.
    Lower,
    /// 1 in the last step, 2 in the one before, and so on: `lower_order_final` of UniPC and SA-Solver.
    Falling,
    /// 1 in steps from timesteps below this one: CogVideoX's DPM-Solver, whose steps cover so many and end below 0.
    Below(f64),
    /// The full order in every step.
    Full,
}

impl FinalOrder {
    /// The highest order of a step that is followed by `remaining` of `total` steps.
    pub(super) fn limit(self, remaining: usize, total: usize) -> usize {
        match self {
            Self::LowerIfFew if total < 15 => remaining + 1,
            Self::Falling => remaining + 1,
            Self::Lower if remaining == 0 => 1,
            _ => usize::MAX,
        }
    }

    /// The highest order of this step.
    pub(super) fn here<V: Vector>(self, s: &Step<'_, V>) -> usize {
        match self {
            _ if !s.is_finite() => 1,
            Self::Below(time) if s.from.t < time => 1,
            _ => self.limit(s.remaining, s.index + 1 + s.remaining),
        }
    }
}

/// The integral over one step, for predictions that are polynomials in `r = (λ − λ_from)/h`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exponential {
    pub form: Form,
    pub from: Level,
    pub to: Level,
    pub tau: f64,
}

impl Exponential {
    pub fn new(form: Form, from: Level, to: Level) -> Self {
        Self { form, from, to, tau: 0.0 }
    }

    pub fn h(&self) -> f64 {
        self.to.lambda() - self.from.lambda()
    }

    /// `r` of a level: 0 at `from`, 1 at `to`.
    pub fn at(&self, level: Level) -> f64 {
        (level.lambda() - self.from.lambda()) / self.h()
    }

    fn tau2(&self) -> f64 {
        self.tau * self.tau
    }

    /// Factor of the sample.
    pub fn keep(&self) -> f64 {
        match self.form {
            Form::Data if self.tau == 0.0 => self.to.sigma / self.from.sigma,
            Form::Data => self.to.sigma / self.from.sigma * (-self.tau2() * self.h()).exp(),
            Form::Noise => self.to.alpha / self.from.alpha,
        }
    }

    /// Standard deviation of the fresh noise.
    pub fn noise(&self) -> f64 {
        let Level { sigma, .. } = self.to;
        match self.form {
            _ if self.tau == 0.0 || sigma == 0.0 => 0.0,
            Form::Data => sigma * (-(-2.0 * self.tau2() * self.h()).exp_m1()).sqrt(),
            Form::Noise => sigma * self.tau * (2.0 * self.h()).exp_m1().sqrt(),
        }
    }

    /// The integral's weight for short steps: [`Self::moment`] of 1 without the exponential.
    pub fn gain(&self) -> f64 {
        let length = (1.0 + self.tau2()) * self.h();
        match self.form {
            Form::Data => self.to.alpha * length,
            Form::Noise => -self.to.sigma * length,
        }
    }

    /// The integral of the prediction `r^j`. For `j = 0` also over infinite steps.
    pub fn moment(&self, j: usize) -> f64 {
        let more = 1.0 + self.tau2();
        match (self.form, j) {
            (Form::Data, 0) => -self.to.alpha * (-more * self.h()).exp_m1(),
            (Form::Noise, 0) if self.to.is_clean() => -more * self.to.alpha * self.from.nsr(),
            (Form::Noise, 0) => -more * self.to.sigma * self.h().exp_m1(),
            (Form::Data, _) => self.gain() * factorial(j) * phi(j + 1, -more * self.h()),
            (Form::Noise, _) => self.gain() * factorial(j) * phi(j + 1, self.h()),
        }
    }

    /// The step with the polynomial through the predictions at several `r`, whose integrals are `moment`.
    pub fn through<V: Vector>(&self, x: &V, nodes: &[(f64, &V)], moment: impl Fn(usize) -> f64) -> V {
        let at: Vec<f64> = nodes.iter().map(|(r, _)| *r).collect();
        let weighted = weights(&at, moment).into_iter().zip(nodes).map(|(w, (_, v))| (w, *v));
        let terms: Vec<(f64, &V)> = std::iter::once((self.keep(), x)).chain(weighted).collect();
        V::lin(&terms)
    }

    /// The step from the prediction at `from` only, without noise; also valid where `lambda` is infinite.
    pub fn first_order<V: Vector>(&self, x: &V, p: &Prediction<V>) -> V {
        if self.from.is_clean() || self.from.alpha == 0.0 {
            let kept = if self.tau == 0.0 { self.to.sigma } else { 0.0 };
            return lin![self.to.alpha => &p.x0, kept => &p.eps];
        }
        lin![self.keep() => x, self.moment(0) => self.form.of(p)]
    }

    /// Adds the fresh noise, if any.
    pub fn noised<V: Vector>(&self, s: &mut Step<'_, V>, x: V) -> V {
        match self.noise() {
            0.0 => x,
            deviation => lin![1.0 => &x, deviation => &s.increment(self.from, self.to)],
        }
    }
}
