//! `DDIMInverseScheduler`: DDIM upwards. The network gets the timestep at the end of a step, not that of the sample.

use tweedie_core::{Level, Move, Plan, schedule::Interpolation, spacing::Spacing};

use super::{
    Clamp, Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_X0_V, Rescaled, Table, TableRule, TableSpacing},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    predictions: EPS_X0_V,
    interpolation: Interpolation::LogAlphaBar,
    rescaled: Rescaled::PureNoise,
};

#[derive(Debug)]
struct DdimInverse {
    process: Process,
    table: usize,
    spacing: TableSpacing,
    clamp: Option<Clamp>,
    cleanest: Level,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let Table { process, steps: table, .. } = betas::process(keys, &BETAS)?;
    let spacing = TableSpacing::read(keys, "leading")?;
    if spacing.rule == TableRule::Linspace {
        let reason = "\"linspace\" is not supported; expected leading or trailing";
        return Err(keys.error("timestep_spacing", reason));
    }
    let clamp = betas::clip(keys, true, true)?;
    // An older name of the same key takes precedence.
    let old: Option<bool> = keys.take("set_alpha_to_zero", None)?;
    let to_one = keys.flag("set_alpha_to_one", true)?;
    let cleanest = if old.unwrap_or(to_one) { Level::CLEAN } else { process.schedule.level(0.0) };
    Ok(Box::new(DdimInverse { process, table, spacing, clamp, cleanest }))
}

impl Scheduler for DdimInverse {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "ddim"
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        let schedule = self.process.schedule.clone();
        let mut times = self.spacing.times(self.table, steps).map_err(|e| e.to_string())?;
        times.reverse();
        let stride = (self.table / steps) as f64;
        let below = |t: f64| {
            let level = if t < stride { self.cleanest } else { schedule.level(t - stride) };
            Level { t, ..level }
        };
        let mut moves = Vec::with_capacity(2 * times.len());
        for (k, &t) in times.iter().enumerate() {
            moves.push(Move::Solve(schedule.level(t)));
            moves.extend(times.get(k + 1).map(|&next| Move::Relabel(below(next))));
        }
        let start = times.first().map_or(self.cleanest, |&t| below(t));
        Ok(Plan { start, start_std: 1.0, moves, schedule })
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
