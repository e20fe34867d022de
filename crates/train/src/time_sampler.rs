//! The distribution of noise levels in training.
//!
//! A position `q` in `0..1` is drawn by applying an inverse cumulative distribution to a uniform `u`, and converted to a time
//! of the schedule. With low discrepancy, the rows of one step share a single offset, `u_i = (u0 + i/B) mod 1` (Kingma et al.
//! 2021, arXiv:2107.00630): each row is still uniform, and together they cover the interval evenly, which reduces the
//! variance of the loss.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use tweedie_core::{Level, NoiseSchedule, schedule::Times};

use crate::keys::{Purpose, uniform};

/// The distribution of noise levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSampling {
    /// `q = u`: all times of the schedule are equally likely.
    #[default]
    Uniform,
    /// `q = 1/(1 + exp(-(mean + std·z)))`, `z` standard normal (Esser et al. 2024, arXiv:2403.03206).
    LogitNormal,
    /// `sigma/alpha = exp(mean + std·z)` (Karras et al. 2022, arXiv:2206.00364, table 1).
    LogNormal,
    /// Times of a table in proportion to the root mean square of their last losses, which are divided by it again: less
    /// variance, the same expectation (Nichol & Dhariwal 2021, arXiv:2102.09672). Uniform until every time has been drawn ten
    /// times, and for held-out images.
    LossSecondMoment,
}

impl TimeSampling {
    /// Whether the distribution depends on the losses.
    pub fn adapts(self) -> bool {
        self == Self::LossSecondMoment
    }
}

/// Draws noise levels as a pure function of (seed, step, row).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeSampler {
    /// The distribution.
    pub sampling: TimeSampling,
    /// Mean of the underlying normal; unused for uniform.
    pub mean: f64,
    /// Standard deviation of the underlying normal, > 0; unused for uniform.
    pub std: f64,
    /// Whether the rows of a step are spread evenly.
    pub low_discrepancy: bool,
    /// Whether times between the entries of a table are drawn, too.
    pub continuous: bool,
}

/// A noise level and its density.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The level.
    pub level: Level,
    /// The density of the log-SNR `2·lambda` at this level under the sampler.
    pub density: f64,
}

impl TimeSampler {
    /// The level of row `row` out of `rows` in step `step`.
    pub fn draw(&self, schedule: &dyn NoiseSchedule, seed: u64, step: u64, row: usize, rows: usize) -> Draw {
        self.at(schedule, self.position(Purpose::Time, seed, step, row, rows))
    }

    /// `u` in `[0, 1)`.
    pub(crate) fn position(&self, purpose: Purpose, seed: u64, step: u64, row: usize, rows: usize) -> f64 {
        if self.low_discrepancy {
            (uniform(seed, purpose, step, 0) + row as f64 / rows.max(1) as f64).fract()
        } else {
            uniform(seed, purpose, step, row as u64)
        }
    }

    /// The level for `u` in `[0, 1)`.
    pub fn at(&self, schedule: &dyn NoiseSchedule, u: f64) -> Draw {
        let u = u.clamp(1e-12, 1.0 - 1e-12);
        let z = normal_quantile(u);
        let bell = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        match self.sampling {
            TimeSampling::LogNormal => {
                let level = schedule.at_nsr((self.mean + self.std * z).exp());
                // log-SNR = -2·ln(nsr), so its standard deviation is 2·std.
                Draw { level, density: bell / (2.0 * self.std) }
            }
            TimeSampling::Uniform | TimeSampling::LossSecondMoment => self.scheduled(schedule, u, 1.0),
            TimeSampling::LogitNormal => {
                let q = 1.0 / (1.0 + (-(self.mean + self.std * z)).exp());
                let q = q.clamp(1e-12, 1.0 - 1e-12);
                self.scheduled(schedule, q, bell / (self.std * q * (1.0 - q)))
            }
        }
    }

    /// Time `index` of a table, as a uniform draw.
    pub(crate) fn entry(&self, schedule: &dyn NoiseSchedule, index: usize) -> Draw {
        let steps = schedule.times().max() + 1.0;
        self.scheduled(schedule, (index as f64 + 0.5) / steps, 1.0)
    }

