//! `IPNDMScheduler`: Adams–Bashforth weights for equal steps on the noise, along `sigma = sin(π·t/2)`.

use std::{f64::consts::FRAC_PI_2, sync::Arc};

use tweedie_core::{
    Level, Parameterization, Plan,
    plan::Final,
    schedule::CosineSchedule,
    solver::{AnySolver, Ipndm},
    spacing::{Spacing, SpacingError},
};

use super::{Process, Read, Scheduler, betas, keys::Keys};

#[derive(Debug)]
struct IpndmScheduler {
    process: Process,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    keys.take("num_train_timesteps", 1000usize)?;
    keys.only("trained_betas", None::<Vec<f64>>, None)?;
    let process =
        Process { schedule: Arc::new(CosineSchedule::new()), parameterization: Parameterization::V };
    Ok(Box::new(IpndmScheduler { process }))
}

impl Scheduler for IpndmScheduler {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "ipndm"
    }

    fn with_options(&self, _: usize) -> Option<AnySolver> {
        Some(Ipndm { order: 4, zero_at_noise: true }.into())
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        if steps == 0 {
            return Err(SpacingError::NoSteps.to_string());
        }
        let schedule = &self.process.schedule;
        let level = |i: usize| -> Level {
            let sigma = (FRAC_PI_2 * (1.0 - i as f64 / steps as f64)).sin().powi(2);
            schedule.level(sigma.asin() / FRAC_PI_2)
        };
        betas::plan_to(schedule.clone(), (0..steps).map(level).collect(), Final::Clean)
    }

    fn spacing(&self) -> Spacing {
        Spacing::Trailing
    }
}
