//! `IPNDMScheduler`: Adams–Bashforth weights for equal steps on the noise, along `sigma = sin(π·t/2)`.

use std::{f64::consts::FRAC_PI_2, sync::Arc};

use tweedie_core::{
    Halt, Level, Parameterization, Plan, Solver, Vector, lin,
    plan::Final,
    schedule::CosineSchedule,
    solver,
    spacing::{Spacing, SpacingError},
    trajectory::Step,
};

use super::{Process, Read, Scheduler, betas, keys::Keys, method::Method};

/// A solver that treats the clean sample as zero if it starts from pure noise: diffusers divides by an `alpha` of zero
/// there and so ignores the prediction.
#[derive(Clone, Copy, Debug)]
pub(super) struct FromPureNoise<S>(S);

impl<V: Vector, S: Solver<V>> Solver<V> for FromPureNoise<S> {
    fn order(&self) -> usize {
        self.0.order()
    }

    fn memory(&self) -> usize {
        self.0.memory()
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        if s.from.alpha != 0.0 {
            return self.0.step(s);
        }
        s.predict()?;
        Ok(lin![s.to.sigma / s.from.sigma => &s.x])
    }
}

#[derive(Debug)]
struct Ipndm {
    process: Process,
}

pub(super) fn read(keys: &mut Keys) -> Read {
    keys.take("num_train_timesteps", 1000usize)?;
    keys.only("trained_betas", None::<Vec<f64>>, None)?;
    let process =
        Process { schedule: Arc::new(CosineSchedule::new()), parameterization: Parameterization::V };
    Ok(Box::new(Ipndm { process }))
}

impl Scheduler for Ipndm {
    fn process(&self) -> &Process {
        &self.process
    }

    fn solver(&self) -> &'static str {
        "ipndm"
    }

    fn method(&self, _: usize) -> Option<Method> {
        Some(Method::Ipndm(FromPureNoise(solver::Ipndm { order: 4 })))
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
