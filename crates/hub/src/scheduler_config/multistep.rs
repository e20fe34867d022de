//! The levels of the multistep schedulers DPM-Solver, DEIS, UniPC and SA-Solver. They share most keys, and differ in
//! rounding and in the level at which they end.

use std::sync::Arc;

use tweedie_core::{
    Level, Parameterization, Plan,
    plan::Final,
    schedule::{FlowSchedule, Interpolation},
    spacing::{self, Spacing, SpacingError},
};

use super::{
    betas::{self, BetaRules, COMMON_CURVES, NoiseSpacing, Rescaled, Table, TableRule, TableSpacing},
    keys::Keys,
};
use crate::error::HubError;

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    predictions: &[
        ("epsilon", Parameterization::Eps),
        ("sample", Parameterization::X0),
        ("v_prediction", Parameterization::V),
        ("flow_prediction", Parameterization::Flow),
    ],
    interpolation: Interpolation::Nsr,
    rescaled: Rescaled::Never,
};

/// Tolerance below an integer within which a time counts as that integer.
const WHOLE: f64 = 1e-6;

/// The keys and rules of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct GridRules {
    /// `rescale_betas_zero_snr`.
    pub(super) rescaled: bool,
    /// `timestep_spacing` and `steps_offset`; otherwise `linspace`.
    pub(super) spaced: bool,
    /// `use_lu_lambdas`, and fractional times for Karras' spacing of the squared cosine.
    pub(super) lu: bool,
    /// `lambda_min_clipped`.
    pub(super) clipped: bool,
    /// `final_sigmas_type`; otherwise the cleanest level.
    pub(super) ends: bool,
    /// The class spaces flows like UniPC, and ends at its own last level for spaced levels.
    pub(super) unipc: bool,
    /// If the plan ends at the cleanest level, that is the last of the spaced levels again.
    pub(super) repeats: bool,
}

#[derive(Clone, Copy, Debug)]
enum LevelSpacing {
    Noise(NoiseSpacing),
    /// `use_lu_lambdas`.
    UniformLambda,
}

/// `use_flow_sigmas` and its keys.
#[derive(Clone, Copy, Debug)]
struct Flow {
    shift: f64,
    dynamic: bool,
    /// `time_shift_type`: whether `mu` is the logarithm of the shift.
    exponential: bool,
    mu: Option<f64>,
    terminal: Option<f64>,
}

/// The levels of one configuration.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) table: Table,
    /// Number of timesteps that remain after `lambda_min_clipped`.
    left: usize,
    times: TableSpacing,
    noise: Option<LevelSpacing>,
    flow: Option<Flow>,
    /// `sigma_min` and `sigma_max` of UniPC.
    range: (Option<f64>, Option<f64>),
    /// Whether timesteps of spaced noise levels are rounded before they are truncated.
    rounded: bool,
    /// Whether the last step ends at a clean sample.
    pub(super) clean: bool,
    rules: GridRules,
}

