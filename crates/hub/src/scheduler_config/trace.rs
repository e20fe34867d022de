//! Runs a recipe on plain values with a formula as the network, to compare a scheduler with other implementations.

use std::cell::RefCell;

use tweedie_core::{Halt, Level, Move, Prediction, noise::Noise, sample};

use super::{Recipe, clamp::Clamped};

/// The trajectory of a scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The timestep of every evaluation.
    pub times: Vec<f64>,
    /// The sample of diffusers' scheduler before every evaluation and at the end: one more than `times`.
    pub rows: Vec<Vec<f64>>,
}

/// A replacement for a network: its output for an input and a timestep; twice as long as the input if the second half is a
/// learned variance.
pub type Formula<'a> = &'a dyn Fn(&[f64], f64) -> Vec<f64>;

/// Standard normal noise by index, one draw per step from 0 on, as in diffusers. `None` ends the trace.
pub type Draws<'a> = &'a mut dyn FnMut(usize) -> Option<Vec<f64>>;

impl Recipe {
    /// Runs the recipe on one sample in the scale of diffusers' scheduler.
    ///
    /// ```
    /// use tweedie_hub::SchedulerConfig;
    /// let text = r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#;
    /// let recipe = SchedulerConfig::from_json(text, "scheduler_config.json".as_ref())?.resolve(4)?;
    /// let formula = |x: &[f64], t: f64| x.iter().map(|x| x * t / (t + 1.0)).collect();
    /// let trace = recipe.trace(&[0.5, -1.0], &formula, &mut |_| None).expect("needs no noise");
    /// assert_eq!(trace.times, [750.0, 500.0, 250.0, 0.0]);
    /// assert_eq!(trace.rows.len(), 5);
    /// # Ok::<(), tweedie_hub::HubError>(())
    /// ```
    ///
    /// # Errors
    /// If noise is missing, or the trajectory becomes not finite.
    pub fn trace(&self, start: &[f64], network: Formula<'_>, draws: Draws<'_>) -> Result<Trace, Halt> {
        let seen = RefCell::new(Trace { times: Vec::new(), rows: Vec::new() });
        let scaled = |x: &[f64], factor: f64| -> Vec<f64> { x.iter().map(|v| v * factor).collect() };
        let answer = |x: &Vec<f64>, at: Level| -> Prediction<Vec<f64>> {
            let s = self.parameterization.scalings(at);
            let mut seen = seen.borrow_mut();
            seen.times.push(s.c_noise);
            seen.rows.push(scaled(x, self.scale.factor(at)));
            let mut raw = network(&scaled(x, s.c_in), s.c_noise);
            let variance = (raw.len() == 2 * x.len()).then(|| raw.split_off(x.len()));
            Prediction { variance, ..self.parameterization.read(x, &raw, at) }
        };
        let denoiser = Clamped { inner: &answer, clamp: self.clamp };
        let ends = self.plan.moves.iter().filter(|m| matches!(m, Move::Solve(_))).map(|m| m.to().lambda());
        let mut noise = Recorded { draws, ends: ends.collect(), missing: None };
        let solver = self.solver.build();
        let start = scaled(start, 1.0 / self.scale.factor(self.plan.start));
        let end = sample(&self.plan, &*solver, &denoiser, start, &mut noise).finish()?;
        if let Some(draw) = noise.missing {
            return Err(Halt::Failed(format!("the noise for draw {draw} is missing")));
        }
        let mut trace = seen.into_inner();
        let last = self.plan.moves.last().map_or(self.plan.start, |m| m.to());
        trace.rows.push(scaled(&end, self.scale.factor(last)));
        if let Some(row) = trace.rows.iter().position(|r| r.iter().any(|v| !v.is_finite())) {
            return Err(Halt::Failed(format!("row {row} of the trajectory is not finite")));
        }
        Ok(trace)
    }
}

/// Recorded noise, one draw per step.
struct Recorded<'a> {
    draws: Draws<'a>,
    /// `lambda` at the end of every solver step.
    ends: Vec<f64>,
    missing: Option<usize>,
}

impl Recorded<'_> {
    fn draw(&mut self, like: &[f64], index: usize) -> Vec<f64> {
        match (self.draws)(index) {
            Some(noise) if noise.len() == like.len() => noise,
            _ => {
                self.missing.get_or_insert(index);
                vec![0.0; like.len()]
            }
        }
    }
}

impl Noise<Vec<f64>> for Recorded<'_> {
    fn normal(&mut self, like: &Vec<f64>, draw: u64) -> Vec<f64> {
        self.draw(like, draw as usize)
    }

    /// Solvers that draw noise themselves do so once per step, identified by its end.
    fn increment(&mut self, like: &Vec<f64>, _: Level, to: Level) -> Vec<f64> {
        let index = self.ends.iter().position(|&end| end == to.lambda()).unwrap_or(self.ends.len());
        self.draw(like, index)
    }
}
