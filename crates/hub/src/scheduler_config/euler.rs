//! `EulerDiscreteScheduler`: Euler's method in `sigma/alpha`.

use tweedie_core::{
    Level, Plan,
    plan::Final,
    schedule::Interpolation,
    spacing::{self, Spacing},
};

use super::{
    Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, NoiseSpacing, Rescaled, Table, TableRule, TableSpacing},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    interpolation: Interpolation::Nsr,
    rescaled: Rescaled::Finite,
};

/// The levels of Euler's and Heun's schedulers.
#[derive(Debug)]
pub(super) struct SigmaSpacing {
    pub(super) times: TableSpacing,
    pub(super) noise: Option<NoiseSpacing>,
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
    /// `interpolation_type = "log_linear"`: the levels' logarithms are evenly spaced down to the table's
    /// cleanest, where the plan ends; the times are not touched.
    pub(super) log_linear: bool,
}

impl SigmaSpacing {
    fn levels(&self, table: &Table, n: usize) -> Result<Vec<Level>, String> {
        let text = |e: spacing::SpacingError| e.to_string();
        let times = match self.times.rule {
            TableRule::Leading => spacing::leading(table.steps, n, self.times.offset),
            TableRule::Trailing => spacing::trailing(table.steps, n),
            TableRule::Linspace => spacing::linspace_fractional(table.steps, n),
        };
        let mut levels: Vec<Level> = times.map_err(text)?.into_iter().map(|t| table.level(t)).collect();
        if self.log_linear {
            let ends = (table.level(0.0).nsr(), table.noisiest().nsr());
            let nsrs = spacing::exponential(ends.0, ends.1, n + 1).map_err(text)?;
            for (level, nsr) in levels.iter_mut().zip(nsrs) {
                *level = Level::variance_preserving(nsr, level.t);
            }
        }
        let Some(noise) = self.noise else { return Ok(levels) };
        let max = self.max.or(levels.first().map(|l| l.nsr())).unwrap_or_default();
        let last = if self.log_linear { Some(table.level(0.0)) } else { levels.last().copied() };
        let min = self.min.or(last.map(|l| l.nsr())).unwrap_or_default();
        if n == 1 {
            // Both ends are one level.
            return Ok(vec![table.at_nsr(max)]);
        }
        Ok(noise.nsrs(min, max, n).map_err(text)?.into_iter().map(|nsr| table.at_nsr(nsr)).collect())
    }

    /// The plan; the first sample has the standard deviation `sqrt(sigma² + 1)` with `leading` and `sigma`
    /// otherwise, before `x` is divided by `sqrt(sigma² + 1)`.
    pub(super) fn plan(&self, table: &Table, n: usize, end: Final) -> Result<Plan, String> {
        let levels = self.levels(table, n)?;
        let end = if self.log_linear && self.noise.is_none() { Final::Level(table.level(0.0)) } else { end };
        let mut plan = betas::plan_to(table.process.schedule.clone(), levels, end)?;
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
    table: Table,
    spacing: SigmaSpacing,
    end: Final,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let table = betas::process(keys, &BETAS)?;
    let times = TableSpacing::read(keys, "linspace")?;
    let noise = NoiseSpacing::read(keys)?;
    let (min, max) = (keys.take("sigma_min", None)?, keys.take("sigma_max", None)?);
    let log_linear =
        keys.choice("interpolation_type", "linear", &[("linear", false), ("log_linear", true)])?;
    keys.only("timestep_type", "discrete".to_string(), "discrete".to_string())?;
    let end = betas::final_level(keys, &*table.process.schedule)?;
    let spacing = SigmaSpacing { times, noise, min, max, log_linear };
    Ok(Box::new(Euler { table, spacing, end }))
}

impl Scheduler for Euler {
    fn process(&self) -> &Process {
        &self.table.process
    }

    fn solver(&self) -> &'static str {
        "ddim"
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.spacing.plan(&self.table, steps, self.end)
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
