//! The training loss: the weighted squared error of the network's output,
//! `L = mean over images of w(level)·mean over pixels of (F - target)²`.
//!
//! Published weightings are stated for the error of `x0`, of `eps`, or of a particular parameterization. At one noise level
//! these errors only differ by a factor: since `x0 = c_skip·x + c_out·F` and `x = alpha·x0 + sigma·eps`,
//!
//! ```text
//! |x0 - x0'|²   = c_out²·|F - target|²
//! |eps - eps'|² = e_out²·|F - target|²,   e_out = -alpha·c_out/sigma
//! ```
//!
//! So each weighting is converted to the output's space by one of the two factors, whichever is finite.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};
use tweedie_core::{Level, Parameterization};

use crate::{
    diffusion::DiffusionConfig,
    error::TrainError,
    objective::ObjectiveKind,
    time_sampler::{Draw, TimeSampler, TimeSampling},
};

/// The weighting of noise levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightingKind {
    /// See [`Weighting::Constant`].
    Constant,
    /// See [`Weighting::MinSnr`].
    #[default]
    MinSnr,
    /// See [`Weighting::P2`].
    P2,
    /// See [`Weighting::Edm`].
    Edm,
    /// See [`Weighting::Sigmoid`].
    Sigmoid,
    /// See [`Weighting::Bound`].
    Bound,
}

/// The `[loss]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// `simple`, the weighted squared error; `vlb`, the variational bound of a table of betas, which ignores the weighting; or
    /// `hybrid`, both, for a learned variance.
    pub objective: ObjectiveKind,
    /// Weight of the bound in hybrid (lambda), > 0; the bound is in bits per dimension.
    pub vlb_weight: f64,
    /// The weighting of noise levels.
    pub weighting: WeightingKind,
    /// Gamma of min-SNR, > 0.
    pub min_snr_gamma: f64,
    /// Gamma of P2, ≥ 0.
    pub p2_gamma: f64,
    /// k of P2, > 0.
    pub p2_k: f64,
    /// Log-SNR at which the sigmoid weighting is one half.
    pub sigmoid_bias: f64,
    /// Largest log-SNR with a nonzero bound weighting; at cleaner levels 8-bit pixels are known anyway.
    pub bound_log_snr_max: f64,
    /// The distribution of times.
    pub times: TimeSampling,
    /// Mean of the logit-normal or log-normal distribution of times.
    pub times_mean: f64,
    /// Its standard deviation, > 0.
    pub times_std: f64,
    /// Whether to spread the times of one step evenly.
    pub low_discrepancy: bool,
    /// Whether to also use times between the entries of a table.
    pub continuous: bool,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            objective: ObjectiveKind::Simple,
            vlb_weight: 0.001,
            weighting: WeightingKind::MinSnr,
            min_snr_gamma: 5.0,
            p2_gamma: 1.0,
            p2_k: 1.0,
            sigmoid_bias: 0.0,
            bound_log_snr_max: 13.3,
            times: TimeSampling::Uniform,
            times_mean: 0.0,
            times_std: 1.0,
            low_discrepancy: true,
            continuous: false,
        }
    }
}

impl LossConfig {
    /// The sampler of times.
    pub fn sampler(&self) -> TimeSampler {
        TimeSampler {
            sampling: self.times,
            mean: self.times_mean,
            std: self.times_std,
            low_discrepancy: self.low_discrepancy,
            continuous: self.continuous,
        }
    }

    /// The weighting; `sigma_data` is the standard deviation of the data, for EDM.
    pub fn weighting(&self, sigma_data: f64) -> Weighting {
        match self.weighting {
            WeightingKind::Constant => Weighting::Constant,
            WeightingKind::MinSnr => Weighting::MinSnr { gamma: self.min_snr_gamma },
            WeightingKind::P2 => Weighting::P2 { gamma: self.p2_gamma, k: self.p2_k },
            WeightingKind::Edm => Weighting::Edm { sigma_data },
            WeightingKind::Sigmoid => Weighting::Sigmoid { bias: self.sigmoid_bias },
            WeightingKind::Bound => Weighting::Bound { log_snr_max: self.bound_log_snr_max },
        }
    }

