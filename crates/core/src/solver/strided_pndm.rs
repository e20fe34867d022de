//! PNDM as in diffusers: combines four outputs of the network at equal steps, after a start with Runge–Kutta steps or one
//! of Heun's. Raw outputs are combined before they are converted to noise, which matters for v-prediction; and each step
//! covers the same number of timesteps, whatever the next timestep is. Liu et al. 2022, arXiv:2202.09778.

use super::{Solver, adams::EQUAL_STEPS};
use crate::{
    level::Level,
    lin,
    predict::{Halt, Prediction},
    trajectory::Step,
    vector::Vector,
};

/// PNDM on a network's raw outputs.
#[derive(Clone, Copy, Debug)]
pub struct StridedPndm {
    /// Whether outputs are velocities; otherwise they are noise.
    pub v: bool,
    /// Whether the first three steps are Runge–Kutta steps; otherwise the first is one of Heun's.
    pub runge_kutta: bool,
    /// Number of steps in the plan.
    pub steps: usize,
    /// Timesteps per step.
    pub stride: f64,
    /// Where steps below timestep 0 end.
    pub end: Level,
}

impl StridedPndm {
    /// Recovers the network's raw output.
    fn raw<V: Vector>(&self, p: &Prediction<V>, at: Level) -> V {
        if self.v { lin![at.alpha => &p.eps, -at.sigma => &p.x0] } else { p.eps.clone() }
    }

    /// DDIM's step of `x` with an output, or a combination of several.
    fn transfer<V: Vector>(&self, x: &V, raw: &V, from: Level, to: Level) -> V {
        let ratio = to.alpha / from.alpha;
        let change = to.sigma - ratio * from.sigma;
        if self.v {
            lin![ratio + change * from.sigma => x, change * from.alpha => raw]
        } else {
            lin![ratio => x, change => raw]
        }
    }

    /// A Runge–Kutta step: the sample is treated as one at `base`, and the network gets the timesteps `times`, the last
    /// of which may be missing. Odd stages go half a step below the timestep passed to the network.
    pub(super) fn runge_kutta<V: Vector>(
        &self,
        s: &mut Step<'_, V>,
        base: Level,
        times: &[f64],
    ) -> Result<V, Halt> {
        let start = s.x.clone();
        let (mut x, mut answers) = (start.clone(), Vec::new());
        for (stage, &time) in times.iter().enumerate() {
            let at = s.schedule().level(time);
            let raw = if stage == 0 { self.raw(&s.predict()?, s.from) } else { self.ask(s, &x, at)? };
            let to = if stage % 2 == 0 { self.level(s, time - self.half()) } else { at };
            x = if stage == 3 {
                let (ends, inner) = (1.0 / 6.0, 1.0 / 3.0);
                let mean =
                    lin![ends => &answers[0], inner => &answers[1], inner => &answers[2], ends => &raw];
                self.transfer(&start, &mean, base, to)
            } else {
                self.transfer(&start, &raw, base, to)
            };
            answers.push(raw);
        }
        Ok(x)
    }

    /// The step from the newest output and up to three earlier ones.
    pub(super) fn multistep<V: Vector>(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let mut raws = vec![self.raw(&s.predict()?, s.from)];
        raws.extend((1..4).map_while(|k| s.past(k)).map(|node| self.raw(&node.prediction, node.level)));
        let terms: Vec<(f64, &V)> = EQUAL_STEPS[raws.len() - 1].iter().copied().zip(&raws).collect();
        Ok(self.transfer(&s.x, &V::lin(&terms), s.from, s.to))
    }

    /// Half a step, in integer timesteps.
    pub(super) fn half(&self) -> f64 {
        (self.stride / 2.0).floor()
    }

    fn ask<V: Vector>(&self, s: &mut Step<'_, V>, x: &V, at: Level) -> Result<V, Halt> {
        Ok(self.raw(&s.predict_at(x, at)?, at))
    }

    fn level<V: Vector>(&self, s: &Step<'_, V>, t: f64) -> Level {
        if t < 0.0 { self.end } else { s.schedule().level(t) }
    }
}

impl<V: Vector> Solver<V> for StridedPndm {
    fn order(&self) -> usize {
        2
    }

    fn memory(&self) -> usize {
        3
    }

    fn step(&self, s: &mut Step<'_, V>) -> Result<V, Halt> {
        let (from, to) = (s.from, s.to);
        if self.runge_kutta && s.index < 3 {
            // The second timestep passed to the network lies above the stage's own level.
            let above = to.t + self.half();
            return self.runge_kutta(s, from, &[from.t, above, above, to.t]);
        }
        let p = s.predict()?;
        let (x, raw) = (s.x.clone(), self.raw(&p, from));
        if !self.runge_kutta && s.index == 0 && self.steps > 1 {
            let there = self.level(s, from.t - self.stride);
            let second = self.ask(s, &self.transfer(&x, &raw, from, there), to)?;
            let mean = lin![0.5 => &raw, 0.5 => &second];
            // The sample is treated as one of a step above the next timestep, if that is different.
            let start = s.schedule().level(to.t + self.stride);
            return Ok(self.transfer(&x, &mean, start, to));
        }
        self.multistep(s)
    }
}
