//! Which noise levels to visit, and where to add noise.
//!
//! Stochastic samplers are transformations of a plan, not solvers: DDPM, DDIM(eta) and the ancestral
//! samplers are all a deterministic step to a lower level followed by fresh noise.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{forward::posterior, level::Level, schedule::NoiseSchedule};

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Move {
    /// The solver moves the sample to this level.
    Solve(Level),
    /// The forward process moves the sample from its level up to `to`, with noise multiplied by `scale` (1 keeps
    /// the marginals exact).
    Renoise {
        /// The noisier level.
        to: Level,
        /// Factor of the added noise.
        scale: f64,
    },
    /// Treat the same sample as one of another level: some published samplers step to one level and then
    /// evaluate the network at another.
    Relabel(Level),
}

impl Move {
    /// The level after the move.
    pub fn to(self) -> Level {
        match self {
            Self::Solve(to) | Self::Renoise { to, .. } | Self::Relabel(to) => to,
        }
    }
}

/// Where a plan ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Final {
    /// With a final step to the noise-free level.
    Clean,
    /// At the last given time.
    LastTime,
    /// With a final step to this level, the table's first, for schedulers that never reach zero noise.
    Level(Level),
}

/// How a sampler adds fresh noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseRule {
    /// No noise: the probability-flow ODE.
    #[default]
    None,
    /// `eta` times the posterior's standard deviation: [`Plan::ancestral`].
    Ancestral {
        /// 0 is deterministic, 1 is DDPM with its smaller variance.
        eta: f64,
    },
    /// DDPM's larger variance: [`Plan::fixed_large`].
    FixedLarge,
    /// Predict a clean sample in every step and add noise again: [`Plan::consistency`].
    Consistency,
    /// Step below the next level, then add noise back up to it: [`Plan::strategic`].
    Strategic {
        /// How far below: 0 is deterministic, 1 equals `Consistency`.
        gamma: f64,
    },
    /// Add noise before each step: [`Plan::churn`].
    Churn(Churn),
    /// Repeat an interval of levels: [`Plan::restart`].
    Restart(Restart),
}

/// EDM's stochasticity. Karras et al. 2022, arXiv:2206.00364, algorithm 2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// Total amount, distributed over the steps. 0 is deterministic.
    pub s_churn: f64,
    /// Smallest noise-to-signal ratio at which noise is added.
    pub s_min: f64,
    /// Largest noise-to-signal ratio at which noise is added.
    pub s_max: f64,
    /// Factor of the added noise.
    pub s_noise: f64,
}

/// An interval of noise levels to repeat. Xu et al. 2023, arXiv:2306.14878.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// Smallest noise-to-signal ratio of the interval.
    pub s_min: f64,
    /// Largest noise-to-signal ratio of the interval.
    pub s_max: f64,
    /// Number of repetitions.
    pub times: usize,
}

/// Why a plan cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A plan without steps.
    #[error("a plan needs at least 2 levels, got {levels}")]
    TooShort {
        /// Number of levels given.
        levels: usize,
    },
    /// Times that do not decrease.
    #[error("times[{index}] = {time}: expected finite, strictly decreasing times")]
    NotDescending {
        /// Index of the time.
        index: usize,
        /// The time.
        time: f64,
    },
    /// A transformation of a plan that already adds noise.
    #[error("{transformation} must be applied before the transformation that adds noise")]
    AlreadyNoisy {
        /// Name of the transformation.
        transformation: &'static str,
    },
}

/// The start of a trajectory, and its moves.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The level of the initial sample.
    pub start: Level,
    /// Standard deviation of the initial noise; the caller multiplies a standard normal by it. Zero if the plan
    /// starts from a clean sample.
    pub start_std: f64,
    /// The moves, in order.
    pub moves: Vec<Move>,
    /// The process that the levels belong to; it defines the levels in between.
    pub schedule: Arc<dyn NoiseSchedule>,
}

impl Plan {
    /// A deterministic plan that visits `levels` in order, the first being the start. Levels with increasing noise
    /// invert a sampler.
    ///
    /// # Errors
    /// [`PlanError::TooShort`] for fewer than two levels.
    pub fn through(schedule: Arc<dyn NoiseSchedule>, levels: &[Level]) -> Result<Self, PlanError> {
        match levels {
            [start, rest @ ..] if !rest.is_empty() => Ok(Self {
                start: *start,
                start_std: start.alpha.hypot(start.sigma),
                moves: rest.iter().map(|&l| Move::Solve(l)).collect(),
                schedule,
            }),
            _ => Err(PlanError::TooShort { levels: levels.len() }),
        }
    }

