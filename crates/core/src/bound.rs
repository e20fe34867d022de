//! The variational bound on `-ln p(x0)`, in closed form: for noise levels `1..=T`, cleanest first,
//!
//! ```text
//! L   = L_T + Σ_{t=2..T} L_{t-1} + L_0
//! L_T = KL(q(x_T | x0) || N(0, s²))                     how far the noisiest level is from the prior
//! L_{t-1} = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t))     two Gaussians
//! L_0 = -ln p(x0 | x_1)                                 the mass of a normal on the bin of an 8-bit value
//! ```
//!
//! Ho et al. 2020, arXiv:2006.11239, eqs. 5 and 13; learned variances: Nichol & Dhariwal 2021,
//! arXiv:2102.09672, eq. 15. All terms are sums over elements, so the functions here take one element and
//! return nats; [`bits_per_dim`] converts a sum.
//!
//! ```
//! use tweedie_core::{bound::{Bound, ReverseVariance}, schedule::TableSchedule};
//! let schedule = TableSchedule::linear(1000, 1e-4, 0.02)?;
//! let bound = Bound::of(&schedule, 1000, ReverseVariance::FixedSmall)?;
//! // A network that predicts the image exactly only pays for the prior and the decoder.
//! assert!(bound.term(500, 0.2, 0.2, 0.0).nats.abs() < 1e-12);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decoder;

use serde::{Deserialize, Serialize};

use crate::{
    forward::{posterior, transition},
    level::Level,
    schedule::{NoiseSchedule, Times},
    spacing::Spacing,
};

pub use decoder::{Decoded, decoder};

/// The variance of the reverse process `p(x_{t-1} | x_t)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReverseVariance {
    /// The posterior's, `β̃`: optimal if the data is a single point.
    #[default]
    FixedSmall,
    /// The forward step's, `β`: optimal if the data is white noise. The last step, to a clean sample, uses `β̃`.
    FixedLarge,
    /// `exp(f·ln β + (1 − f)·ln β̃)` with `f = (v + 1)/2`, where the network predicts `v` for every element.
    LearnedRange,
}

/// Why a bound cannot be computed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BoundError {
    /// Too few noise levels.
    #[error("a bound needs at least 2 noise levels, got {found}")]
    Steps {
        /// Number of levels.
        found: usize,
    },
    /// A level that is clean or not noisier than the one before.
    #[error(
        "noise level {index} has sigma/alpha = {nsr}: expected finite values above 0 in increasing order"
    )]
    Order {
        /// Index of the level.
        index: usize,
        /// Its noise-to-signal ratio `sigma/alpha`.
        nsr: f64,
    },
    /// A number of levels that differs from the table's.
    #[error("the bound of a schedule with {table} discrete timesteps has {table} levels, got {found}")]
    Table {
        /// Timesteps of the table.
        table: usize,
        /// Levels requested.
        found: usize,
    },
}

/// A term of one element, with its derivatives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// The term, in nats.
    pub nats: f64,
    /// Derivative with respect to the predicted clean sample.
    pub d_x0: f64,
    /// Derivative with respect to `v` of [`ReverseVariance::LearnedRange`]; 0 for fixed variances.
    pub d_v: f64,
}

/// The noise levels of a bound, and the parts of its terms that only depend on them.
#[derive(Clone, Debug)]
pub struct Bound {
    levels: Vec<Level>,
    steps: Vec<Step>,
    variance: ReverseVariance,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Coefficient of the clean sample in the posterior's mean.
    x0: f64,
    /// `ln β̃`; for the first step, that of the second.
    log_small: f64,
    /// `ln β`.
    log_large: f64,
}