impl Grid {
    pub(super) fn read(keys: &mut Keys, rules: GridRules) -> Result<Self, HubError> {
        let rescaled = if rules.rescaled { Rescaled::Finite } else { Rescaled::Never };
        let mut table = betas::process(keys, &BetaRules { rescaled, ..BETAS })?;
        let times = match rules.spaced {
            true => TableSpacing::read(keys, "linspace")?,
            false => TableSpacing { rule: TableRule::Linspace, offset: 0 },
        };
        let lu = rules.lu && keys.flag("use_lu_lambdas", false)?;
        let noise = match NoiseSpacing::read(keys)? {
            // Karras' spacing takes precedence in diffusers, then Lu's.
            Some(NoiseSpacing::Karras) => Some(LevelSpacing::Noise(NoiseSpacing::Karras)),
            _ if lu => Some(LevelSpacing::UniformLambda),
            other => other.map(LevelSpacing::Noise),
        };
        let cosine: String = keys.take("beta_schedule", "linear".into())?;
        let exact =
            matches!(noise, Some(LevelSpacing::Noise(NoiseSpacing::Exponential | NoiseSpacing::Beta)));
        let rounded = !(exact || rules.lu && cosine == "squaredcos_cap_v2");
        let flow = flow(keys, rules, &mut table)?;
        let karras = matches!(noise, Some(LevelSpacing::Noise(NoiseSpacing::Karras)));
        if flow.is_some() && noise.is_some() && !(rules.unipc && karras) {
            let reason = "cannot be combined with a spacing of noise levels";
            return Err(keys.error("use_flow_sigmas", reason));
        }
        let lambda_min = if rules.clipped {
            keys.number("lambda_min_clipped", f64::NEG_INFINITY)?
        } else {
            f64::NEG_INFINITY
        };
        let clipped = {
            let vp = betas::vp(&table);
            (0..table.steps).filter(|&t| vp(t as f64).lambda() < lambda_min).count()
        };
        if clipped == table.steps {
            return Err(keys.error("lambda_min_clipped", format!("{lambda_min} excludes all timesteps")));
        }
        let clean = rules.ends
            && keys.choice("final_sigmas_type", "zero", &[("zero", true), ("sigma_min", false)])?;
        let range = match rules.unipc {
            true => (keys.take("sigma_min", None)?, keys.take("sigma_max", None)?),
            false => (None, None),
        };
        let left = table.steps - clipped;
        Ok(Self { left, table, times, noise, flow, range, rounded, clean, rules })
    }

    /// Sets `mu`, which depends on the image size.
    pub(super) fn set_mu(&mut self, mu: f64) -> Result<(), String> {
        match &mut self.flow {
            Some(flow) if flow.dynamic => {
                flow.mu = Some(mu);
                Ok(())
            }
            _ => Err("`mu` can only be set with `use_dynamic_shifting` and `use_flow_sigmas`".into()),
        }
    }

    pub(super) fn plan(&self, steps: usize) -> Result<Plan, String> {
        let mut levels = self.levels(steps)?;
        if !self.clean {
            levels.push(match (levels.last(), self.noise.is_some() || self.flow.is_some()) {
                (Some(&last), true) if self.rules.repeats => last,
                _ => self.cleanest(),
            });
        }
        // A step of length zero has no direction, and so no past.
        for i in 1..levels.len() {
            if levels[i].lambda() == levels[i - 1].lambda() {
                levels[i].sigma *= 1.0 - 1e-12;
            }
        }
        let end = if self.clean { Final::Clean } else { Final::LastTime };
        let mut plan = betas::plan_to(self.table.process.schedule.clone(), levels, end)?;
        plan.start_std = 1.0;
        Ok(plan)
    }

    /// The plan upwards, to the noisiest level. Repeated timesteps are left out, though not their levels, so the plan may end
    /// early.
    pub(super) fn inverse_plan(&self, steps: usize) -> Result<Plan, String> {
        let text = |e: SpacingError| e.to_string();
        let levels: Vec<Level> = if self.noise.is_some() {
            let mut levels = self.levels(steps)?;
            levels.reverse();
            let last = levels.last().copied();
            levels.extend(last);
            levels
        } else {
            let noisiest = self.left - 1;
            let times: Vec<f64> = match self.times.rule {
                TableRule::Linspace => {
                    let mut times = spacing::linspace(self.left, steps + 1).map_err(text)?;
                    times.reverse();
                    times.truncate(steps);
                    times
                }
                TableRule::Leading => {
                    let (offset, ratio) = (self.times.offset, self.left / (steps + 1));
                    let (time, last) = (offset + ratio * steps.saturating_sub(1), self.table.steps - 1);
                    if steps == 0 || time > last {
                        let error = SpacingError::Offset { offset, steps, time, last };
                        return Err(text(if steps == 0 { SpacingError::NoSteps } else { error }));
                    }
                    (0..steps).map(|i| (i * ratio + offset) as f64).collect()
                }
                TableRule::Trailing => {
                    let mut times = self.trailing(steps).map_err(text)?;
                    times.reverse();
                    times
                }
            };
            times.into_iter().chain([noisiest as f64]).map(|t| self.table.level(t)).collect()
        };
        let mut times = Vec::new();
        for level in levels.iter().take(levels.len().saturating_sub(1)) {
            // diffusers removes duplicates before it truncates timesteps.
            if !(self.rounded && times.contains(&level.t)) {
                times.push(level.t);
            }
        }
        let mut kept: Vec<Level> = levels.into_iter().take(times.len() + 1).collect();
        kept.iter_mut().zip(times).for_each(|(level, t)| level.t = t);
        let mut plan =
            Plan::through(self.table.process.schedule.clone(), &kept).map_err(|e| e.to_string())?;
        plan.start_std = 1.0;
        Ok(plan)
    }