    /// The level at position `q` with the density `density` over positions.
    fn scheduled(&self, schedule: &dyn NoiseSchedule, q: f64, density: f64) -> Draw {
        let lambda = |t: f64| schedule.level(t).lambda();
        let (t, lo, hi, span) = match schedule.times() {
            Times::Table { steps } => {
                let last = steps.saturating_sub(1) as f64;
                let span = if self.continuous { last } else { steps as f64 };
                let t = if self.continuous { q * last } else { (q * span).floor().min(last) };
                let (lo, hi) = ((t - 0.5).max(0.0), (t + 0.5).min(last));
                // Pure noise has no finite log-SNR, so the slope is taken just before it.
                if lambda(hi).is_finite() { (t, lo, hi, span) } else { (t, t - 1.0, t - 0.5, span) }
            }
            Times::Interval { min, max } => {
                let (span, q) = (max - min, q.clamp(1e-6, 1.0 - 1e-6));
                let (t, h) = (min + q * span, 1e-4 * q.min(1.0 - q) * span);
                (t, t - h, t + h, span)
            }
        };
        // d(log-SNR)/dq by a central difference.
        let slope = 2.0 * (lambda(lo) - lambda(hi)).abs() / (hi - lo) * span;
        Draw { level: schedule.level(t), density: density / slope }
    }
}

/// The inverse cumulative distribution of the standard normal, for `p` strictly between 0 and 1; about 16 digits (Wichura
/// 1988, algorithm AS 241).
pub(crate) fn normal_quantile(p: f64) -> f64 {
    fn ratio(r: f64, num: [f64; 8], den: [f64; 8]) -> f64 {
        let horner = |c: [f64; 8]| c.into_iter().fold(0.0, |sum, c| sum * r + c);
        horner(num) / horner(den)
    }
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(
            0.180625 - q * q,
            [
                2_509.080_928_730_122_6,
                33_430.575_583_588_13,
                67_265.770_927_008_7,
                45_921.953_931_549_87,
                13_731.693_765_509_46,
                1_971.590_950_306_551_3,
                133.141_667_891_784_38,
                3.387_132_872_796_366_5,
            ],
            [
                5_226.495_278_852_545,
                28_729.085_735_721_943,
                39_307.895_800_092_71,
                21_213.794_301_586_597,
                5_394.196_021_424_751,
                687.187_007_492_057_9,
                42.313_330_701_600_91,
                1.0,
            ],
        );
    }
    let r = (-(if q <= 0.0 { p } else { 1.0 - p }).ln()).sqrt();
    let x = if r <= 5.0 {
        ratio(
            r - 1.6,
            [
                7.745_450_142_783_414e-4,
                0.022_723_844_989_269_184,
                0.241_780_725_177_450_6,
                1.270_458_252_452_368_4,
                3.647_848_324_763_204_5,
                5.769_497_221_460_691,
                4.630_337_846_156_546,
                1.423_437_110_749_683_5,
            ],
            [
                1.050_750_071_644_416_9e-9,
                5.475_938_084_995_345e-4,
                0.015_198_666_563_616_457,
                0.148_103_976_427_480_08,
                0.689_767_334_985_1,
                1.676_384_830_183_803_8,
                2.053_191_626_637_759,
                1.0,
            ],
        )
    } else {
        ratio(
            r - 5.0,
            [
                2.010_334_399_292_288_1e-7,
                2.711_555_568_743_487_6e-5,
                0.001_242_660_947_388_078_4,
                0.026_532_189_526_576_124,
                0.296_560_571_828_504_87,
                1.784_826_539_917_291_3,
                5.463_784_911_164_114,
                6.657_904_643_501_103,
            ],
            [
                2.044_263_103_389_939_8e-15,
                1.421_511_758_316_446e-7,
                1.846_318_317_510_054_8e-5,
                7.868_691_311_456_133e-4,
                0.014_875_361_290_850_615,
                0.136_929_880_922_735_8,
                0.599_832_206_555_888,
                1.0,
            ],
        )
    };
    if q < 0.0 { -x } else { x }
}

#[cfg(test)]
mod tests {
    use tweedie_core::schedule::{EdmSchedule, FlowSchedule, TableSchedule};

    use super::*;

    fn sampler(sampling: TimeSampling, low_discrepancy: bool) -> TimeSampler {
        TimeSampler { sampling, mean: -1.2, std: 1.2, low_discrepancy, continuous: false }
    }

    const QUANTILES: [(f64, f64); 12] = [
        (1e-300, -37.0470962993612),
        (1e-12, -7.034483825301131),
        (1e-06, -4.753424308822899),
        (0.001, -3.090232306167813),
        (0.0749, -1.4402382675279635),
        (0.075, -1.4395314709384563),
        (0.25, -0.6744897501960817),
        (0.5, 0.0),
        (0.6, 0.2533471031357997),
        (0.92, 1.4050715603096329),
        (0.925, 1.4395314709384563),
        (0.99999, 4.264890793923841),
    ];