impl Bound {
    /// A bound on `levels`, cleanest first, each noisier than the one before and none clean.
    ///
    /// # Errors
    /// [`BoundError::Steps`] for fewer than two levels, [`BoundError::Order`] if they are out of order or clean.
    pub fn new(levels: Vec<Level>, variance: ReverseVariance) -> Result<Self, BoundError> {
        if levels.len() < 2 {
            return Err(BoundError::Steps { found: levels.len() });
        }
        let mut before = Level::CLEAN;
        let mut steps: Vec<Step> = Vec::with_capacity(levels.len());
        for (index, &level) in levels.iter().enumerate() {
            let nsr = level.nsr();
            if nsr.is_nan() || nsr <= before.nsr() {
                return Err(BoundError::Order { index, nsr });
            }
            let q = posterior(level, before);
            steps.push(Step {
                x0: q.x0,
                log_small: q.variance.ln(),
                log_large: transition(before, level).variance.ln(),
            });
            before = level;
        }
        // The posterior of the first step is a point, so the variance of the second is used for it.
        steps[0].log_small = steps[1].log_small;
        Ok(Self { levels, steps, variance })
    }

    /// A bound on all timesteps of a table, of which there must be `steps`, or on `steps` levels of a continuous
    /// schedule: evenly spaced times down to `1/steps` if the process ends in pure noise (as flows do), otherwise
    /// evenly spaced 7th roots of the noise (Karras et al. 2022).
    ///
    /// # Errors
    /// Those of [`Bound::new`], and [`BoundError::Table`] if `steps` differs from the table's size.
    pub fn of(
        schedule: &dyn NoiseSchedule,
        steps: usize,
        variance: ReverseVariance,
    ) -> Result<Self, BoundError> {
        let levels = match schedule.times() {
            Times::Table { steps: table } if table != steps => {
                return Err(BoundError::Table { table, found: steps });
            }
            Times::Table { .. } => (0..steps).map(|t| schedule.level(t as f64)).collect(),
            Times::Interval { min, max } if schedule.level(max).alpha == 0.0 => {
                (1..=steps).map(|i| schedule.level(min + (max - min) * i as f64 / steps as f64)).collect()
            }
            Times::Interval { .. } => {
                let levels = Spacing::Karras { rho: 7.0 }.levels(schedule, steps);
                let mut levels = levels.map_err(|_| BoundError::Steps { found: steps })?;
                levels.reverse();
                levels
            }
        };
        Self::new(levels, variance)
    }

    /// The levels, cleanest first.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The variance of the reverse process.
    pub fn variance(&self) -> ReverseVariance {
        self.variance
    }

    /// The standard deviation `s` of the prior `N(0, s²)`: 1 for variance-preserving processes, the largest
    /// `sigma` for variance-exploding ones.
    pub fn prior_std(&self) -> f64 {
        self.last().sigma.max(1.0)
    }

    /// `L_T` of one element, in nats.
    pub fn prior(&self, x0: f64) -> f64 {
        let (last, std) = (self.last(), self.prior_std());
        gaussian_kl(last.alpha * x0 / std, 2.0 * (last.sigma / std).ln())
    }

    /// The term of the step down from level `index` (counted from 0) for one element with the value `x0`, if the
    /// network predicts `x0_hat` and, for a learned range, `v`. Index 0 is the decoder term, for which `x0` must
    /// be one of 256 values from -1 to 1.
    ///
    /// # Panics
    /// If `index` is not below the number of levels.
    pub fn term(&self, index: usize, x0: f64, x0_hat: f64, v: f64) -> Term {
        let step = &self.steps[index];
        let log_variance = self.log_variance(index, v);
        let d_log_variance = match self.variance {
            ReverseVariance::LearnedRange => 0.5 * (step.log_large - step.log_small),
            ReverseVariance::FixedSmall | ReverseVariance::FixedLarge => 0.0,
        };
        if index == 0 {
            let Decoded { nats, d_mean, d_log_variance: d } = decoder(x0, step.x0 * x0_hat, log_variance);
            return Term { nats, d_x0: step.x0 * d_mean, d_v: d * d_log_variance };
        }
        // The contribution of the noisy sample to both means cancels; this is their difference in standard deviations.
        let scale = step.x0 * (-0.5 * log_variance).exp();
        let difference = scale * (x0_hat - x0);
        let log_ratio = step.log_small - log_variance;
        Term {
            nats: gaussian_kl(difference, log_ratio),
            d_x0: scale * difference,
            d_v: -0.5 * (log_ratio.exp_m1() + difference * difference) * d_log_variance,
        }
    }

