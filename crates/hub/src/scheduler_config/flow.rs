//! `FlowMatchEulerDiscreteScheduler`: Euler's method for rectified flow. The network is told
//! `num_train_timesteps · sigma`.

use std::sync::Arc;

use tweedie_core::{
    Level, Parameterization, Plan,
    plan::Final,
    schedule::FlowSchedule,
    spacing::{self, Spacing},
};

use super::{
    Process, Read, Scheduler,
    betas::{self, NoiseSpacing},
    keys::Keys,
};

#[derive(Debug)]
struct Flow {
    process: Process,
    scale: usize,
    shift: f64,
    noise: Option<NoiseSpacing>,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let scale: usize = keys.take("num_train_timesteps", 1000)?;
    let schedule = FlowSchedule::new()
        .with_time_scale(scale as f64)
        .map_err(|e| keys.error("num_train_timesteps", e.to_string()))?;
    let shift: f64 = keys.take("shift", 1.0)?;
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(keys.error("shift", format!("{shift}: expected a finite number > 0")));
    }
    keys.only("use_dynamic_shifting", false, false)?;
    keys.only("invert_sigmas", false, false)?;
    keys.only("stochastic_sampling", false, false)?;
    keys.only("shift_terminal", None::<f64>, None)?;
    let noise = NoiseSpacing::read(keys)?;
    let process = Process { schedule: Arc::new(schedule), parameterization: Parameterization::Flow };
    Ok(Box::new(Flow { process, scale, shift, noise }))
}

impl Scheduler for Flow {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "ddim"
    }

    /// diffusers shifts twice: the ends of the range, and then every time between.
    fn plan(&self, steps: usize) -> Result<Plan, String> {
        if steps == 0 {
            return Err(spacing::SpacingError::NoSteps.to_string());
        }
        let shifted = |sigma: f64| spacing::shift(sigma, self.shift);
        let (max, min) = (shifted(1.0), shifted(1.0 / self.scale as f64));
        let gap = (max - min) / (steps.max(2) - 1) as f64;
        let mut sigmas: Vec<f64> = (0..steps).map(|i| shifted(max - i as f64 * gap)).collect();
        if let (Some(noise), [max, .., min]) = (self.noise, &*sigmas) {
            sigmas = noise.nsrs(*min, *max, steps).map_err(|e| e.to_string())?;
        }
        let level = |s: f64| Level { alpha: 1.0 - s, sigma: s, t: s * self.scale as f64 };
        let levels = sigmas.into_iter().map(level).collect();
        let mut plan = betas::plan_to(self.process.schedule.clone(), levels, Final::Clean)?;
        plan.start_std = 1.0;
        Ok(plan)
    }

    fn spacing(&self) -> Spacing {
        match self.noise {
            Some(noise) => noise.general(),
            None => Spacing::Shifted { shift: self.shift },
        }
    }
}

#[cfg(test)]
mod tests {
    use tweedie_core::NoiseSchedule;

    use super::*;

    #[test]
    fn levels_of_a_flow_are_its_schedules() {
        let schedule = FlowSchedule::new().with_time_scale(1000.0).unwrap();
        let level = schedule.level(250.0);
        assert_eq!((level.alpha, level.sigma, level.t), (0.75, 0.25, 250.0));
    }
}
