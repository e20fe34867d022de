//! Which of a schedule's times or noise levels to visit in `n` steps, noisiest first.
//!
//! Leading, trailing and linspace are table 2 of Lin et al. 2024, arXiv:2305.08891, with the integer
//! rounding of diffusers. Karras: arXiv:2206.00364, eq. 5. Beta: Lee et al. 2024, arXiv:2407.12173. KL-optimal
//! and Align Your Steps: Sabour et al. 2024, arXiv:2404.14507.

mod published;

use serde::{Deserialize, Serialize};

use crate::{
    level::Level,
    schedule::{NoiseSchedule, Times},
    special::beta_quantile,
};
pub use published::AlignedFor;

/// How to choose `n` times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of `⌊steps of the table / n⌋` plus an offset: [`leading`].
    Leading {
        /// Added to every time of the table.
        offset: usize,
    },
    /// Down from the noisiest time by `steps of the table / n`: [`trailing`].
    Trailing,
    /// From the noisiest time to the cleanest, rounded in a table: [`linspace`].
    Linspace,
    /// Like `Linspace`, but with fractional times in a table.
    LinspaceFractional,
    /// Evenly spaced in the `rho`-th root of the noise.
    Karras {
        /// 7 in the paper.
        rho: f64,
    },
    /// Evenly spaced in the logarithm of the noise.
    Exponential,
    /// Evenly spaced in the `rho`-th root of the logarithm of the noise above its minimum.
    Polyexponential {
        /// 1 equals `Exponential`; larger values put more steps at clean levels.
        rho: f64,
    },
    /// At quantiles of a Beta(`a`, `b`) distribution over the noise.
    Beta {
        /// 0.6 in the paper.
        a: f64,
        /// 0.6 in the paper.
        b: f64,
    },
    /// Evenly spaced in `lambda = ln(alpha/sigma)`.
    UniformLambda,
    /// Evenly spaced in the angle `arctan(sigma/alpha)`: the levels of a cosine schedule at evenly spaced times.
    /// Optimal in Kullback-Leibler divergence for Gaussian data.
    KlOptimal,
    /// As published for a model, stretched to the schedule's ends: [`AlignedFor`].
    AlignYourSteps {
        /// The model.
        model: AlignedFor,
    },
    /// From the noisiest time down in equal parts, the last of which would end at the cleanest time; not rounded.
    /// Used by Stability AI's generative models.
    SgmUniform,
    /// Down from the noisiest time in equal parts, shifted towards noise: [`shift`]. The usual choice for flow
    /// models.
    Shifted {
        /// 1 leaves the times unchanged.
        shift: f64,
    },
}

/// All spacings by name, with the parameters of their papers.
pub static SPACINGS: &[(&str, Spacing)] = &[
    ("leading", Spacing::Leading { offset: 0 }),
    ("trailing", Spacing::Trailing),
    ("linspace", Spacing::Linspace),
    ("linspace-fractional", Spacing::LinspaceFractional),
    ("karras", Spacing::Karras { rho: 7.0 }),
    ("exponential", Spacing::Exponential),
    ("beta", Spacing::Beta { a: 0.6, b: 0.6 }),
    ("polyexponential", Spacing::Polyexponential { rho: 1.0 }),
    ("uniform-lambda", Spacing::UniformLambda),
    ("kl-optimal", Spacing::KlOptimal),
    ("cosine", Spacing::KlOptimal),
    ("align-your-steps", Spacing::AlignYourSteps { model: AlignedFor::StableDiffusion }),
    ("align-your-steps-xl", Spacing::AlignYourSteps { model: AlignedFor::StableDiffusionXl }),
    ("align-your-steps-video", Spacing::AlignYourSteps { model: AlignedFor::StableVideoDiffusion }),
    ("sgm-uniform", Spacing::SgmUniform),
    ("shifted", Spacing::Shifted { shift: 1.0 }),
];

impl std::str::FromStr for Spacing {
    type Err = SpacingError;