    #[test]
    fn quantiles_are_those_of_the_normal() {
        // Computed by scipy 1.17.1's scipy.stats.norm.ppf.
        for (p, z) in QUANTILES {
            assert!(
                (normal_quantile(p) - z).abs() <= 2e-15 * z.abs().max(1.0),
                "{p}: {}",
                normal_quantile(p)
            );
        }
    }

    #[test]
    fn a_step_is_a_pure_function_and_stratified() {
        let schedule = TableSchedule::squared_cosine(1000).unwrap();
        let s = sampler(TimeSampling::Uniform, true);
        let draw = |step, row| s.draw(&schedule, 7, step, row, 64).level.t;
        assert_eq!(draw(3, 5), draw(3, 5));
        assert_ne!(draw(3, 5), draw(4, 5));
        for step in 0..20 {
            let mut cells: Vec<_> =
                (0..64).map(|row| (s.position(Purpose::Time, 7, step, row, 64) * 64.0) as usize).collect();
            cells.sort_unstable();
            assert_eq!(cells, (0..64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_time_of_a_table_is_equally_likely() {
        let schedule = TableSchedule::linear(10, 1e-4, 0.02).unwrap();
        for low_discrepancy in [false, true] {
            let s = sampler(TimeSampling::Uniform, low_discrepancy);
            let mut counts = [0.0f64; 10];
            for step in 0..500 {
                (0..20).for_each(|row| counts[s.draw(&schedule, 1, step, row, 20).level.t as usize] += 1.0);
            }
            let chi: f64 = counts.iter().map(|c| (c - 1000.0).powi(2) / 1000.0).sum();
            assert!(chi < 33.7, "{chi}: 9 degrees of freedom, 99.99 % lie below");
        }
    }

    #[test]
    fn logit_normal_and_log_normal_have_their_moments() {
        let (flow, edm) = (FlowSchedule::new(), EdmSchedule::default());
        for low_discrepancy in [false, true] {
            let (logit, log) = (
                sampler(TimeSampling::LogitNormal, low_discrepancy),
                sampler(TimeSampling::LogNormal, low_discrepancy),
            );
            let values: Vec<(f64, f64)> = (0..200)
                .flat_map(|step| (0..50).map(move |row| (step, row)))
                .map(|(step, row)| {
                    let q = logit.draw(&flow, 1, step, row, 50).level.t;
                    ((q / (1.0 - q)).ln(), log.draw(&edm, 1, step, row, 50).level.sigma.ln())
                })
                .collect();
            let n = values.len() as f64;
            for pick in [|v: &(f64, f64)| v.0, |v: &(f64, f64)| v.1] {
                let mean = values.iter().map(pick).sum::<f64>() / n;
                let var = values.iter().map(|v| (pick(v) - mean).powi(2)).sum::<f64>() / n;
                // Five standard errors of 10,000 independent draws.
                assert!((mean + 1.2).abs() < 0.06, "{mean}");
                assert!((var.sqrt() - 1.2).abs() < 0.043, "{var}");
            }
        }
    }

    #[test]
    fn densities_integrate_to_one() {
        let table = TableSchedule::squared_cosine(1000).unwrap();
        let flow = FlowSchedule::new();
        let edm = EdmSchedule::default();
        for (sampling, schedule) in [
            (TimeSampling::Uniform, &flow as &dyn NoiseSchedule),
            (TimeSampling::LogitNormal, &flow),
            (TimeSampling::LogitNormal, &table),
            (TimeSampling::LogNormal, &edm),
        ] {
            let s = TimeSampler { continuous: true, ..sampler(sampling, false) };
            // Importance sampling of the interval of log-SNR between the 5 % and 95 % quantiles.
            let l = |u| 2.0 * s.at(schedule, u).level.lambda();
            let (a, b) = (l(0.05), l(0.95));
            let n = 20000;
            let sum: f64 = (0..n)
                .map(|i| s.at(schedule, 0.05 + 0.9 * (i as f64 + 0.5) / n as f64))
                .map(|d| 0.9 / d.density / n as f64)
                .sum();
            assert!((sum / (a - b).abs() - 1.0).abs() < 2e-3, "{sampling:?}: {sum} {a} {b}");
        }
    }
}