    pub(crate) fn check(&self, diffusion: &DiffusionConfig) -> Result<(), TrainError> {
        let positive = |key: &str, v: f64| {
            let ok = v > 0.0 && v.is_finite();
            if ok { Ok(()) } else { Err(TrainError::config(key, v, "a finite value > 0")) }
        };
        positive("loss.min_snr_gamma", self.min_snr_gamma)?;
        positive("loss.p2_k", self.p2_k)?;
        positive("loss.times_std", self.times_std)?;
        positive("loss.vlb_weight", self.vlb_weight)?;
        for (key, v) in [
            ("loss.p2_gamma", self.p2_gamma),
            ("loss.sigmoid_bias", self.sigmoid_bias),
            ("loss.bound_log_snr_max", self.bound_log_snr_max),
            ("loss.times_mean", self.times_mean),
        ] {
            if !v.is_finite() {
                return Err(TrainError::config(key, v, "a finite value"));
            }
        }
        self.check_objective(diffusion)?;
        let (schedule, sampler) = (diffusion.schedule()?, self.sampler());
        let weighting = self.weighting(diffusion.sigma_data);
        let n = 4096;
        for i in 0..n {
            let draw = sampler.at(&*schedule, (f64::from(i) + 0.5) / f64::from(n));
            let weight = weighting.weight(diffusion.parameterization(), draw);
            if !(weight >= 0.0 && weight.is_finite()) {
                let expected = format!(
                    "a weighting that is finite at all noise levels of this schedule; at t = {} it is {weight}",
                    draw.level.t
                );
                return Err(TrainError::config("loss.weighting", format!("{weighting:?}"), expected));
            }
        }
        Ok(())
    }

    /// Checks that objective, times and process are compatible.
    fn check_objective(&self, diffusion: &DiffusionConfig) -> Result<(), TrainError> {
        fn wrong(key: &str, value: impl Serialize, expected: &str) -> Result<(), TrainError> {
            let value = serde_json::to_value(value).unwrap_or_default();
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            Err(TrainError::config(key, value, expected))
        }
        let bound = self.objective != ObjectiveKind::Simple;
        if bound && !diffusion.is_table() {
            let expected = "simple (optionally with loss.weighting = bound), because the others need a schedule of betas";
            return wrong("loss.objective", self.objective, expected);
        }
        match (self.objective, diffusion.learned_range()) {
            (ObjectiveKind::Simple, true) => {
                let expected = "hybrid or vlb, to train the learned variance (diffusion.variance)";
                return wrong("loss.objective", self.objective, expected);
            }
            (ObjectiveKind::Hybrid, false) => {
                let expected = "simple or vlb; hybrid needs diffusion.variance = learned-range";
                return wrong("loss.objective", self.objective, expected);
            }
            _ => {}
        }
        if bound && !matches!(self.times, TimeSampling::Uniform | TimeSampling::LossSecondMoment) {
            let expected = "uniform or loss-second-moment, because the bound is a sum over all times";
            return wrong("loss.times", self.times, expected);
        }
        if self.times.adapts() && !diffusion.is_table() {
            let expected = "another distribution; this one needs a schedule of betas";
            return wrong("loss.times", self.times, expected);
        }
        if self.continuous && (bound || self.times.adapts()) {
            let expected = "false, because the bound and loss-second-moment need times of the table";
            return wrong("loss.continuous", self.continuous, expected);
        }
        Ok(())
    }
}

/// A weighting with its parameters. `SNR = alpha²/sigma²`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weighting {
    /// 1 for the output error in any parameterization: Ho et al. 2020's simple loss for `eps`.
    Constant,
    /// `min(SNR, gamma)` for the error of `x0`, so `min(SNR, gamma)/SNR` for `eps` and `min(SNR, gamma)/(SNR + 1)` for `v`
    /// (Hang et al. 2023, arXiv:2303.09556).
    MinSnr {
        /// The SNR above which the weight is constant.
        gamma: f64,
    },
    /// `1/(k + SNR)^gamma` for the error of `eps` (Choi et al. 2022, arXiv:2204.00227).
    P2 {
        /// Strength; 0 is constant for `eps`.
        gamma: f64,
        /// Offset.
        k: f64,
    },
    /// `(sigma² + sigma_data²)/(sigma·sigma_data)²` for the error of `x0`, where `sigma` is the noise-to-signal ratio; 1 for
    /// the EDM parameterization (Karras et al. 2022, table 1).
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// `sigmoid(bias - log SNR)` for the error of `eps`, as a density over log-SNR: divided by the density of the time sampler,
    /// so that the objective does not depend on how times are drawn (Kingma & Gao 2023, arXiv:2303.00848; Hoogeboom et al.
    /// 2024, arXiv:2410.19324).
    Sigmoid {
        /// The log-SNR of weight one half.
        bias: f64,
    },
    /// The variational bound with infinitely many steps, `1/2` for the error of `eps` as a density over log-SNR, in bits: the
    /// mean loss is bits per dimension without the prior and the decoder terms (Kingma et al. 2021, arXiv:2107.00630, eq. 15;
    /// Kingma & Gao 2023). For any process and parameterization. 0 at levels cleaner than `log_snr_max`, where 8-bit values
    /// are known and the integral would diverge.
    Bound {
        /// The largest log-SNR with a nonzero weight.
        log_snr_max: f64,
    },
}

