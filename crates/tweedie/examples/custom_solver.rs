//! A custom solver: the midpoint rule, compared with Heun and Euler on a mixture of Gaussians, whose exact denoiser is known.
//!
//! `cargo run --release --example custom_solver`
#![allow(clippy::print_stdout)]

use std::{error::Error, sync::Arc};

use tweedie::core::{
    Halt, Plan, Solver, Vector, lin,
    noise::SeededNoise,
    oracle::{Gaussian, GaussianMixture},
    plan::Final,
    sample,
    schedule::EdmSchedule,
    solver::{Ddim, HEUN},
    spacing::Spacing,
    trajectory::Step,
};

/// The midpoint rule in `u = sigma/alpha`: half a step with the slope `eps` at the start, then the whole step with the slope
/// at the midpoint.
struct Midpoint;

impl<V: Vector> Solver<V> for Midpoint {
    fn order(&self) -> usize {
        2
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let here = s.predict()?;
        if s.to.is_clean() {
            return Ok(here.x0);
        }
        let (u, v) = (s.from.nsr(), s.to.nsr());
        let middle = s.schedule().at_nsr(0.5 * (u + v));
        let half = lin![middle.alpha => &here.x0, middle.sigma => &here.eps];
        let slope = s.predict_at(&half, middle)?.eps;
        Ok(lin![s.to.alpha / s.from.alpha => &s.x, s.to.alpha * (v - u) => &slope])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let blob = |x: f64, y: f64| Gaussian::new(vec![x, y], vec![0.02, 0.05]);
    let data =
        GaussianMixture::new(vec![(0.5, blob(-1.0, 0.3)?), (0.3, blob(0.8, 0.8)?), (0.2, blob(0.2, -1.0)?)])?;
    let schedule = Arc::new(EdmSchedule::new(0.02, 20.0)?);
    let end = |solver: &dyn Solver<Vec<f64>>, steps: usize| -> Result<Vec<f64>, Box<dyn Error>> {
        let times = Spacing::Karras { rho: 7.0 }.times(&*schedule, steps)?;
        let plan = Plan::descend(schedule.clone(), &times, Final::LastTime)?;
        Ok(sample(&plan, solver, &data, vec![11.0, -7.0], &mut SeededNoise(0)).finish()?)
    };
    let truth = end(&HEUN, 4000)?;
    println!("{:>6} {:>12} {:>12} {:>12}", "steps", "euler", "midpoint", "heun");
    for steps in [10, 20, 40, 80, 160] {
        let error = |solver: &dyn Solver<Vec<f64>>| -> Result<f64, Box<dyn Error>> {
            Ok(lin![1.0 => &end(solver, steps)?, -1.0 => &truth].rms())
        };
        println!("{steps:>6} {:>12.2e} {:>12.2e} {:>12.2e}", error(&Ddim)?, error(&Midpoint)?, error(&HEUN)?);
    }
    Ok(())
}