    /// Parses a name of [`SPACINGS`], optionally with parameters after `=`: `leading=OFFSET`, `karras=RHO`,
    /// `polyexponential=RHO`, `beta=A,B`, `shifted=SHIFT`.
    ///
    /// ```
    /// use tweedie_core::spacing::Spacing;
    /// assert_eq!("shifted=3".parse::<Spacing>()?, Spacing::Shifted { shift: 3.0 });
    /// assert_eq!("beta=0.5,0.7".parse::<Spacing>()?.to_string(), "beta=0.5,0.7");
    /// assert_eq!("karras=7".parse::<Spacing>()?.to_string(), "karras");
    /// # Ok::<(), tweedie_core::spacing::SpacingError>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, SpacingError> {
        let (name, values) = match text.split_once('=') {
            Some((name, values)) => (name, Some(values)),
            None => (text, None),
        };
        let found = SPACINGS.iter().find(|(known, _)| *known == name);
        let usual =
            found.map(|(_, spacing)| *spacing).ok_or_else(|| SpacingError::Unknown { name: name.into() })?;
        let Some(values) = values else { return Ok(usual) };
        let wrong = |expected| SpacingError::Value { name: name.into(), value: values.into(), expected };
        let positive = |text: &str| text.trim().parse().ok().filter(|v: &f64| *v > 0.0 && v.is_finite());
        let one = || positive(values).ok_or_else(|| wrong("a finite number > 0"));
        Ok(match usual {
            Self::Leading { .. } => {
                Self::Leading { offset: values.trim().parse().map_err(|_| wrong("an integer ≥ 0"))? }
            }
            Self::Karras { .. } => Self::Karras { rho: one()? },
            Self::Polyexponential { .. } => Self::Polyexponential { rho: one()? },
            Self::Shifted { .. } => Self::Shifted { shift: one()? },
            Self::Beta { .. } => {
                let pair = values.split_once(',').and_then(|(a, b)| Some((positive(a)?, positive(b)?)));
                let (a, b) = pair.ok_or_else(|| wrong("two finite numbers > 0, for example 0.5,0.5"))?;
                Self::Beta { a, b }
            }
            _ => return Err(wrong("no parameters")),
        })
    }
}

impl std::fmt::Display for Spacing {
    /// Writes the form that [`str::parse`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some((name, _)) = SPACINGS.iter().find(|(_, known)| known == self) {
            return f.write_str(name);
        }
        match *self {
            Self::Leading { offset } => write!(f, "leading={offset}"),
            Self::Karras { rho } => write!(f, "karras={rho}"),
            Self::Polyexponential { rho } => write!(f, "polyexponential={rho}"),
            Self::Beta { a, b } => write!(f, "beta={a},{b}"),
            Self::Shifted { shift } => write!(f, "shifted={shift}"),
            // The others have fixed parameters.
            _ => write!(f, "{self:?}"),
        }
    }
}

/// Why times cannot be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpacingError {
    /// A name that is not in [`SPACINGS`].
    #[error("unknown spacing `{name}`; expected one of {}", SPACINGS.iter().map(|(n, _)| *n).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// The name given.
        name: String,
    },
    /// Invalid parameters of a spacing.
    #[error("spacing `{name}` = {value}: expected {expected}")]
    Value {
        /// Name of the spacing.
        name: String,
        /// The parameters given.
        value: String,
        /// The expected parameters.
        expected: &'static str,
    },
    /// Zero steps.
    #[error("steps = 0: expected at least 1")]
    NoSteps,
    /// More steps than timesteps in the table.
    #[error("steps = {steps}: expected at most {most} for this schedule")]
    TooMany {
        /// Number of steps requested.
        steps: usize,
        /// The largest allowed number.
        most: usize,
    },
    /// An offset beyond the end of the table.
    #[error(
        "offset = {offset} with {steps} steps needs timestep {time}, but the schedule's last timestep is {last}"
    )]
    Offset {
        /// The offset given.
        offset: usize,
        /// Number of steps requested.
        steps: usize,
        /// The timestep beyond the end.
        time: usize,
        /// The last timestep of the table.
        last: usize,
    },
    /// A range of noise levels that does not suit this spacing.
    #[error(
        "noise levels from {min} to {max}: expected 0 < min < max < ∞ (a schedule that ends in pure noise has no finite maximum)"
    )]
    Range {
        /// Smallest noise level.
        min: f64,
        /// Largest noise level.
        max: f64,
    },
    /// A parameter outside its range.
    #[error("{name} = {value}: expected a finite number > 0")]
    Parameter {
        /// Name of the parameter.
        name: &'static str,
        /// Its value.
        value: f64,
    },
}