    /// A deterministic plan that visits the schedule's levels at strictly decreasing `times` and ends as `end`
    /// says. With [`Final::Clean`] or [`Final::Level`], the solver is called once per time.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tweedie_core::{Plan, plan::Final, schedule::TableSchedule, spacing};
    /// let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02)?);
    /// let plan = Plan::descend(schedule, &spacing::trailing(1000, 20)?, Final::Clean)?.ancestral(1.0);
    /// assert_eq!(plan.solves(), 20);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn descend(schedule: Arc<dyn NoiseSchedule>, times: &[f64], end: Final) -> Result<Self, PlanError> {
        check_descending(times)?;
        let mut levels: Vec<Level> = times.iter().map(|&t| schedule.level(t)).collect();
        match end {
            Final::Clean => levels.push(Level::CLEAN),
            Final::Level(level) => levels.push(level),
            Final::LastTime => {}
        }
        Self::through(schedule, &levels)
    }

    /// A plan that steps from each time to the one `stride` below it, even if that is not the next time, as
    /// diffusers' DDIM does; the sample is then relabelled. A step below time 0 ends at `end`.
    pub fn strided(
        schedule: Arc<dyn NoiseSchedule>,
        times: &[f64],
        stride: f64,
        end: Level,
    ) -> Result<Self, PlanError> {
        check_descending(times)?;
        let Some(&first) = times.first() else { return Err(PlanError::TooShort { levels: 0 }) };
        let start = schedule.level(first);
        let mut moves = Vec::with_capacity(2 * times.len());
        for (i, &t) in times.iter().enumerate() {
            let below = t - stride;
            moves.push(Move::Solve(if below < 0.0 { end } else { schedule.level(below) }));
            if let Some(&next) = times.get(i + 1)
                && next != below
            {
                moves.push(Move::Relabel(schedule.level(next)));
            }
        }
        Ok(Self { start, start_std: start.alpha.hypot(start.sigma), moves, schedule })
    }

    /// Number of solver calls.
    pub fn solves(&self) -> usize {
        self.moves.iter().filter(|m| matches!(m, Move::Solve(_))).count()
    }

    /// Iterates over the level before each move, and the move.
    pub fn steps(&self) -> impl Iterator<Item = (Level, Move)> + '_ {
        std::iter::once(self.start).chain(self.moves.iter().map(|m| m.to())).zip(self.moves.iter().copied())
    }

    /// The index and the level before each solver call.
    pub(crate) fn solve_starts(&self) -> Vec<(usize, Level)> {
        let solves = self.steps().enumerate().filter(|(_, (_, step))| matches!(step, Move::Solve(_)));
        solves.map(|(index, (level, _))| (index, level)).collect()
    }

    /// Adds fresh noise according to a rule.
    pub fn with_noise(self, rule: NoiseRule) -> Self {
        match rule {
            NoiseRule::None => self,
            NoiseRule::Ancestral { eta } => self.ancestral(eta),
            NoiseRule::FixedLarge => self.fixed_large(),
            NoiseRule::Consistency => self.consistency(),
            NoiseRule::Strategic { gamma } => self.strategic(gamma),
            NoiseRule::Churn(churn) => self.churn(churn),
            NoiseRule::Restart(restart) => self.restart(restart),
        }
    }

    /// Splits every step into a step to a cleaner level and fresh noise with `eta` times the posterior's standard
    /// deviation, such that the marginals stay exact. With a first-order solver and `eta = 1` this is DDPM with
    /// its smaller variance, also called Euler ancestral; with other `eta`, in `0..=1`, it is DDIM.
    /// Song et al. 2021, arXiv:2010.02502, eq. 16.
    pub fn ancestral(self, eta: f64) -> Self {
        self.split(eta, |_, _| 1.0)
    }

    /// DDPM with its larger variance `β`: the ancestral step with noise scaled by `√(β/β̃)`. The last step, to a
    /// clean level, adds none.
    pub fn fixed_large(self) -> Self {
        self.split(1.0, |from, to| from.sigma / to.sigma)
    }

    fn split(mut self, eta: f64, scale: impl Fn(Level, Level) -> f64) -> Self {
        let mut moves = Vec::with_capacity(2 * self.moves.len());
        for (from, step) in self.steps() {
            let Move::Solve(to) = step else {
                moves.push(step);
                continue;
            };
            let up = (eta * posterior(from, to).variance.sqrt()).min(to.sigma);
            if up > 0.0 && to.nsr() < from.nsr() {
                let down = ((to.sigma - up) * (to.sigma + up)).sqrt();
                moves.push(Move::Solve(self.schedule.at_nsr(down / to.alpha)));
                moves.push(Move::Renoise { to, scale: scale(from, to) });
            } else {
                moves.push(step);
            }
        }
        self.moves = moves;
        self
    }

    /// Adds noise before every step whose level lies within the range of `churn`, except at levels of pure noise.
    pub fn churn(mut self, churn: Churn) -> Self {
        let gamma = (churn.s_churn / self.solves() as f64).min(std::f64::consts::SQRT_2 - 1.0);
        let mut moves = Vec::with_capacity(2 * self.moves.len());
        for (from, step) in self.steps() {
            let nsr = from.nsr();
            let within = nsr >= churn.s_min && nsr <= churn.s_max && nsr.is_finite();
            if matches!(step, Move::Solve(_)) && within && gamma > 0.0 {
                let to = self.schedule.at_nsr(nsr * (1.0 + gamma));
                moves.push(Move::Renoise { to, scale: churn.s_noise });
            }
            moves.push(step);
        }
        self.moves = moves;
        self
    }

    /// Makes every step go to a clean sample, which is noised again to the end of the step. For consistency
    /// models, which predict the end of the trajectory directly: Song et al. 2023, arXiv:2303.01469, algorithm 1;
    /// Luo et al. 2023 (LCM), arXiv:2310.04378.
    pub fn consistency(self) -> Self {
        self.overshoot(|_, _| Level::CLEAN)
    }

    /// Makes every step go below its end `t` to the time `(1 − gamma)·t` (rounded down in a table) and back up
    /// with fresh noise; `gamma` in `0..=1`. Zheng et al. 2024 (TCD), arXiv:2402.19159.
    pub fn strategic(self, gamma: f64) -> Self {
        if gamma == 0.0 {
            return self;
        }
        self.overshoot(|schedule, to| {
            let times = schedule.times();
            let time = times.min() + (1.0 - gamma) * (to.t - times.min());
            let below = schedule.level(if times.is_table() { time.floor() } else { time });
            if below.nsr() < to.nsr() { below } else { to }
        })
    }

    /// Splits every step that does not end clean into a step to the level `below` its end, and noise.
    fn overshoot(mut self, below: impl Fn(&dyn NoiseSchedule, Level) -> Level) -> Self {
        let mut moves = Vec::with_capacity(2 * self.moves.len());
        for step in self.moves {
            match step {
                Move::Solve(to) if !to.is_clean() => {
                    let down = below(&*self.schedule, to);
                    moves.push(Move::Solve(down));
                    if down.sigma < to.sigma {
                        moves.push(Move::Renoise { to, scale: 1.0 });
                    }
                }
                _ => moves.push(step),
            }
        }
        self.moves = moves;
        self
    }

    /// After the interval has been passed, adds noise back to its upper end and repeats the same levels, `times`
    /// over. The interval's ends are the plan's own levels within it; the last step to a clean level is never
    /// part of it. A plan without a step in the interval, or one that already adds noise, is unchanged.
    pub fn restart(mut self, restart: Restart) -> Self {
        let steps: Vec<(Level, Move)> = self.steps().collect();
        if steps.iter().any(|(_, step)| !matches!(step, Move::Solve(_))) {
            return self;
        }
        let first = steps.iter().position(|(from, _)| from.nsr() <= restart.s_max);
        let last =
            steps.iter().rposition(|(_, step)| step.to().nsr() >= restart.s_min.max(f64::MIN_POSITIVE));
        let (Some(first), Some(last)) = (first, last) else { return self };
        if first > last {
            return self;
        }
        let again: Vec<Move> = std::iter::once(Move::Renoise { to: steps[first].0, scale: 1.0 })
            .chain(self.moves[first..=last].iter().copied())
            .collect();
        let again = again.repeat(restart.times);
        self.moves.splice(last + 1..last + 1, again);
        self
    }

    /// Goes back up by `jump` steps with fresh noise, each time the plan has passed as many, and makes the steps again, so
    /// that each is made `times` times in all. The first steps that are fewer than `jump` in number, and the last one, to
    /// the end of the plan, are only made once. Lugmayr et al. 2022 (RePaint), arXiv:2201.09865, algorithm 1 and
    /// appendix B.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tweedie_core::{Move, Plan, plan::Final, schedule::TableSchedule, spacing};
    /// let schedule = Arc::new(TableSchedule::linear(1000, 1e-4, 0.02)?);
    /// let plan = Plan::descend(schedule, &spacing::trailing(1000, 20)?, Final::Clean)?.resampled(5, 3)?;
    /// // Jumps at the steps 0, 5 and 10 from the end, twice each.
    /// assert_eq!(plan.moves.iter().filter(|step| matches!(step, Move::Renoise { .. })).count(), 6);
    /// assert_eq!(plan.solves(), 20 + 6 * 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PlanError::AlreadyNoisy`] if the plan adds noise.
    pub fn resampled(mut self, jump: usize, times: usize) -> Result<Self, PlanError> {
        // Each solver's move with the relabelling that follows it.
        let mut steps: Vec<(Level, Vec<Move>)> = Vec::new();
        for (from, step) in self.steps() {
            match (step, steps.last_mut()) {
                (Move::Renoise { .. }, _) => {
                    return Err(PlanError::AlreadyNoisy { transformation: "resampling" });
                }
                (Move::Relabel(_), Some((_, moves))) => moves.push(step),
                _ => steps.push((from, vec![step])),
            }
        }
        let count = steps.len();
        // By the number of steps that follow before the last one.
        let mut jumps = vec![0; count];
        for place in (0..count.saturating_sub(jump)).step_by(jump.max(1)) {
            jumps[place] = times.saturating_sub(1);
        }
        let (mut place, mut moves) = (0, Vec::new());
        while let Some((from, step)) = steps.get(place) {
            let left = &mut jumps[count - 1 - place];
            if *left > 0 && jump > 0 {
                *left -= 1;
                place -= jump;
                moves.push(Move::Renoise { to: steps[place].0, scale: 1.0 });
                debug_assert!(steps[place].0.nsr() > from.nsr());
            } else {
                moves.extend(step);
                place += 1;
            }
        }
        self.moves = moves;
        Ok(self)
    }

    /// The same levels upwards, from the last to the first. Inverts deterministic samplers such as DDIM.
    /// Song et al. 2021, arXiv:2010.02502, section 4.3. Start it from a clean sample without noise.
    ///
    /// # Errors
    /// [`PlanError::AlreadyNoisy`] if the plan adds noise, [`PlanError::TooShort`] if it has no moves.
    pub fn inverted(mut self) -> Result<Self, PlanError> {
        if self.moves.is_empty() {
            return Err(PlanError::TooShort { levels: 1 });
        }
        if self.moves.iter().any(|m| matches!(m, Move::Renoise { .. })) {
            return Err(PlanError::AlreadyNoisy { transformation: "inversion" });
        }
        let steps: Vec<(Level, Move)> = self.steps().collect();
        if let Some((_, last)) = steps.last() {
            self.start = last.to();
        }
        let back = |(from, step): (Level, Move)| match step {
            Move::Relabel(_) => Move::Relabel(from),
            _ => Move::Solve(from),
        };
        self.moves = steps.into_iter().rev().map(back).collect();
        self.start_std = 0.0;
        Ok(self)
    }

    /// The plan without its first `step` solver steps, like diffusers' `set_begin_index` in image-to-image pipelines. The
    /// sample must then be at the level of the new start. Meng et al. 2022, arXiv:2108.01073. `None` if no step remains.
    pub fn begun_at(mut self, step: usize) -> Option<Self> {
        let &(index, start) = self.solve_starts().get(step)?;
        self.moves.drain(..index);
        Some(Self { start, start_std: start.alpha.hypot(start.sigma), ..self })
    }
}

fn check_descending(times: &[f64]) -> Result<(), PlanError> {
    let mut before = f64::INFINITY;
    for (index, &time) in times.iter().enumerate() {
        if !(time.is_finite() && time < before) {
            return Err(PlanError::NotDescending { index, time });
        }
        before = time;
    }
    Ok(())
}
