//! Keys that several classes share: betas, prediction type, timestep spacing, clamping.

use std::sync::Arc;

use tweedie_core::{
    Level, NoiseSchedule, Parameterization, Plan,
    plan::Final,
    schedule::{Interpolation, ScheduleError, TableSchedule},
    spacing::{self, Spacing, SpacingError},
};

use super::{Clamp, ClampRange, Process, keys::Keys};
use crate::error::HubError;

/// Limit of the number of betas; published tables have a thousand.
const MOST_TIMES: usize = 1 << 20;

/// How a class differs in its use of betas.
pub(super) struct BetaRules {
    pub(super) start: f64,
    pub(super) end: f64,
    /// The class's values of `beta_schedule`.
    pub(super) curves: &'static [(&'static str, Curve)],
    /// The class's values of `prediction_type`.
    pub(super) predictions: &'static [(&'static str, Parameterization)],
    pub(super) interpolation: Interpolation,
    /// Whether the class has the key `rescale_betas_zero_snr`, and the noise at its last timestep.
    pub(super) rescaled: Rescaled,
}

/// The last `alpha` of rescaled betas in some classes: diffusers sets its square to 2^-24.
pub(super) const FINITE_ALPHA: f64 = 1.0 / 4096.0;

/// The noise at the last timestep of betas that were rescaled to zero terminal SNR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rescaled {
    /// The class does not support rescaling.
    Never,
    /// Pure noise.
    PureNoise,
    /// A finite `sigma/alpha`, about 4096, even if the timestep before it is noisier.
    Finite,
}

/// A class's process.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) process: Process,
    pub(super) steps: usize,
    /// The noisiest level, if it differs from the schedule's.
    pub(super) noisiest: Option<Level>,
    /// The process of the betas, if it differs from the sampler's.
    pub(super) vp: Option<Arc<dyn NoiseSchedule>>,
}

/// The levels of the betas, whatever the sampler's process is.
pub(super) fn vp(table: &Table) -> impl Fn(f64) -> Level + '_ {
    move |t| table.vp.as_ref().map_or_else(|| table.level(t), |schedule| schedule.level(t))
}

/// Stretches a flow's levels so that the last is `terminal`.
pub(super) fn stretch(sigmas: &mut [f64], terminal: f64) -> Result<(), String> {
    let last = sigmas.last().copied().unwrap_or(1.0);
    let factor = (1.0 - last) / (1.0 - terminal);
    if !(factor > 0.0 && factor.is_finite()) {
        return Err(format!(
            "`shift_terminal` = {terminal}: noise levels that end at {last} cannot be stretched to it"
        ));
    }
    sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) / factor);
    Ok(())
}

impl Table {
    /// The level of a time.
    pub(super) fn level(&self, t: f64) -> Level {
        match self.noisiest {
            Some(noisiest) if t >= noisiest.t => noisiest,
            _ => self.process.schedule.level(t),
        }
    }

    /// The level of a noise-to-signal ratio.
    pub(super) fn at_nsr(&self, nsr: f64) -> Level {
        match self.noisiest {
            Some(noisiest) if nsr >= noisiest.nsr() => noisiest,
            _ => self.process.schedule.at_nsr(nsr),
        }
    }

