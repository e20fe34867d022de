//! `DDIMScheduler` and `CogVideoXDDIMScheduler`: each step goes `num_train_timesteps / steps` down, whatever the next time of the list
//! is. `eta` belongs to the call, not to the configuration.

use tweedie_core::{Level, Plan, schedule::Interpolation, spacing::Spacing};

use super::{
    Clamp, Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_X0_V, Rescaled, Table, TableSpacing},
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
struct Ddim {
    process: Process,
    table: usize,
    spacing: TableSpacing,
    clamp: Option<Clamp>,
    end: Level,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let Table { process, steps: table, .. } = betas::process(keys, &BETAS)?;
    let spacing = TableSpacing::read(keys, "leading")?;
    let clamp = betas::clamp(keys, true, true)?;
    let end = if keys.flag("set_alpha_to_one", true)? { Level::CLEAN } else { process.schedule.level(0.0) };
    Ok(Box::new(Ddim { process, table, spacing, clamp, end }))
}

/// `CogVideoXDDIMScheduler`: the signal of every level weakened, nothing clipped whatever the keys say, no `eta`.
pub(super) fn read_cogvideox(keys: &mut Keys) -> Read {
    let shift: f64 = keys.take("snr_shift_scale", 3.0)?;
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(keys.error("snr_shift_scale", format!("{shift}: expected a finite number > 0")));
    }
    let rules = BetaRules { start: 0.00085, end: 0.012, ..BETAS };
    let Table { process, steps: table, .. } = betas::process_shifted(keys, &rules, "scaled_linear", shift)?;
    let spacing = TableSpacing::read(keys, "leading")?;
    keys.flag("clip_sample", true)?;
    keys.take("clip_sample_range", 1.0)?;
    keys.take("sample_max_value", 1.0)?;
    let end = if keys.flag("set_alpha_to_one", true)? { Level::CLEAN } else { process.schedule.level(0.0) };
    Ok(Box::new(Ddim { process, table, spacing, clamp: None, end }))
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