    /// The logarithm of the reverse process' variance for the step down from level `index`.
    ///
    /// # Panics
    /// If `index` is not below the number of levels.
    pub fn log_variance(&self, index: usize, v: f64) -> f64 {
        let step = &self.steps[index];
        match self.variance {
            ReverseVariance::FixedLarge if index > 0 => step.log_large,
            ReverseVariance::FixedSmall | ReverseVariance::FixedLarge => step.log_small,
            ReverseVariance::LearnedRange => {
                let share = 0.5 * (v + 1.0);
                share * step.log_large + (1.0 - share) * step.log_small
            }
        }
    }

    fn last(&self) -> Level {
        self.levels[self.levels.len() - 1]
    }
}

/// `KL(N(a, q) || N(b, p))` in nats, for `difference = (a - b)/√p` and `log_ratio = ln(q/p)`.
pub fn gaussian_kl(difference: f64, log_ratio: f64) -> f64 {
    let spread = if log_ratio.abs() < 1e-4 {
        // exp(r) - 1 - r, whose first terms cancel.
        0.5 * log_ratio * log_ratio * (1.0 + log_ratio / 3.0)
    } else {
        log_ratio.exp_m1() - log_ratio
    };
    0.5 * (spread + difference * difference)
}

/// Converts nats summed over `dims` elements to bits per element.
pub fn bits_per_dim(nats: f64, dims: usize) -> f64 {
    nats / (dims as f64 * std::f64::consts::LN_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        oracle::Gaussian,
        predict::Denoiser,
        schedule::{EdmSchedule, FlowSchedule, TableSchedule},
    };

    /// Expected terms of one-dimensional Gaussian data with its exact denoiser. The terms are quadratic in the
    /// data and the noise, so four points give the expectation.
    fn expected(bound: &Bound, mean: f64, variance: f64) -> (f64, Vec<f64>) {
        let data = Gaussian::new(vec![mean], vec![variance]).unwrap();
        let x0s = [mean - variance.sqrt(), mean + variance.sqrt()];
        let prior = x0s.iter().map(|x0| bound.prior(*x0) / 2.0).sum();
        let term = |index: usize| -> f64 {
            let at = bound.levels()[index];
            let points =
                x0s.iter().flat_map(|x0| [-1.0, 1.0].map(|eps| (*x0, at.alpha * x0 + at.sigma * eps)));
            let terms = points.map(|(x0, x)| {
                let x0_hat = data.denoise(&vec![x], at).unwrap().x0[0];
                bound.term(index, x0, x0_hat, 0.0).nats
            });
            terms.sum::<f64>() / 4.0
        };
        (prior, (1..bound.levels().len()).map(term).collect())
    }

    #[test]
    fn gaussian_data_has_its_closed_form() {
        let (mean, variance) = (0.3, 0.2);
        let schedule = TableSchedule::linear(1000, 1e-4, 0.02).unwrap();
        for kind in [ReverseVariance::FixedSmall, ReverseVariance::FixedLarge, ReverseVariance::LearnedRange]
        {
            let bound = Bound::of(&schedule, 1000, kind).unwrap();
            let (prior, terms) = expected(&bound, mean, variance);
            let bar = schedule.alphas_cumprod();
            let last = bar[999];
            let closed = 0.5 * (last * (mean * mean + variance) - last - (-last).ln_1p());
            assert!((prior - closed).abs() < 1e-15, "{prior} {closed}");
            for t in [1, 2, 17, 500, 999] {
                let beta = schedule.betas()[t];
                let small = beta * (1.0 - bar[t - 1]) / (1.0 - bar[t]);
                let used = match kind {
                    ReverseVariance::FixedSmall => small,
                    ReverseVariance::FixedLarge => beta,
                    ReverseVariance::LearnedRange => (beta * small).sqrt(),
                };
                // What remains unknown of x0 at level t, through the posterior's mean.
                let unknown = variance * (1.0 - bar[t]) / (bar[t] * variance + 1.0 - bar[t]);
                let c = bar[t - 1].sqrt() * beta / (1.0 - bar[t]);
                let closed = 0.5 * ((used / small).ln() + (small + c * c * unknown) / used - 1.0);
                assert!(
                    (terms[t - 1] / closed - 1.0).abs() < 1e-9,
                    "{kind:?} {t}: {} {closed}",
                    terms[t - 1]
                );
            }
        }
    }

    /// With the exact denoiser, smaller steps lose nothing: the bound without its decoder, plus the entropy left
    /// at the cleanest level, tends to the entropy of the data plus the prior term.
    #[test]
    fn many_steps_tend_to_the_likelihood() {
        let (mean, variance) = (0.1, 0.3);
        let entropy = |v: f64| 0.5 * (std::f64::consts::TAU * std::f64::consts::E * v).ln();
        let gaps: Vec<f64> = [100, 1000, 10_000]
            .into_iter()
            .map(|steps| {
                // The same process from sigma/alpha = 0.01 to 60, in smaller and smaller steps.
                let at = |i: usize| 0.01 * 6000f64.powf(i as f64 / (steps - 1) as f64);
                let levels: Vec<_> =
                    (0..steps).map(|i| Level::variance_preserving(at(i), i as f64)).collect();
                let bound = Bound::new(levels, ReverseVariance::FixedSmall).unwrap();
                let (prior, terms) = expected(&bound, mean, variance);
                let (first, last) = (bound.levels()[0], bound.levels()[steps - 1]);
                let spread = |l: Level| l.alpha * l.alpha * variance + l.sigma * l.sigma;
                let left = entropy(variance * first.sigma * first.sigma / spread(first));
                let distance = gaussian_kl(last.alpha * mean, spread(last).ln());
                prior + terms.iter().sum::<f64>() + left - entropy(variance) - distance
            })
            .collect();
        assert!(gaps.iter().all(|g| *g > 0.0), "a bound from above: {gaps:?}");
        let limit = (10.0 * gaps[2] - gaps[1]) / 9.0;
        assert!(limit.abs() < 1e-4, "{gaps:?}, limit {limit}");
        for pair in gaps.windows(2) {
            assert!((pair[0] / pair[1] / 10.0 - 1.0).abs() < 0.1, "of first order: {gaps:?}");
        }
    }

    #[test]
    fn continuous_processes_have_bounds_too() {
        let small = ReverseVariance::FixedSmall;
        let flow = Bound::of(&FlowSchedule::new(), 50, small).unwrap();
        assert_eq!((flow.levels()[0].sigma, flow.prior(0.7)), (0.02, 0.0));
        let edm = Bound::of(&EdmSchedule::default(), 50, small).unwrap();
        assert_eq!(edm.prior_std(), 80.0);
        assert!((edm.prior(0.8) - 0.5 * 0.01f64.powi(2)).abs() < 1e-15);
        // Levels that only differ by a factor have the same terms.
        let scaled: Vec<_> = edm.levels().iter().map(|l| Level::variance_preserving(l.nsr(), l.t)).collect();
        let scaled = Bound::new(scaled, small).unwrap();
        for index in 0..50 {
            let (a, b) = (edm.term(index, 1.0, 0.99, 0.0).nats, scaled.term(index, 1.0, 0.99, 0.0).nats);
            let tolerance = if index == 0 { 1e-3 } else { 1e-6 };
            assert!((a / b - 1.0).abs() < tolerance, "{index}: {a} {b}");
        }
    }

    #[test]
    fn what_has_no_bound_is_said() {
        let small = ReverseVariance::FixedSmall;
        let schedule = TableSchedule::linear(10, 1e-4, 0.02).unwrap();
        assert_eq!(Bound::of(&schedule, 5, small).unwrap_err(), BoundError::Table { table: 10, found: 5 });
        assert_eq!(Bound::new(Vec::new(), small).unwrap_err(), BoundError::Steps { found: 0 });
        let levels = vec![Level::variance_preserving(2.0, 0.0), Level { alpha: 1.0, sigma: 0.5, t: 1.0 }];
        let error = Bound::new(levels, small).unwrap_err().to_string();
        assert!(error.contains("noise level 1 has sigma/alpha = 0.5"), "{error}");
        assert!(matches!(Bound::new(vec![Level::CLEAN; 2], small), Err(BoundError::Order { index: 0, .. })));
    }
}
