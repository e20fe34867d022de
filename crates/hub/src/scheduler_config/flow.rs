//! `FlowMatchEulerDiscreteScheduler`, `FlowMatchHeunDiscreteScheduler` and `FlowMatchLCMScheduler`: rectified flow. The
//! network gets `num_train_timesteps · sigma` as time.

use std::sync::Arc;

use tweedie_core::{
    Level, Parameterization, Plan,
    plan::{Final, NoiseRule},
    schedule::FlowSchedule,
    spacing::{self, Spacing},
};

use super::{
    Process, Read, Scheduler,
    betas::{self, NoiseSpacing},
    keys::Keys,
};
use crate::error::HubError;

/// `use_dynamic_shifting`: the shift depends on the length of the image's token sequence, which the pipeline knows.
#[derive(Clone, Copy, Debug)]
struct Dynamic {
    /// `time_shift_type`: whether `mu` is the logarithm of the shift.
    exponential: bool,
    mu: Option<f64>,
}

#[derive(Debug)]
struct Flow {
    process: Process,
    scale: usize,
    shift: f64,
    dynamic: Option<Dynamic>,
    terminal: Option<f64>,
    noise: Option<NoiseSpacing>,
    stochastic: bool,
    heun: bool,
}

fn process(keys: &mut Keys) -> Result<(Process, usize, f64), HubError> {
    let scale: usize = keys.take("num_train_timesteps", 1000)?;
    let schedule = FlowSchedule::new()
        .with_time_scale(scale as f64)
        .map_err(|e| keys.error("num_train_timesteps", e.to_string()))?;
    let shift: f64 = keys.take("shift", 1.0)?;
    if !(shift > 0.0 && shift.is_finite()) {
        return Err(keys.error("shift", format!("{shift}: expected a finite number > 0")));
    }
    let process = Process { schedule: Arc::new(schedule), parameterization: Parameterization::Flow };
    Ok((process, scale, shift))
}

pub(super) fn read(keys: &mut Keys) -> Read {
    let stochastic = keys.flag("stochastic_sampling", false)?;
    read_as(keys, stochastic)
}

/// `FlowMatchLCMScheduler`: a sampler for consistency models on the same levels.
pub(super) fn read_lcm(keys: &mut Keys) -> Read {
    let scales: Option<Vec<f64>> = keys.take("scale_factors", None)?;
    if scales.is_some_and(|scales| !scales.is_empty()) {
        return Err(
            keys.error("scale_factors", "changing the size between steps is not supported; expected null")
        );
    }
    keys.take("upscale_mode", String::new())?;
    read_as(keys, true)
}

fn read_as(keys: &mut Keys, stochastic: bool) -> Read {
    let (process, scale, shift) = process(keys)?;
    let dynamic = keys.flag("use_dynamic_shifting", false)?;
    let kinds = [("exponential", true), ("linear", false)];
    let exponential = keys.choice("time_shift_type", "exponential", &kinds)?;
    let dynamic = dynamic.then_some(Dynamic { exponential, mu: None });
    // The keys from which pipelines compute mu.
    keys.take("base_shift", 0.5)?;
    keys.take("max_shift", 1.15)?;
    keys.take("base_image_seq_len", 256usize)?;
    keys.take("max_image_seq_len", 4096usize)?;
    // With this key, time and the meaning of the network's output are reversed.
    keys.only("invert_sigmas", false, false)?;
    let terminal = keys.take("shift_terminal", None::<f64>)?.filter(|t| *t != 0.0);
    let noise = NoiseSpacing::read(keys)?;
    Ok(Box::new(Flow { process, scale, shift, dynamic, terminal, noise, stochastic, heun: false }))
}

pub(super) fn read_heun(keys: &mut Keys) -> Read {
    let (process, scale, shift) = process(keys)?;
    let (dynamic, terminal, noise) = (None, None, None);
    Ok(Box::new(Flow { process, scale, shift, dynamic, terminal, noise, stochastic: false, heun: true }))
}

impl Flow {
    /// diffusers shifts twice: the ends of the range, then every timestep in between. A dynamic shift is applied once.
    fn sigmas(&self, steps: usize) -> Result<Vec<f64>, String> {
        if steps == 0 {
            return Err(spacing::SpacingError::NoSteps.to_string());
        }
        let (ends, shift) = match self.dynamic {
            None => (self.shift, self.shift),
            Some(Dynamic { mu: None, .. }) => {
                return Err("`use_dynamic_shifting` needs `mu`, which depends on the image size".into());
            }
            Some(Dynamic { mu: Some(mu), exponential }) => (1.0, if exponential { mu.exp() } else { mu }),
        };
        let (max, min) = (spacing::shift(1.0, ends), spacing::shift(1.0 / self.scale as f64, ends));
        let gap = (max - min) / (steps.max(2) - 1) as f64;
        let mut sigmas: Vec<f64> = (0..steps).map(|i| spacing::shift(max - i as f64 * gap, shift)).collect();
        if let Some(terminal) = self.terminal {
            betas::stretch(&mut sigmas, terminal)?;
        }
        if let (Some(noise), [max, .., min]) = (self.noise, &*sigmas) {
            sigmas = noise.nsrs(*min, *max, steps).map_err(|e| e.to_string())?;
        }
        Ok(sigmas)
    }
}

impl Scheduler for Flow {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        match (self.heun, self.stochastic) {
            (true, _) => "heun",
            (_, true) => "lcm",
            _ => "ddim",
        }
    }

    fn plan(&self, steps: usize) -> Result<Plan, String> {
        let level = |s: f64| Level { alpha: 1.0 - s, sigma: s, t: s * self.scale as f64 };
        let levels = self.sigmas(steps)?.into_iter().map(level).collect();
        let mut plan = betas::plan_to(self.process.schedule.clone(), levels, Final::Clean)?;
        plan.start_std = 1.0;
        Ok(plan)
    }

    fn noise(&self) -> NoiseRule {
        if self.stochastic { NoiseRule::Consistency } else { NoiseRule::None }
    }

    fn set_mu(&mut self, value: f64) -> Result<(), String> {
        match &mut self.dynamic {
            Some(Dynamic { mu, .. }) => {
                *mu = Some(value);
                Ok(())
            }
            None => Err("`mu` can only be set with `use_dynamic_shifting`".into()),
        }
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