    /// The noisiest level of the table.
    pub(super) fn noisiest(&self) -> Level {
        self.level(self.steps as f64 - 1.0)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Curve {
    Linear,
    ScaledLinear,
    SquaredCosine,
    Sigmoid,
    Laplace,
    Exponential,
}

pub(super) const COMMON_CURVES: &[(&str, Curve)] = &[
    ("linear", Curve::Linear),
    ("scaled_linear", Curve::ScaledLinear),
    ("squaredcos_cap_v2", Curve::SquaredCosine),
];

pub(super) const EPS_AND_V: &[(&str, Parameterization)] =
    &[("epsilon", Parameterization::Eps), ("v_prediction", Parameterization::V)];

pub(super) const EPS_X0_V: &[(&str, Parameterization)] = &[
    ("epsilon", Parameterization::Eps),
    ("sample", Parameterization::X0),
    ("v_prediction", Parameterization::V),
];

/// Reads betas and `prediction_type`.
pub(super) fn process(keys: &mut Keys, rules: &BetaRules) -> Result<Table, HubError> {
    process_by(keys, rules, "linear")
}

/// The same with another default of `beta_schedule`.
pub(super) fn process_by(keys: &mut Keys, rules: &BetaRules, curve: &str) -> Result<Table, HubError> {
    process_shifted(keys, rules, curve, 1.0)
}

/// The same with `alpha²/sigma²` of every level divided by `shift` before the table is rescaled.
pub(super) fn process_shifted(
    keys: &mut Keys,
    rules: &BetaRules,
    curve: &str,
    shift: f64,
) -> Result<Table, HubError> {
    let (schedule, finite) = table(keys, rules, curve, shift)?;
    let steps = schedule.betas().len();
    let parameterization = keys.choice("prediction_type", "epsilon", rules.predictions)?;
    let nsr = (FINITE_ALPHA.powi(-2) - 1.0).sqrt();
    let noisiest = finite.then(|| Level::variance_preserving(nsr, steps as f64 - 1.0));
    let process = Process { schedule: Arc::new(schedule), parameterization };
    Ok(Table { process, steps, noisiest, vp: None })
}

fn table(
    keys: &mut Keys,
    rules: &BetaRules,
    curve: &str,
    shift: f64,
) -> Result<(TableSchedule, bool), HubError> {
    let mut steps = keys.take("num_train_timesteps", 1000usize)?;
    if steps > MOST_TIMES {
        return Err(keys.error("num_train_timesteps", format!("{steps}: expected at most {MOST_TIMES}")));
    }
    let start = keys.take("beta_start", rules.start)?;
    let end = keys.take("beta_end", rules.end)?;
    let given: Option<Vec<f64>> = keys.take("trained_betas", None)?;
    let mut key = "beta_schedule";
    let made = if let Some(betas) = given {
        key = "trained_betas";
        if betas.len() < steps {
            let reason = format!("{} betas, but num_train_timesteps = {steps}", betas.len());
            return Err(keys.error(key, reason));
        }
        steps = steps.max(betas.len());
        TableSchedule::from_betas(&betas)
    } else {
        match keys.choice("beta_schedule", curve, rules.curves)? {
            Curve::Linear => TableSchedule::linear(steps, start, end),
            Curve::ScaledLinear => TableSchedule::scaled_linear(steps, start, end),
            Curve::SquaredCosine => TableSchedule::squared_cosine(steps),
            Curve::Sigmoid => TableSchedule::sigmoid(steps, start, end),
            Curve::Laplace => from_alpha_bar(steps, laplace),
            Curve::Exponential => from_alpha_bar(steps, |r| (-12.0 * r).exp()),
        }
    };
    let mut schedule = made.map_err(|e| keys.error(key, e.to_string()))?;
    if schedule.betas().len() != steps {
        return Err(keys.error("num_train_timesteps", format!("{steps} is out of range")));
    }
    if shift != 1.0 {
        let shifted = |a: &f64| a / (shift + (1.0 - shift) * a);
        let products: Vec<f64> = schedule.alphas_cumprod().iter().map(shifted).collect();
        schedule = TableSchedule::from_alphas_cumprod(&products)
            .map_err(|e| keys.error("snr_shift_scale", e.to_string()))?;
    }
    let rescaled = rules.rescaled != Rescaled::Never && keys.flag("rescale_betas_zero_snr", false)?;
    if rescaled {
        schedule = schedule
            .rescale_zero_terminal_snr()
            .map_err(|e| keys.error("rescale_betas_zero_snr", e.to_string()))?;
    }
    let finite = rescaled && rules.rescaled == Rescaled::Finite;
    Ok((schedule.with_interpolation(rules.interpolation), finite))
}

/// Betas of at most 0.999 whose products follow `alpha_bar` as a function of the relative time.
fn from_alpha_bar(steps: usize, alpha_bar: impl Fn(f64) -> f64) -> Result<TableSchedule, ScheduleError> {
    let at = |i: usize| alpha_bar(i as f64 / steps as f64);
    let betas: Vec<f64> = (0..steps).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999)).collect();
    TableSchedule::from_betas(&betas)
}

/// `lambda` follows the quantiles of a Laplace distribution. Hang & Gu 2024, arXiv:2407.03297.
fn laplace(r: f64) -> f64 {
    let lambda = -0.5 * (0.5 - r).signum() * (1.0 - 2.0 * (0.5 - r).abs() + 1e-6).ln();
    let snr = lambda.exp();
    (snr / (1.0 + snr)).sqrt()
}

/// `timestep_spacing` and `steps_offset`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableSpacing {
    pub(super) rule: TableRule,
    pub(super) offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableRule {
    Leading,
    Trailing,
    Linspace,
}

impl TableSpacing {
    pub(super) fn read(keys: &mut Keys, default: &str) -> Result<Self, HubError> {
        let rules = [
            ("leading", TableRule::Leading),
            ("trailing", TableRule::Trailing),
            ("linspace", TableRule::Linspace),
        ];
        let rule = keys.choice("timestep_spacing", default, &rules)?;
        Ok(Self { rule, offset: keys.take("steps_offset", 0)? })
    }

    /// Integer timesteps including the cleanest, as in DDPM and DDIM.
    pub(super) fn times(&self, table: usize, n: usize) -> Result<Vec<f64>, SpacingError> {
        match self.rule {
            TableRule::Leading => spacing::leading(table, n, self.offset),
            TableRule::Trailing => spacing::trailing(table, n),
            TableRule::Linspace => spacing::linspace(table, n),
        }
    }