impl Weighting {
    /// The weight of `(F - target)²` at `draw`.
    pub fn weight(&self, parameterization: Parameterization, draw: Draw) -> f64 {
        let level = draw.level;
        let snr = level.snr();
        let x0_factor = parameterization.scalings(level).c_out.powi(2);
        let eps_factor = eps_factor(parameterization, level);
        match *self {
            Self::Constant => 1.0,
            Self::MinSnr { gamma } if snr > gamma => gamma * x0_factor,
            Self::MinSnr { .. } => eps_factor,
            Self::P2 { gamma, k } => eps_factor / (k + snr).powf(gamma),
            Self::Edm { sigma_data } => {
                let inverse = 1.0 / (sigma_data * sigma_data);
                // (sigma² + sigma_data²)/(sigma·sigma_data)² = 1/sigma² + 1/sigma_data².
                (snr + inverse) * x0_factor
            }
            Self::Sigmoid { bias } => {
                let eps_weight = 1.0 / (1.0 + snr * (-bias).exp());
                // For x0: SNR·sigmoid(bias - log SNR) = e^bias·sigmoid(log SNR - bias).
                let weight = if snr > 1.0 { snr * eps_weight * x0_factor } else { eps_weight * eps_factor };
                weight / draw.density
            }
            Self::Bound { log_snr_max } if snr.ln() > log_snr_max => 0.0,
            Self::Bound { .. } => eps_factor / (2.0 * LN_2 * draw.density),
        }
    }
}

/// `|eps - eps'|² / |F - target|²`.
fn eps_factor(parameterization: Parameterization, level: Level) -> f64 {
    let Level { alpha, sigma, .. } = level;
    let factor = match parameterization {
        Parameterization::Eps => 1.0,
        Parameterization::X0 => alpha / sigma,
        Parameterization::V => alpha / (alpha * alpha + sigma * sigma),
        Parameterization::Flow => alpha / (alpha + sigma),
        Parameterization::Edm { .. }
        | Parameterization::EdmArctan { .. }
        | Parameterization::Consistency { .. } => alpha * parameterization.scalings(level).c_out / sigma,
    };
    factor * factor
}

#[cfg(test)]
mod tests {
    use tweedie_core::{
        NoiseSchedule,
        schedule::{EdmSchedule, FlowSchedule, TableSchedule},
    };

    use super::*;

    const ALL: [Parameterization; 5] = [
        Parameterization::Eps,
        Parameterization::X0,
        Parameterization::V,
        Parameterization::Flow,
        Parameterization::Edm { sigma_data: 0.5 },
    ];

    fn levels() -> Vec<Level> {
        let (table, flow, edm) =
            (TableSchedule::squared_cosine(1000).unwrap(), FlowSchedule::new(), EdmSchedule::default());
        let table = [0.0, 10.0, 400.0, 700.0, 990.0].map(|t| table.level(t));
        let flow = [0.01, 0.3, 0.5, 0.9, 0.99].map(|t| flow.level(t));
        let edm = [0.01, 0.5, 1.0, 20.0].map(|s| edm.level(s));
        table.into_iter().chain(flow).chain(edm).collect()
    }

    /// Squared errors of (output, x0, eps) for a wrong output.
    fn errors(p: Parameterization, at: Level) -> (f64, f64, f64) {
        let (x0, eps) = (0.37, -1.2);
        let x = at.alpha * x0 + at.sigma * eps;
        let target = p.target(&x0, &eps, at);
        let raw = target + 0.01;
        let read = p.read(&x, &raw, at);
        ((raw - target).powi(2), (read.x0 - x0).powi(2), (read.eps - eps).powi(2))
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
    }

    #[test]
    fn weights_mean_the_same_in_every_output_space() {
        for at in levels() {
            let draw = Draw { level: at, density: 0.3 };
            let (snr, nsr) = (at.snr(), at.nsr());
            for p in ALL {
                let (output, x0, eps) = errors(p, at);
                let loss = |w: Weighting| w.weight(p, draw) * output;
                assert_eq!(Weighting::Constant.weight(p, draw), 1.0);
                let min_snr = loss(Weighting::MinSnr { gamma: 5.0 });
                assert!(close(min_snr, snr.min(5.0) * x0), "{p:?} {at:?}: {min_snr} {}", snr.min(5.0) * x0);
                assert!(close(loss(Weighting::P2 { gamma: 1.5, k: 2.0 }), eps / (2.0 + snr).powf(1.5)));
                let edm = (nsr * nsr + 0.25) / (nsr * 0.5).powi(2) * x0;
                assert!(close(loss(Weighting::Edm { sigma_data: 0.5 }), edm), "{p:?} {at:?}");
                let sigmoid = eps / (1.0 + (snr.ln() + 3.0).exp()) / 0.3;
                assert!(close(loss(Weighting::Sigmoid { bias: -3.0 }), sigmoid));
                let bound = if snr.ln() > 9.0 { 0.0 } else { eps / (2.0 * 0.3 * LN_2) };
                assert!(close(loss(Weighting::Bound { log_snr_max: 9.0 }), bound), "{p:?} {at:?}");
            }
        }
    }