    /// The end of plans that do not end clean: the table's cleanest level, also for flows.
    fn cleanest(&self) -> Level {
        let nsr = betas::vp(&self.table)(0.0).nsr();
        match self.flow {
            Some(_) => Level { alpha: 1.0 - nsr, sigma: nsr, t: nsr * self.table.steps as f64 },
            None => self.table.level(0.0),
        }
    }

    fn levels(&self, n: usize) -> Result<Vec<Level>, String> {
        let table = &self.table;
        let text = |e: SpacingError| e.to_string();
        if let (Some(flow), None) = (self.flow, self.noise) {
            return self.flow_levels(flow, n);
        }
        let Some(noise) = self.noise else {
            let times = match self.times.rule {
                TableRule::Leading => spacing::leading_without_cleanest(self.left, n, self.times.offset),
                // For groups, whose levels may repeat.
                TableRule::Linspace if !self.rules.spaced && n == self.left => {
                    let times = spacing::linspace_fractional(self.left, n + 1);
                    times.map(|t| t.into_iter().take(n).map(f64::round_ties_even).collect())
                }
                TableRule::Linspace => spacing::linspace_without_cleanest(self.left, n),
                TableRule::Trailing => self.trailing(n),
            };
            return Ok(times.map_err(text)?.into_iter().map(|t| table.level(t)).collect());
        };
        let vp = betas::vp(table);
        let min = self.range.0.unwrap_or_else(|| vp(0.0).nsr());
        let max = self.range.1.unwrap_or_else(|| vp(table.steps as f64 - 1.0).nsr());
        let nsrs = match noise {
            LevelSpacing::Noise(noise) => noise.nsrs(min, max, n),
            LevelSpacing::UniformLambda => spacing::exponential(min, max, n),
        };
        let level = |nsr: f64| {
            if self.flow.is_some() {
                return self.flow_level(nsr / (nsr + 1.0));
            }
            let level = table.at_nsr(nsr);
            // The network gets integer times: rounded or truncated. Times that are integers except for rounding errors stay.
            let t = if self.rounded { level.t.round_ties_even() } else { (level.t + WHOLE).floor() };
            Level { t, ..level }
        };
        Ok(nsrs.map_err(text)?.into_iter().map(level).collect())
    }

    fn flow_level(&self, sigma: f64) -> Level {
        Level { alpha: 1.0 - sigma, sigma, t: (sigma * self.table.steps as f64).floor() }
    }