    /// The equivalent spacing for any solver.
    pub(super) fn general(&self) -> Spacing {
        match self.rule {
            TableRule::Leading => Spacing::Leading { offset: self.offset },
            TableRule::Trailing => Spacing::Trailing,
            TableRule::Linspace => Spacing::Linspace,
        }
    }
}

/// `use_karras_sigmas` and similar keys, which space noise levels instead of timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoiseSpacing {
    Karras,
    Exponential,
    Beta,
}

impl NoiseSpacing {
    pub(super) fn read(keys: &mut Keys) -> Result<Option<Self>, HubError> {
        let switches = [
            ("use_karras_sigmas", Self::Karras),
            ("use_exponential_sigmas", Self::Exponential),
            ("use_beta_sigmas", Self::Beta),
        ];
        let mut chosen = None;
        for (key, spacing) in switches {
            if keys.flag(key, false)? && chosen.replace(spacing).is_some() {
                return Err(
                    keys.error(key, "another spacing of noise levels is also true; at most one is allowed")
                );
            }
        }
        Ok(chosen)
    }

    /// `n` values of `sigma/alpha` from `max` down to `min`.
    pub(super) fn nsrs(self, min: f64, max: f64, n: usize) -> Result<Vec<f64>, SpacingError> {
        match self {
            Self::Karras => spacing::karras(min, max, 7.0, n),
            Self::Exponential => spacing::exponential(min, max, n),
            Self::Beta => spacing::beta(min, max, 0.6, 0.6, n),
        }
    }

    pub(super) fn general(self) -> Spacing {
        match self {
            Self::Karras => Spacing::Karras { rho: 7.0 },
            Self::Exponential => Spacing::Exponential,
            Self::Beta => Spacing::Beta { a: 0.6, b: 0.6 },
        }
    }
}

/// `final_sigmas_type`.
pub(super) fn final_level(keys: &mut Keys, schedule: &dyn NoiseSchedule) -> Result<Final, HubError> {
    let cleanest = Final::Level(schedule.level(0.0));
    keys.choice("final_sigmas_type", "zero", &[("zero", Final::Clean), ("sigma_min", cleanest)])
}

/// `variance_type` of classes that ignore a learned variance: only the first half of the network's output is used.
pub(super) fn learned_variance(keys: &mut Keys) -> Result<(), HubError> {
    keys.choice("variance_type", "", &[("", ()), ("learned", ()), ("learned_range", ())])
}

/// A plan through `levels` to the end.
pub(super) fn plan_to(
    schedule: Arc<dyn NoiseSchedule>,
    mut levels: Vec<Level>,
    end: Final,
) -> Result<Plan, String> {
    match end {
        Final::Clean => levels.push(Level::CLEAN),
        Final::Level(level) => levels.push(level),
        Final::LastTime => {}
    }
    Plan::through(schedule, &levels).map_err(|e| e.to_string())
}

/// `clip_sample` and `clip_sample_range`.
pub(super) fn clip(keys: &mut Keys, default: bool, keep_eps: bool) -> Result<Option<Clamp>, HubError> {
    let clipped = keys.flag("clip_sample", default)?;
    let limit: f64 = keys.take("clip_sample_range", 1.0)?;
    if clipped && (limit.is_nan() || limit <= 0.0) {
        return Err(keys.error("clip_sample_range", format!("{limit}: expected a value > 0")));
    }
    Ok(clipped.then_some(Clamp { range: ClampRange::Static { limit }, keep_eps }))
}

/// `thresholding` and its keys.
pub(super) fn threshold(keys: &mut Keys, keep_eps: bool) -> Result<Option<Clamp>, HubError> {
    let dynamic = keys.flag("thresholding", false)?;
    let ratio = keys.take("dynamic_thresholding_ratio", 0.995)?;
    let max: f64 = keys.take("sample_max_value", 1.0)?;
    if !dynamic {
        return Ok(None);
    }
    if !(0.0..=1.0).contains(&ratio) {
        return Err(keys.error("dynamic_thresholding_ratio", format!("{ratio}: expected a value in 0..=1")));
    }
    if max.is_nan() || max < 1.0 {
        return Err(keys.error("sample_max_value", format!("{max}: expected a value ≥ 1")));
    }
    Ok(Some(Clamp { range: ClampRange::Dynamic { ratio, max }, keep_eps }))
}

/// Both; thresholding takes precedence.
pub(super) fn clamp(keys: &mut Keys, clip: bool, keep_eps: bool) -> Result<Option<Clamp>, HubError> {
    let clipped = self::clip(keys, clip, keep_eps)?;
    Ok(threshold(keys, keep_eps)?.or(clipped))
}