/// Schedules over an interval that starts with a clean sample are spaced down to this fraction of it.
const CLEANEST: f64 = 1e-3;

impl Spacing {
    /// The levels to visit in `steps` steps, without the final clean level.
    ///
    /// Karras, exponential and beta spacing work on the coordinate of the schedule's [`Axis`](crate::schedule::Axis):
    /// `sigma/alpha`, or `sigma/(alpha+sigma)` for flows. `min` and `max`, in the same coordinate,
    /// replace the schedule's own ends there.
    ///
    /// # Errors
    /// For zero steps, more steps than a table allows (leading, trailing, linspace), an offset or a parameter out of
    /// range, or a schedule without a finite noisiest level if the spacing needs one.
    pub fn levels_between(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
        min: Option<f64>,
        max: Option<f64>,
    ) -> Result<Vec<Level>, SpacingError> {
        at_least_one(steps)?;
        let axis = schedule.axis();
        let times = schedule.times();
        let cleanest = match schedule.level(times.min()) {
            level if level.is_clean() => schedule.level(times.min() + CLEANEST * (times.max() - times.min())),
            level => level,
        };
        let min = min.unwrap_or_else(|| axis.coordinate(cleanest));
        let max = max.unwrap_or_else(|| axis.coordinate(schedule.level(times.max())));
        let noise = match *self {
            Self::Karras { rho } => karras(min, max, rho, steps)?,
            Self::Exponential => exponential(min, max, steps)?,
            Self::Polyexponential { rho } => polyexponential(min, max, rho, steps)?,
            Self::Beta { a, b } => beta(min, max, a, b, steps)?,
            Self::UniformLambda | Self::KlOptimal | Self::AlignYourSteps { .. } => {
                let (min, max) = (axis.nsr(min), axis.nsr(max));
                let nsrs = match *self {
                    Self::KlOptimal => kl_optimal(min, max, steps)?,
                    Self::AlignYourSteps { model } => align_your_steps(min, max, model, steps)?,
                    _ => exponential(min, max, steps)?,
                };
                return Ok(nsrs.into_iter().map(|nsr| schedule.at_nsr(nsr)).collect());
            }
            _ => {
                let times = self.plain_times(times, cleanest.t, steps)?;
                return Ok(times.into_iter().map(|t| schedule.level(t)).collect());
            }
        };
        Ok(noise.into_iter().map(|u| schedule.at_nsr(axis.nsr(u))).collect())
    }

