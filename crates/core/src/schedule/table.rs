//! Discrete variance-preserving schedules: a table of betas.
//! `alpha_bar_t = Π (1 − beta_s)`, `alpha = √alpha_bar`, `sigma = √(1 − alpha_bar)`.
//! Ho et al. 2020, arXiv:2006.11239.

use std::{f64::consts::FRAC_PI_2, fmt};

use super::{NoiseSchedule, ScheduleError, Times, check};
use crate::level::Level;

/// How to interpolate between the entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Interpolation {
    /// Linear in `ln alpha_bar`, both from time to level and back.
    #[default]
    LogAlphaBar,
    /// From time to level linear in `sigma/alpha`, back linear in its logarithm, as in diffusers' Euler, Heun and
    /// DPM-Solver schedulers.
    Nsr,
}

/// A variance-preserving schedule over times `0..steps`.
#[derive(Clone, PartialEq)]
pub struct TableSchedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
    log_alpha_bar: Vec<f64>,
    interpolation: Interpolation,
}

impl TableSchedule {
    /// Betas evenly spaced from `start` to `end`. DDPM's defaults are `(1000, 1e-4, 0.02)`.
    pub fn linear(steps: usize, start: f64, end: f64) -> Result<Self, ScheduleError> {
        Self::from_betas(&linspace(start, end, steps))
    }

    /// Betas whose square roots are evenly spaced: latent diffusion's, `(1000, 0.00085, 0.012)`.
    pub fn scaled_linear(steps: usize, start: f64, end: f64) -> Result<Self, ScheduleError> {
        check(start > 0.0, "beta_start", start, "0 < beta_start")?;
        check(end > 0.0, "beta_end", end, "0 < beta_end")?;
        let betas: Vec<f64> = linspace(start.sqrt(), end.sqrt(), steps).iter().map(|r| r * r).collect();
        Self::from_betas(&betas)
    }

    /// `alpha_bar(r) = cos²((r + 0.008)/1.008·π/2)`, betas at most 0.999.
    /// Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17.
    pub fn squared_cosine(steps: usize) -> Result<Self, ScheduleError> {
        let alpha_bar = |i: usize| ((i as f64 / steps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
        let betas: Vec<f64> =
            (0..steps).map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999)).collect();
        Self::from_betas(&betas)
    }

    /// Betas along a sigmoid from about `start` to about `end`, with arguments from −6 to 6
    /// (GeoDiff; diffusers' `sigmoid`).
    pub fn sigmoid(steps: usize, start: f64, end: f64) -> Result<Self, ScheduleError> {
        let betas: Vec<f64> =
            linspace(-6.0, 6.0, steps).iter().map(|x| (end - start) / (1.0 + (-x).exp()) + start).collect();
        Self::from_betas(&betas)
    }

    /// A table of given betas, each in `0 < beta < 1`; the last may be 1 (zero terminal SNR).
    pub fn from_betas(betas: &[f64]) -> Result<Self, ScheduleError> {
        let last = betas.len().checked_sub(1).ok_or(ScheduleError::Empty)?;
        for (index, &value) in betas.iter().enumerate() {
            if !(value > 0.0 && (value < 1.0 || (index == last && value == 1.0))) {
                return Err(ScheduleError::Beta { index, value });
            }
        }
        let mut sum = 0.0;
        let log_alpha_bar: Vec<f64> = betas
            .iter()
            .map(|beta| {
                sum += (-beta).ln_1p();
                sum
            })
            .collect();
        Ok(Self::assemble(betas.to_vec(), log_alpha_bar))
    }

    /// A table of given products `alpha_bar`, strictly decreasing and below 1; the last may be 0.
    pub fn from_alphas_cumprod(alphas_cumprod: &[f64]) -> Result<Self, ScheduleError> {
        let last = alphas_cumprod.len().checked_sub(1).ok_or(ScheduleError::Empty)?;
        let mut before = 1.0;
        let mut betas = Vec::with_capacity(alphas_cumprod.len());
        for (index, &value) in alphas_cumprod.iter().enumerate() {
            if !(value < before && (value > 0.0 || (index == last && value == 0.0))) {
                return Err(ScheduleError::AlphaBar { index, value });
            }
            betas.push(1.0 - value / before);
            before = value;
        }
        Ok(Self::assemble(betas, alphas_cumprod.iter().map(|a| a.ln()).collect()))
    }

    fn assemble(betas: Vec<f64>, log_alpha_bar: Vec<f64>) -> Self {
        let alphas_cumprod = log_alpha_bar.iter().map(|l| l.exp()).collect();
        Self { betas, alphas_cumprod, log_alpha_bar, interpolation: Interpolation::default() }
    }

