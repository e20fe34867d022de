//! `DDIMScheduler`: each step covers `num_train_timesteps / steps`, whatever the next timestep is. `eta` is an argument of
//! sampling, not part of the configuration.

use tweedie_core::{Level, Plan, schedule::Interpolation, spacing::Spacing};

use super::{
    Clamp, Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_X0_V, Rescaled, Table, TableSpacing},
    keys::Keys,
};

pub(super) const BETAS: BetaRules = BetaRules {
    start: 1e-4,
    end: 0.02,
    curves: COMMON_CURVES,
    predictions: EPS_X0_V,
    interpolation: Interpolation::LogAlphaBar,
    rescaled: Rescaled::PureNoise,
};

#[derive(Debug)]
pub(super) struct Ddim {
    pub(super) process: Process,
    pub(super) table: usize,
    pub(super) spacing: TableSpacing,
    pub(super) clamp: Option<Clamp>,
    /// Where a step below timestep 0 ends.
    pub(super) end: Level,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let Table { process, steps: table, .. } = betas::process(keys, &BETAS)?;
    let spacing = TableSpacing::read(keys, "leading")?;
    let clamp = betas::clamp(keys, true, true)?;
    let end = if keys.flag("set_alpha_to_one", true)? { Level::CLEAN } else { process.schedule.level(0.0) };
    Ok(Box::new(Ddim { process, table, spacing, clamp, end }))
}

impl Scheduler for Ddim {
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
        let times = self.spacing.times(self.table, steps).map_err(|e| e.to_string())?;
        let stride = (self.table / steps) as f64;
        Plan::strided(self.process.schedule.clone(), &times, stride, self.end).map_err(|e| e.to_string())
    }

    fn spacing(&self) -> Spacing {
        self.spacing.general()
    }
}
