//! `CMStochasticIterativeScheduler`: consistency models in `sigma`. Each step predicts the clean sample and adds noise up
//! to the next level. Song et al. 2023, arXiv:2303.01469, algorithm 1.

use std::sync::Arc;

use tweedie_core::{
    Level, Move, NoiseSchedule, Parameterization, Plan,
    plan::Final,
    schedule::EdmSchedule,
    spacing::{Spacing, SpacingError},
};

use super::{Clamp, ClampRange, Process, Read, Scheduler, betas, keys::Keys};

#[derive(Debug)]
struct Consistency {
    process: Process,
    schedule: EdmSchedule,
    table: usize,
    min: f64,
    max: f64,
    rho: f64,
    s_noise: f64,
    clip: bool,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let table: usize = keys.take("num_train_timesteps", 40)?;
    if table < 2 {
        return Err(keys.error("num_train_timesteps", format!("{table}: expected at least 2")));
    }
    let (min, max) = (keys.take("sigma_min", 0.002)?, keys.take("sigma_max", 80.0)?);
    let schedule = EdmSchedule::new(min, max).map_err(|e| keys.error("sigma_max", e.to_string()))?;
    let positive = |keys: &mut Keys, key, default: f64| match keys.take(key, default)? {
        found if found > 0.0 && found.is_finite() => Ok(found),
        found => Err(keys.error(key, format!("{found}: expected a finite number > 0"))),
    };
    let sigma_data = positive(keys, "sigma_data", 0.5)?;
    let rho = positive(keys, "rho", 7.0)?;
    let s_noise: f64 = keys.take("s_noise", 1.0)?;
    if !(s_noise >= 0.0 && s_noise.is_finite()) {
        return Err(keys.error("s_noise", format!("{s_noise}: expected a finite number ≥ 0")));
    }
    let clip = keys.flag("clip_denoised", true)?;
    let parameterization = Parameterization::Consistency { sigma_data, sigma_min: min };
    let process = Process { schedule: Arc::new(schedule), parameterization };
    Ok(Box::new(Consistency { process, schedule, table, min, max, rho, s_noise, clip }))
}

impl Scheduler for Consistency {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "lcm"
    }

    fn clamp(&self) -> Option<Clamp> {
        self.clip.then_some(Clamp { range: ClampRange::Static { limit: 1.0 }, keep_eps: false })
    }

    /// Karras' levels of the whole table, every `table / steps`-th from the noisiest on.
    fn plan(&self, steps: usize) -> Result<Plan, String> {
        if steps == 0 {
            return Err(SpacingError::NoSteps.to_string());
        }
        if steps > self.table {
            return Err(format!("expected at most num_train_timesteps = {}", self.table));
        }
        let (low, high) = (self.min.powf(1.0 / self.rho), self.max.powf(1.0 / self.rho));
        let stride = self.table / steps;
        let sigma = |i: usize| {
            let part = (i * stride) as f64 / (self.table - 1) as f64;
            (high + part * (low - high)).powf(self.rho).max(self.min)
        };
        let levels = (0..steps).map(|i| self.schedule.at_nsr(sigma(i))).collect();
        let mut plan = betas::plan_to(self.process.schedule.clone(), levels, Final::Clean)?;
        plan.start_std = self.max;
        Ok(plan)
    }

    fn finish(&self, mut plan: Plan) -> Plan {
        let again = |step: Move| match step {
            Move::Solve(to) if !to.is_clean() => {
                let sigma = ((to.sigma - self.min) * (to.sigma + self.min)).max(0.0).sqrt();
                let noised = Move::Renoise { to: self.schedule.at_nsr(sigma), scale: self.s_noise };
                let clean = Move::Solve(Level::CLEAN);
                if sigma > 0.0 {
                    vec![clean, noised, Move::Relabel(to)]
                } else {
                    vec![clean, Move::Relabel(to)]
                }
            }
            _ => vec![step],
        };
        plan.moves = plan.moves.into_iter().flat_map(again).collect();
        plan
    }

    fn spacing(&self) -> Spacing {
        Spacing::Karras { rho: self.rho }
    }
}