    #[test]
    fn published_special_cases() {
        let table = TableSchedule::linear(1000, 1e-4, 0.02).unwrap();
        for t in [0.0, 100.0, 500.0, 999.0] {
            let level = table.level(t);
            let (snr, draw) = (level.snr(), Draw { level, density: 1.0 });
            let min_snr = |p| Weighting::MinSnr { gamma: 5.0 }.weight(p, draw);
            assert!(close(min_snr(Parameterization::Eps), snr.min(5.0) / snr));
            assert!(close(min_snr(Parameterization::V), snr.min(5.0) / (snr + 1.0)));
            assert!(close(min_snr(Parameterization::X0), snr.min(5.0)));
        }
        let level = EdmSchedule::default().level(3.0);
        let edm = Weighting::Edm { sigma_data: 0.5 };
        let p = Parameterization::Edm { sigma_data: 0.5 };
        assert!(close(edm.weight(p, Draw { level, density: 1.0 }), 1.0));
    }

    /// With Gaussian data and its exact denoiser, the loss integrates to the information about the data that the cleanest level
    /// has and the noisiest has not, for any parameterization.
    #[test]
    fn the_bound_weighting_is_the_continuous_bound() {
        let (table, flow, edm) = (
            TableSchedule::squared_cosine(1000).unwrap(),
            FlowSchedule::new().with_time_scale(1000.0).unwrap(),
            EdmSchedule::default(),
        );
        let (variance, max) = (0.3, 9.0);
        for (schedule, p, times) in [
            (&table as &dyn NoiseSchedule, Parameterization::Eps, TimeSampling::Uniform),
            (&table, Parameterization::V, TimeSampling::Uniform),
            (&flow, Parameterization::Flow, TimeSampling::Uniform),
            (&flow, Parameterization::Flow, TimeSampling::LogitNormal),
            (&edm, Parameterization::Edm { sigma_data: 0.5 }, TimeSampling::LogNormal),
        ] {
            let (mean, std) = if times == TimeSampling::LogNormal { (-1.2, 1.8) } else { (0.0, 1.5) };
            let sampler =
                TimeSampler { sampling: times, mean, std, low_discrepancy: false, continuous: true };
            let n = 40_000;
            let (mut loss, mut least) = (0.0, f64::INFINITY);
            for i in 0..n {
                let draw = sampler.at(schedule, (f64::from(i) + 0.5) / f64::from(n));
                let at = draw.level;
                let weight = Weighting::Bound { log_snr_max: max }.weight(p, draw);
                // The remaining error of eps, converted to the output's space.
                let unknown = variance * at.snr() / (1.0 + variance * at.snr());
                loss += weight * unknown / eps_factor(p, at) / f64::from(n);
                least = least.min(at.snr());
            }
            let information = 0.5 * ((1.0 + variance * max.exp()) / (1.0 + variance * least)).log2();
            assert!((loss / information - 1.0).abs() < 0.01, "{p:?} {times:?}: {loss} {information}");
        }
    }

    #[test]
    fn weights_are_finite_at_zero_terminal_snr() {
        let table = TableSchedule::squared_cosine(1000).unwrap().rescale_zero_terminal_snr().unwrap();
        let draw = TimeSampler {
            sampling: TimeSampling::Uniform,
            mean: 0.0,
            std: 1.0,
            low_discrepancy: false,
            continuous: false,
        }
        .at(&table, 0.9999);
        assert_eq!(draw.level.alpha, 0.0);
        for w in [
            Weighting::Constant,
            Weighting::MinSnr { gamma: 5.0 },
            Weighting::P2 { gamma: 1.0, k: 1.0 },
            Weighting::Edm { sigma_data: 0.5 },
            Weighting::Sigmoid { bias: 0.0 },
            Weighting::Bound { log_snr_max: 13.3 },
        ] {
            let weight = w.weight(Parameterization::V, draw);
            assert!(weight.is_finite() && weight >= 0.0, "{w:?}: {weight}");
        }
        assert!(!Weighting::Edm { sigma_data: 0.5 }.weight(Parameterization::Eps, draw).is_finite());
    }
}
