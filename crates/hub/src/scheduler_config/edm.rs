//! `EDMEulerScheduler`: Euler's method for networks preconditioned as in Karras et al. 2022,
//! arXiv:2206.00364.

use std::sync::Arc;

use tweedie_core::{
    Level, Parameterization, Plan,
    plan::Final,
    schedule::EdmSchedule,
    spacing::{self, Spacing},
};

use super::{Process, Read, Scheduler, betas, keys::Keys};

#[derive(Debug)]
struct Edm {
    process: Process,
    min: f64,
    max: f64,
    rho: f64,
    exponential: bool,
    clean_end: bool,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let (min, max) = (keys.take("sigma_min", 0.002)?, keys.take("sigma_max", 80.0)?);
    let schedule = EdmSchedule::new(min, max).map_err(|e| keys.error("sigma_max", e.to_string()))?;
    let sigma_data: f64 = keys.take("sigma_data", 0.5)?;
    if !(sigma_data > 0.0 && sigma_data.is_finite()) {
        return Err(keys.error("sigma_data", format!("{sigma_data}: expected a finite number > 0")));
    }
    let rules = [("karras", false), ("exponential", true)];
    let exponential = keys.choice("sigma_schedule", "karras", &rules)?;
    let rho = keys.take("rho", 7.0)?;
    keys.only("prediction_type", "epsilon".to_string(), "epsilon".to_string())?;
    keys.take("num_train_timesteps", 1000usize)?;
    let ends = [("zero", true), ("sigma_min", false)];
    let clean_end = keys.choice("final_sigmas_type", "zero", &ends)?;
    let parameterization = Parameterization::Edm { sigma_data };
    let process = Process { schedule: Arc::new(schedule), parameterization };
    Ok(Box::new(Edm { process, min, max, rho, exponential, clean_end }))
}

impl Scheduler for Edm {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "ddim"
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        let sigmas = if self.exponential {
            spacing::exponential(self.min, self.max, steps)
        } else {
            spacing::karras(self.min, self.max, self.rho, steps)
        };
        let schedule = self.process.schedule.clone();
        let levels: Vec<Level> =
            sigmas.map_err(|e| e.to_string())?.into_iter().map(|s| schedule.at_nsr(s)).collect();
        let last = levels.last().copied();
        let end = match last {
            Some(last) if !self.clean_end => Final::Level(last),
            _ => Final::Clean,
        };
        let mut plan = betas::plan_to(schedule, levels, end)?;
        plan.start_std = self.max.hypot(1.0);
        Ok(plan)
    }

    fn spacing(&self) -> Spacing {
        if self.exponential { Spacing::Exponential } else { Spacing::Karras { rho: self.rho } }
    }
}