    /// [`Spacing::levels_between`] with the schedule's own ends.
    pub fn levels(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Vec<Level>, SpacingError> {
        self.levels_between(schedule, steps, None, None)
    }

    /// The times of [`Spacing::levels`].
    pub fn times(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Vec<f64>, SpacingError> {
        Ok(self.levels(schedule, steps)?.into_iter().map(|level| level.t).collect())
    }

    fn plain_times(&self, times: Times, cleanest: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
        let (min, max) = (times.min(), times.max());
        let parts =
            |first: usize| (0..n).map(|i| min + (max - min) * ((n - i - first) as f64 / n as f64)).collect();
        match (*self, times) {
            (Self::Leading { offset }, Times::Table { steps }) => leading(steps, n, offset),
            (Self::Trailing, Times::Table { steps }) => trailing(steps, n),
            (Self::Linspace, Times::Table { steps }) => linspace(steps, n),
            (Self::LinspaceFractional, Times::Table { steps }) => linspace_fractional(steps, n),
            (Self::Leading { .. }, _) => {
                let mut times: Vec<f64> = parts(1);
                if let Some(last) = times.last_mut() {
                    *last = last.max(cleanest);
                }
                Ok(times)
            }
            (Self::Shifted { shift: by }, _) => {
                positive("shift", by)?;
                let ratio = |t: f64| (t - min) / (max - min);
                Ok(parts(0).into_iter().map(|t: f64| min + (max - min) * shift(ratio(t), by)).collect())
            }
            (Self::Trailing, _) => Ok(parts(0)),
            (Self::SgmUniform, _) => Ok(even(cleanest, max, n + 1).into_iter().take(n).collect()),
            _ => Ok(even(cleanest, max, n)),
        }
    }
}

/// `(n−1)·r + offset, …, r + offset, offset` with `r = ⌊table / n⌋`: diffusers' `leading`.
pub fn leading(table: usize, n: usize, offset: usize) -> Result<Vec<f64>, SpacingError> {
    at_most(n, table)?;
    let ratio = table / n;
    let time = (n - 1) * ratio + offset;
    if time >= table {
        return Err(SpacingError::Offset { offset, steps: n, time, last: table - 1 });
    }
    Ok((0..n).rev().map(|i| (i * ratio + offset) as f64).collect())
}

/// [`leading`] for `n + 1` times, without the cleanest, as in diffusers' multistep solvers.
pub fn leading_without_cleanest(table: usize, n: usize, offset: usize) -> Result<Vec<f64>, SpacingError> {
    at_most(n, table.saturating_sub(1))?;
    let ratio = table / (n + 1);
    let time = n * ratio + offset;
    if time >= table {
        return Err(SpacingError::Offset { offset, steps: n, time, last: table - 1 });
    }
    Ok((1..=n).rev().map(|i| (i * ratio + offset) as f64).collect())
}

/// `table·(n−i)/n − 1` for `i = 0..n`, rounded half to even: diffusers' `trailing`. Starts at the noisiest time.
pub fn trailing(table: usize, n: usize) -> Result<Vec<f64>, SpacingError> {
    at_most(n, table)?;
    // Uses the same floating-point steps as numpy's arange, because values near a half round differently otherwise.
    let whole = table as f64;
    let step = (whole - whole / n as f64) - whole;
    Ok((0..n).map(|i| (whole + i as f64 * step).round_ties_even() - 1.0).collect())
}

/// Evenly spaced from `table − 1` to 0, rounded half to even: diffusers' `linspace` for DDPM and DDIM.
/// A single step is at time 0.
pub fn linspace(table: usize, n: usize) -> Result<Vec<f64>, SpacingError> {
    at_most(n, table)?;
    Ok(ascending(table, n).into_iter().rev().map(f64::round_ties_even).collect())
}

/// [`linspace`] for `n + 1` times, without the cleanest, as in diffusers' multistep solvers.
pub fn linspace_without_cleanest(table: usize, n: usize) -> Result<Vec<f64>, SpacingError> {
    at_most(n, table.saturating_sub(1))?;
    Ok(ascending(table, n + 1).into_iter().skip(1).rev().map(f64::round_ties_even).collect())
}

/// [`linspace`] unrounded: diffusers' `linspace` for Euler and Heun.
pub fn linspace_fractional(table: usize, n: usize) -> Result<Vec<f64>, SpacingError> {
    at_least_one(n)?;
    at_least_one(table)?;
    Ok(ascending(table, n).into_iter().rev().collect())
}

/// `n` noise levels from `max` down to `min`, evenly spaced in their `rho`-th root. `0 < min < max < ∞`.
pub fn karras(min: f64, max: f64, rho: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
    positive("rho", rho)?;
    check_range(min, max, n)?;
    let (low, high) = (min.powf(1.0 / rho), max.powf(1.0 / rho));
    Ok(ramp(n).map(|r| (high + r * (low - high)).powf(rho)).collect())
}

/// `n` noise levels from `max` down to `min`, evenly spaced in their logarithm. `0 < min < max < ∞`.
pub fn exponential(min: f64, max: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
    check_range(min, max, n)?;
    Ok(ramp(n).map(|r| (max.ln() + r * (min.ln() - max.ln())).exp()).collect())
}

/// `n` noise levels from `max` down to `min`, with `ln(noise/min)` decreasing as the `rho`-th power of even steps:
/// k-diffusion's polyexponential. `0 < min < max < ∞`.
pub fn polyexponential(min: f64, max: f64, rho: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
    positive("rho", rho)?;
    check_range(min, max, n)?;
    Ok(ramp(n).map(|r| (min.ln() + (1.0 - r).powf(rho) * (max.ln() - min.ln())).exp()).collect())
}

/// `n` values of `sigma/alpha` from `max` down to `min`, evenly spaced in their arctangent.
/// `0 ≤ min < max`; `max` may be infinite.
pub fn kl_optimal(min: f64, max: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
    at_least_one(n)?;
    if !(min >= 0.0 && min < max) {
        return Err(SpacingError::Range { min, max });
    }
    let nsr = |r: f64| if r == 0.0 { max } else { ((1.0 - r) * max.atan() + r * min.atan()).tan() };
    Ok(ramp(n).map(nsr).collect())
}

/// `n` values of `sigma/alpha` from `max` down, as published for a model with ten steps; the last step would end at
/// `min`. `0 < min < max < ∞`.
pub fn align_your_steps(min: f64, max: f64, model: AlignedFor, n: usize) -> Result<Vec<f64>, SpacingError> {
    check_range(min, max, n)?;
    Ok(model.stretched(min, max, n))
}

/// `n` noise levels from `max` down to `min` at evenly spaced quantiles of Beta(`a`, `b`), `a, b > 0`.
pub fn beta(min: f64, max: f64, a: f64, b: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
    positive("a", a)?;
    positive("b", b)?;
    check_range(min, max, n)?;
    Ok(ramp(n).map(|r| min + beta_quantile(1.0 - r, a, b) * (max - min)).collect())
}

/// `s·t / (1 + (s − 1)·t)` for `t` in `0..=1`: multiplies `t/(1−t)` by `s`. Esser et al. 2024,
/// arXiv:2403.03206, eq. 23. `s > 0`.
pub fn shift(t: f64, s: f64) -> f64 {
    s * t / (1.0 + (s - 1.0) * t)
}

/// The shift for an image of `tokens` patches. Its logarithm is interpolated linearly between `(tokens, log shift)`
/// of two sizes: `(256, 0.5)` and `(4096, 1.15)` for Flux, where this rule comes from.
pub fn dynamic_shift(tokens: f64, small: (f64, f64), large: (f64, f64)) -> f64 {
    let slope = (large.1 - small.1) / (large.0 - small.0);
    (small.1 + slope * (tokens - small.0)).exp()
}

/// `0..=1` in `n` points, 0 alone for `n = 1`.
fn ramp(n: usize) -> impl Iterator<Item = f64> {
    (0..n).map(move |i| i as f64 / (n.max(2) - 1) as f64)
}

/// `max` down to `min` in `n` points.
fn even(min: f64, max: f64, n: usize) -> Vec<f64> {
    ramp(n).map(|r| max + r * (min - max)).collect()
}

/// `0..=table−1` in `n` points, computed as numpy does.
fn ascending(table: usize, n: usize) -> Vec<f64> {
    let last = table as f64 - 1.0;
    let step = last / (n.max(2) - 1) as f64;
    (0..n).map(|i| if n > 1 && i == n - 1 { last } else { i as f64 * step }).collect()
}

fn at_least_one(n: usize) -> Result<(), SpacingError> {
    if n == 0 { Err(SpacingError::NoSteps) } else { Ok(()) }
}

fn at_most(n: usize, most: usize) -> Result<(), SpacingError> {
    at_least_one(n)?;
    if n > most { Err(SpacingError::TooMany { steps: n, most }) } else { Ok(()) }
}

fn positive(name: &'static str, value: f64) -> Result<(), SpacingError> {
    if value > 0.0 && value.is_finite() { Ok(()) } else { Err(SpacingError::Parameter { name, value }) }
}

fn check_range(min: f64, max: f64, n: usize) -> Result<(), SpacingError> {
    at_least_one(n)?;
    if min > 0.0 && min < max && max.is_finite() { Ok(()) } else { Err(SpacingError::Range { min, max }) }
}
