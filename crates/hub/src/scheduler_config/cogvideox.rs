//! `CogVideoXDDIMScheduler` and `CogVideoXDPMScheduler`: the signal of every level is weakened, nothing is clipped
//! whatever the keys say, and steps cover `num_train_timesteps / steps` as in DDIM.
//!
//! The second is DPM-Solver++(2M) with the noise of the reversed diffusion. Lu et al. 2022, arXiv:2211.01095, there
//! "SDE-DPM-Solver++". Its step below timestep 0 has order 1, whether it ends clean or not.

use tweedie_core::{
    Level, Plan,
    solver::{AnySolver, DpmMultistep, FinalOrder, Form},
    spacing::Spacing,
};

use super::{
    Process, Read, Scheduler,
    betas::{self, BetaRules, Table, TableSpacing},
    ddim::{BETAS, Ddim},
    keys::Keys,
};

fn ddim(keys: &mut Keys) -> Result<Ddim, crate::HubError> {
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
    Ok(Ddim { process, table, spacing, clamp: None, end })
}

/// Without `eta`.
pub(super) fn read(keys: &mut Keys) -> Read {
    Ok(Box::new(ddim(keys)?))
}

pub(super) fn read_dpm(keys: &mut Keys) -> Read {
    Ok(Box::new(Dpm(ddim(keys)?)))
}

/// With the levels of DDIM.
#[derive(Debug)]
struct Dpm(Ddim);

impl Scheduler for Dpm {
    fn process(&self) -> &Process {
        self.0.process()
    }

    fn solver(&self) -> &'static str {
        "dpmpp-2m-sde"
    }

    fn with_options(&self, steps: usize) -> Option<AnySolver> {
        let final_order = FinalOrder::Below((self.0.table / steps.max(1)) as f64);
        Some(DpmMultistep { tau: 1.0, final_order, ..DpmMultistep::new(Form::Data, 2) }.into())
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        self.0.plan(steps)
    }

    fn spacing(&self) -> Spacing {
        self.0.spacing()
    }
}