    /// The same process rescaled so that the last time is pure noise
    /// ([`rescale_zero_terminal_snr`]).
    pub fn rescale_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        let mut out = Self::from_betas(&rescale_zero_terminal_snr(&self.betas)?)?;
        out.interpolation = self.interpolation;
        Ok(out)
    }

    /// Sets how to interpolate between the entries.
    pub fn with_interpolation(self, interpolation: Interpolation) -> Self {
        Self { interpolation, ..self }
    }

    /// `beta_t`, one per time.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// `alpha_bar_t`, one per time.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    fn last(&self) -> usize {
        self.betas.len() - 1
    }

    /// `sigma/alpha` of an entry.
    fn entry_nsr(&self, i: usize) -> f64 {
        (-self.log_alpha_bar[i]).exp_m1().sqrt()
    }

    fn time_at_nsr(&self, nsr: f64) -> f64 {
        let table = &self.log_alpha_bar;
        let log = -(nsr * nsr).ln_1p();
        let above = table.partition_point(|&l| l >= log);
        if above == 0 {
            return 0.0;
        }
        if above > self.last() {
            return self.last() as f64;
        }
        let (a, b) = (table[above - 1], table[above]);
        let fraction = if b == f64::NEG_INFINITY {
            1.0 - (0.5 * (log - a)).exp()
        } else {
            match self.interpolation {
                Interpolation::LogAlphaBar => (a - log) / (a - b),
                Interpolation::Nsr => {
                    let (a, b) = (self.entry_nsr(above - 1).ln(), self.entry_nsr(above).ln());
                    (nsr.ln() - a) / (b - a)
                }
            }
        };
        (above - 1) as f64 + fraction.clamp(0.0, 1.0)
    }
}

impl fmt::Debug for TableSchedule {
    /// Shows the size and the ends instead of all values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSchedule")
            .field("steps", &self.betas.len())
            .field("betas", &self.betas.first().zip(self.betas.last()))
            .field("alphas_cumprod", &self.alphas_cumprod.first().zip(self.alphas_cumprod.last()))
            .field("interpolation", &self.interpolation)
            .finish()
    }
}

impl NoiseSchedule for TableSchedule {
    /// Between the entries see [`Interpolation`]; next to an entry of pure noise, where the logarithm is
    /// infinite, `alpha` decreases linearly.
    fn level(&self, t: f64) -> Level {
        let t = t.clamp(0.0, self.last() as f64);
        let i = t.floor() as usize;
        let fraction = t - i as f64;
        let a = self.log_alpha_bar[i];
        let log = if fraction == 0.0 {
            a
        } else {
            let b = self.log_alpha_bar.get(i + 1).copied().unwrap_or(a);
            if b == f64::NEG_INFINITY {
                a + 2.0 * (-fraction).ln_1p()
            } else {
                match self.interpolation {
                    Interpolation::LogAlphaBar => a + fraction * (b - a),
                    Interpolation::Nsr => {
                        let nsr = (1.0 - fraction) * self.entry_nsr(i)
                            + fraction * self.entry_nsr((i + 1).min(self.last()));
                        return Level::variance_preserving(nsr, t);
                    }
                }
            }
        };
        Level { alpha: (0.5 * log).exp(), sigma: (-log.exp_m1()).sqrt(), t }
    }

    fn at_nsr(&self, nsr: f64) -> Level {
        Level::variance_preserving(nsr, self.time_at_nsr(nsr))
    }

    fn times(&self) -> Times {
        Times::Table { steps: self.betas.len() }
    }
}

/// Rescales betas such that the last `alpha_bar` is exactly 0 and the first is unchanged, by shifting and
/// scaling `√alpha_bar`. Lin et al. 2024, arXiv:2305.08891, algorithm 1.
pub fn rescale_zero_terminal_snr(betas: &[f64]) -> Result<Vec<f64>, ScheduleError> {
    if betas.len() < 2 {
        return Err(ScheduleError::TooShort { steps: betas.len() });
    }
    let table = TableSchedule::from_betas(betas)?;
    let root = |i: usize| (0.5 * table.log_alpha_bar[i]).exp();
    let (first, end) = (root(0), root(table.last()));
    let alpha_bar = |i: usize| ((root(i) - end) * first / (first - end)).powi(2);
    let rest = (1..betas.len()).map(|i| 1.0 - alpha_bar(i) / alpha_bar(i - 1));
    Ok(std::iter::once(betas[0]).chain(rest).collect())
}

fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / (n.max(2) - 1) as f64;
    (0..n).map(|i| if i + 1 == n && n > 1 { end } else { start + i as f64 * step }).collect()
}
