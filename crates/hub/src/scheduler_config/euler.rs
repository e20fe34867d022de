//! `EulerDiscreteScheduler`: Euler's method in `sigma/alpha`.

use tweedie_core::{
    Level, NoiseSchedule, Plan,
    plan::Final,
    schedule::Interpolation,
    spacing::{self, Spacing},
};

use super::{
    Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, NoiseSpacing, TableRule, TableSpacing},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    interpolation: Interpolation::Nsr,
    // diffusers keeps the first noise level finite.
    rescaled_end: Some(1.0 / 16_777_216.0),
};

/// The levels of Euler's and Heun's schedulers.
#[derive(Debug)]
pub(super) struct SigmaSpacing {
    pub(super) table: usize,
    pub(super) times: TableSpacing,
    pub(super) noise: Option<NoiseSpacing>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
    /// `interpolation_type = "log_linear"`: the levels' logarithms are evenly spaced, the times are not
    /// touched.
    pub(super) log_linear: bool,
}

impl SigmaSpacing {
    pub(super) fn levels(&self, schedule: &dyn NoiseSchedule, n: usize) -> Result<Vec<Level>, String> {
        let text = |e: spacing::SpacingError| e.to_string();
        let times = match self.times.rule {
            TableRule::Leading => spacing::leading(self.table, n, self.times.offset),
            TableRule::Trailing => spacing::trailing(self.table, n),
            TableRule::Linspace => spacing::linspace_fractional(self.table, n),
        };
        let mut levels: Vec<Level> = times.map_err(text)?.into_iter().map(|t| schedule.level(t)).collect();
        if self.log_linear {
            let ends = (schedule.level(0.0).nsr(), schedule.level(self.table as f64 - 1.0).nsr());
            let nsrs = spacing::exponential(ends.0, ends.1, n + 1).map_err(text)?;
            for (level, nsr) in levels.iter_mut().zip(nsrs) {
                *level = Level::variance_preserving(nsr, level.t);
            }
        }
        let Some(noise) = self.noise else { return Ok(levels) };
        let max = self.max.or(levels.first().map(|l| l.nsr())).unwrap_or_default();
        let min = self.min.or(levels.last().map(|l| l.nsr())).unwrap_or_default();
        if n == 1 {
            // Both ends are one level.
            return Ok(vec![schedule.at_nsr(max)]);
        }
        Ok(noise.nsrs(min, max, n).map_err(text)?.into_iter().map(|nsr| schedule.at_nsr(nsr)).collect())
    }

    /// The plan; the first sample has the standard deviation `sqrt(sigma² + 1)` with `leading` and `sigma`
    /// otherwise, before `x` is divided by `sqrt(sigma² + 1)`.
    pub(super) fn plan(&self, process: &Process, n: usize, end: Final) -> Result<Plan, String> {
        let levels = self.levels(&*process.schedule, n)?;
        let mut plan = betas::plan_to(process.schedule.clone(), levels, end)?;
        plan.start_std = if self.times.rule == TableRule::Leading { 1.0 } else { plan.start.sigma };
        Ok(plan)
    }

    pub(super) fn general(&self) -> Spacing {
        match self.noise {
            Some(noise) => noise.general(),
            None if self.times.rule == TableRule::Linspace => Spacing::LinspaceFractional,
            None => self.times.general(),
        }
    }
}

#[derive(Debug)]
struct Euler {
    process: Process,
    spacing: SigmaSpacing,
    end: Final,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let (process, table) = betas::process(keys, &BETAS)?;
    let times = TableSpacing::read(keys, "linspace")?;
    let noise = NoiseSpacing::read(keys)?;
    let (min, max) = (keys.take("sigma_min", None)?, keys.take("sigma_max", None)?);
    let log_linear =
        keys.choice("interpolation_type", "linear", &[("linear", false), ("log_linear", true)])?;
    keys.only("timestep_type", "discrete".to_string(), "discrete".to_string())?;
    let end = betas::final_level(keys, &*process.schedule)?;
    let spacing = SigmaSpacing { table, times, noise, min, max, log_linear };
    Ok(Box::new(Euler { process, spacing, end }))
}

impl Scheduler for Euler {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "ddim"
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.spacing.plan(&self.process, steps, self.end)
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