    fn flow_levels(&self, flow: Flow, n: usize) -> Result<Vec<Level>, String> {
        if n == 0 {
            return Err(SpacingError::NoSteps.to_string());
        }
        // Uses the same floating-point steps as numpy's linspace, because timesteps are truncated.
        let last = 1.0 / self.table.steps as f64;
        let step = (last - 1.0) / n as f64;
        let ramp = |i: usize| if i == n { last } else { i as f64 * step + 1.0 };
        let mut sigmas: Vec<f64> = if self.rules.unipc {
            (0..n).map(ramp).collect()
        } else {
            (1..=n).rev().map(|i| 1.0 - ramp(i)).collect()
        };
        let shift = match flow.mu {
            Some(mu) if flow.exponential => mu.exp(),
            Some(mu) => mu,
            None if flow.dynamic && self.rules.unipc => {
                return Err("`use_dynamic_shifting` needs `mu`, which depends on the image size".into());
            }
            None => flow.shift,
        };
        sigmas.iter_mut().for_each(|s| *s = spacing::shift(*s, shift));
        if let Some(terminal) = flow.terminal {
            betas::stretch(&mut sigmas, terminal)?;
        }
        if let Some(first) = sigmas.first_mut().filter(|s| self.rules.unipc && (**s - 1.0).abs() < 1e-6) {
            *first -= 1e-6;
        }
        Ok(sigmas.into_iter().map(|s| self.flow_level(s)).collect())
    }

    /// A clipped table ends early, with the step size of the full one.
    fn trailing(&self, n: usize) -> Result<Vec<f64>, SpacingError> {
        let (all, left) = (self.table.steps as f64, self.left as f64);
        let mut times = spacing::trailing(self.table.steps, n)?;
        if left < all {
            let step = all / n as f64;
            times.truncate((left / step).ceil() as usize);
            for (i, t) in times.iter_mut().enumerate() {
                *t = (left - i as f64 * step).round_ties_even() - 1.0;
            }
        }
        Ok(times)
    }

    pub(super) fn general(&self) -> Spacing {
        match (self.noise, self.flow) {
            (Some(LevelSpacing::Noise(noise)), _) => noise.general(),
            (Some(LevelSpacing::UniformLambda), _) => Spacing::UniformLambda,
            (None, Some(flow)) => Spacing::Shifted { shift: flow.shift },
            (None, None) => self.times.general(),
        }
    }
}

/// `use_flow_sigmas`, `flow_shift`, `use_dynamic_shifting`, `time_shift_type`, `shift_terminal`. The process becomes that
/// of a flow.
fn flow(keys: &mut Keys, rules: GridRules, table: &mut Table) -> Result<Option<Flow>, HubError> {
    let used = keys.flag("use_flow_sigmas", false)?;
    let shift: f64 = keys.take("flow_shift", 1.0)?;
    let dynamic = keys.flag("use_dynamic_shifting", false)?;
    let exponential =
        keys.choice("time_shift_type", "exponential", &[("exponential", true), ("linear", false)])?;
    let terminal = if rules.unipc { keys.take("shift_terminal", None::<f64>)? } else { None };
    let terminal = terminal.filter(|t| *t != 0.0);
    let parameterization = table.process.parameterization;
    if !used {
        if parameterization == Parameterization::Flow {
            let reason = "\"flow_prediction\" needs `use_flow_sigmas`";
            return Err(keys.error("prediction_type", reason));
        }
        if terminal.is_some() {
            return Err(keys.error("shift_terminal", "needs `use_flow_sigmas`"));
        }
        if dynamic {
            return Err(keys.error("use_dynamic_shifting", "needs `use_flow_sigmas`"));
        }
        return Ok(None);
    }
    if parameterization == Parameterization::V {
        let reason = "\"v_prediction\" cannot be used with `use_flow_sigmas`";
        return Err(keys.error("prediction_type", reason));
    }
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(keys.error("flow_shift", format!("{shift}: expected a finite number > 0")));
    }
    if !rules.unipc && !exponential {
        return Err(keys.error("time_shift_type", "\"linear\" is not supported; expected exponential"));
    }
    let schedule = FlowSchedule::new()
        .with_time_scale(table.steps as f64)
        .map_err(|e| keys.error("num_train_timesteps", e.to_string()))?;
    table.vp = Some(std::mem::replace(&mut table.process.schedule, Arc::new(schedule)));
    Ok(Some(Flow { shift, dynamic, exponential, mu: None, terminal }))
}
