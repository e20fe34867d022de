//! `LCMScheduler` and `TCDScheduler`: samplers of consistency models, on the timesteps that the model was distilled on.

use tweedie_core::{
    Level, Plan,
    plan::{Final, NoiseRule},
    schedule::Interpolation,
    solver::{AnySolver, Consistency},
    spacing::{Spacing, SpacingError},
};

use super::{
    Clamp, Process, Read, Scheduler,
    betas::{self, BetaRules, COMMON_CURVES, EPS_X0_V, Rescaled, Table},
    keys::Keys,
};

const BETAS: BetaRules = BetaRules {
    start: 0.00085,
    end: 0.012,
    curves: COMMON_CURVES,
    predictions: EPS_X0_V,
    interpolation: Interpolation::LogAlphaBar,
    rescaled: Rescaled::PureNoise,
};

/// Default amount of noise of `TCDScheduler`.
const GAMMA: f64 = 0.3;

#[derive(Debug)]
struct Distilled {
    process: Process,
    table: usize,
    /// Timesteps of the distillation grid.
    original: usize,
    /// LCM's factor of the time; `None` for TCD.
    time_scale: Option<f64>,
    clamp: Option<Clamp>,
}

fn read_as(keys: &mut Keys, lcm: bool) -> Read {
    let Table { process, steps: table, .. } = betas::process_by(keys, &BETAS, "scaled_linear")?;
    let original: usize = keys.take("original_inference_steps", 50)?;
    if !(1..=table).contains(&original) {
        let reason = format!("{original}: expected a value in 1..={table} (num_train_timesteps)");
        return Err(keys.error("original_inference_steps", reason));
    }
    let time_scale = keys.take("timestep_scaling", 10.0)?;
    // Neither class uses these.
    keys.take("timestep_spacing", String::new())?;
    keys.take("steps_offset", 0usize)?;
    keys.flag("set_alpha_to_one", true)?;
    let clamp = betas::clamp(keys, false, true)?;
    // diffusers' TCD accepts these keys but ignores them.
    if !lcm && clamp.is_some() {
        let key = if keys.flag("thresholding", false)? { "thresholding" } else { "clip_sample" };
        return Err(keys.error(key, "true is not supported; expected false"));
    }
    let time_scale = lcm.then_some(time_scale);
    Ok(Box::new(Distilled { process, table, original, time_scale, clamp }))
}

pub(super) fn read_lcm(keys: &mut Keys) -> Read {
    read_as(keys, true)
}

pub(super) fn read_tcd(keys: &mut Keys) -> Read {
    read_as(keys, false)
}

impl Scheduler for Distilled {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        if self.time_scale.is_some() { "lcm" } else { "tcd" }
    }

    fn with_options(&self, _: usize) -> Option<AnySolver> {
        Some(Consistency { sigma_data: 0.5, time_scale: self.time_scale? }.into())
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        if steps == 0 {
            return Err(SpacingError::NoSteps.to_string());
        }
        if steps > self.original {
            let most = self.original;
            return Err(format!("expected at most original_inference_steps = {most}"));
        }
        let schedule = &self.process.schedule;
        let stride = self.table / self.original;
        let level = |i: usize| -> Level {
            let index = (i as f64 * (self.original as f64 / steps as f64)).floor() as usize;
            schedule.level(((self.original - index) * stride - 1) as f64)
        };
        let end = match self.time_scale {
            Some(_) => Final::Clean,
            None => Final::Level(schedule.level(0.0)),
        };
        let mut plan = betas::plan_to(schedule.clone(), (0..steps).map(level).collect(), end)?;
        plan.start_std = 1.0;
        Ok(plan)
    }

    fn noise(&self) -> NoiseRule {
        self.noise_of(GAMMA)
    }

    fn noise_of(&self, eta: f64) -> NoiseRule {
        match self.time_scale {
            Some(_) => NoiseRule::Consistency,
            None if eta == 0.0 => NoiseRule::None,
            None => NoiseRule::Strategic { gamma: eta },
        }
    }

    fn spacing(&self) -> Spacing {
        Spacing::Trailing
    }
}
