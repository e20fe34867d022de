//! `EDMEulerScheduler`, `EDMDPMSolverMultistepScheduler` and `CosineDPMSolverMultistepScheduler`: networks preconditioned as
//! in Karras et al. 2022, arXiv:2206.00364.

use std::sync::Arc;

use tweedie_core::{
    Level, Parameterization, Plan,
    plan::Final,
    schedule::EdmSchedule,
    solver::{AnySolver, Form},
    spacing::{self, Spacing},
};

use super::{Clamp, Process, Read, Scheduler, betas, dpmsolver::DpmOptions, keys::Keys};

#[derive(Debug)]
struct Edm {
    process: Process,
    min: f64,
    max: f64,
    rho: f64,
    exponential: bool,
    clean_end: bool,
    /// Options of DPM-Solver; `None` for Euler.
    options: Option<DpmOptions>,
    clamp: Option<Clamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Euler,
    Dpm,
    Cosine,
}

fn read_as(keys: &mut Keys, kind: Kind) -> Read {
    let cosine = kind == Kind::Cosine;
    let (min, max, data) = if cosine { (0.3, 500.0, 1.0) } else { (0.002, 80.0, 0.5) };
    let (min, max) = (keys.take("sigma_min", min)?, keys.take("sigma_max", max)?);
    let schedule = EdmSchedule::new(min, max).map_err(|e| keys.error("sigma_max", e.to_string()))?;
    let sigma_data: f64 = keys.take("sigma_data", data)?;
    if !(sigma_data > 0.0 && sigma_data.is_finite()) {
        return Err(keys.error("sigma_data", format!("{sigma_data}: expected a finite number > 0")));
    }
    let rules = [("karras", false), ("exponential", true)];
    let default = if cosine { "exponential" } else { "karras" };
    let exponential = keys.choice("sigma_schedule", default, &rules)?;
    let rho = keys.take("rho", 7.0)?;
    // A velocity is the same prediction with the opposite sign, as is that of `sigma_data` in the coefficients.
    let default = if cosine { "v_prediction" } else { "epsilon" };
    let sign = keys.choice("prediction_type", default, &[("epsilon", 1.0), ("v_prediction", -1.0)])?;
    keys.take("num_train_timesteps", 1000usize)?;
    let ends = [("zero", true), ("sigma_min", false)];
    let clean_end = keys.choice("final_sigmas_type", "zero", &ends)?;
    let (mut options, mut clamp) = (None, None);
    if kind == Kind::Dpm {
        let read = DpmOptions::read(keys, true, false)?.with_euler(keys)?;
        if read.stochastic && read.order == 3 {
            let reason = "3 is not supported with \"sde-dpmsolver++\"; expected 1 or 2";
            return Err(keys.error("solver_order", reason));
        }
        options = Some(read);
        clamp = betas::threshold(keys, false)?;
    }
    if cosine {
        options = Some(DpmOptions::read_sde(keys)?);
    }
    let sigma_data = sign * sigma_data;
    let parameterization = match kind {
        Kind::Cosine => Parameterization::EdmArctan { sigma_data },
        _ => Parameterization::Edm { sigma_data },
    };
    let process = Process { schedule: Arc::new(schedule), parameterization };
    Ok(Box::new(Edm { process, min, max, rho, exponential, clean_end, options, clamp }))
}

pub(super) fn read(keys: &mut Keys) -> Read {
    read_as(keys, Kind::Euler)
}

pub(super) fn read_dpm(keys: &mut Keys) -> Read {
    read_as(keys, Kind::Dpm)
}

/// Its network gets an angle as time, and its noise follows one Brownian path.
pub(super) fn read_cosine(keys: &mut Keys) -> Read {
    read_as(keys, Kind::Cosine)
}

impl Scheduler for Edm {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        self.options.map_or("ddim", |o| if o.form == Form::Data { o.name() } else { "ddim" })
    }

    fn with_options(&self, steps: usize) -> Option<AnySolver> {
        Some(self.options?.multistep(steps).into())
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clamp
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        let mut sigmas = if self.exponential {
            spacing::exponential(self.min, self.max, steps)
        } else {
            spacing::karras(self.min, self.max, self.rho, steps)
        }
        .map_err(|e| e.to_string())?;
        if let ([only], true) = (&mut sigmas[..], self.exponential) {
            // As diffusers spaces a single step.
            *only = self.min;
        }
        let schedule = self.process.schedule.clone();
        let levels: Vec<Level> = sigmas.into_iter().map(|s| schedule.at_nsr(s)).collect();
        let last =
            if self.options.is_some() { Some(schedule.at_nsr(self.min)) } else { levels.last().copied() };
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
