//! Optimizes all values of a [`Bespoke`] solver together: levels, times passed to the network, and weights.
//!
//! The distance to the converged solutions of a number of starting points is a sum of squares, minimized by the
//! Levenberg-Marquardt method. Its derivatives are finite differences; each runs the network again from the first
//! evaluation that the value affects. Weights are relative to the level they lead to, so that a sample moves with
//! its level. The objective is that of Shaul et al. 2024, arXiv:2403.01329, who use gradient descent; levels, and
//! separately the times passed to the network, are learned as in Tong et al. 2024, arXiv:2405.15506.

use std::ops::ControlFlow;

use super::{Case, Progress, error, run};
use crate::{
    level::Level, lin, phi::solve, predict::Halt, schedule::NoiseSchedule, solver::Bespoke, vector::Vector,
};

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Maximum number of iterations.
    pub iterations: usize,
    /// Stops when two iterations in a row lower the error by less than this fraction.
    pub tolerance: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { iterations: 20, tolerance: 0.003 }
    }
}

/// Improves `first` on `cases`, all of one size. Returns the result, never worse there than `first`, and its
/// [`error`]. `on` receives the progress and may stop it, as may a model that halts with [`Halt::Cancelled`]; the
/// best solver so far is returned.
///
/// # Errors
/// If a model halts before the first iteration.
pub fn refine<V: Vector>(
    first: &Bespoke,
    schedule: &dyn NoiseSchedule,
    cases: &[Case<'_, V>],
    options: &Options,
    on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(Bespoke, f64), Halt> {
    let mut best = Parameters::of(first, schedule);
    let mut least = error(first, cases)?;
    let (mut damping, mut slow) = (1e-3, 0);
    for iteration in 0..options.iterations {
        let before = least;
        let mut told = |share: f64, error: f64| on(Progress { iterations: iteration as f64 + share, error });
        let Some(normal) = Normal::of(&best, schedule, cases, &mut |share| told(0.8 * share, before))? else {
            break;
        };
        let mut found = false;
        for attempt in 0..6 {
            if told(0.8 + 0.2 * f64::from(attempt) / 6.0, least).is_break() {
                return Ok((best.solver(schedule), least));
            }
            let next = best.moved(&normal.step(damping), schedule);
            let reached = match next.solver(schedule).check() {
                Ok(()) => match error(&next.solver(schedule), cases) {
                    Err(Halt::Cancelled) => return Ok((best.solver(schedule), least)),
                    other => other?,
                },
                Err(_) => f64::NAN,
            };
            if reached < least {
                (best, least, found) = (next, reached, true);
                damping = (damping * 0.2).max(1e-9);
                break;
            }
            damping *= 6.0;
        }
        slow = if least < before * (1.0 - options.tolerance) { 0 } else { slow + 1 };
        if !found || slow == 2 {
            break;
        }
    }
    Ok((best.solver(schedule), least))
}

/// A solver's values, each of which can be changed separately.
#[derive(Clone)]
struct Parameters {
    /// `lambda` of each level.
    lambda: Vec<f64>,
    /// Offset of the time passed to the network, in `lambda`.
    shift: Vec<f64>,
    /// Weights relative to `sigma` (initial noise) and `alpha` (predictions) of the level they lead to.
    rows: Vec<Vec<f64>>,
    start_std: f64,
}

/// One value of [`Parameters`].
#[derive(Clone, Copy)]
enum Knob {
    Lambda(usize),
    Shift(usize),
    Weight(usize, usize),
}

impl Knob {
    /// The first evaluation that it affects.
    fn from(self) -> usize {
        match self {
            Self::Lambda(k) | Self::Shift(k) => k,
            Self::Weight(row, _) => row + 1,
        }
    }
}

/// Step of the finite differences.
const DELTA: f64 = 0.01;
/// Lower limit of a value's curvature in the damping, relative to the largest.
const FLAT: f64 = 0.03;
/// The largest change of a level or a weight in one step.
const FURTHEST: f64 = 0.7;

impl Parameters {
    fn of(solver: &Bespoke, schedule: &dyn NoiseSchedule) -> Self {
        let lambda: Vec<f64> = solver.levels.iter().map(|level| level.lambda()).collect();
        let shift = solver.levels.iter().map(|level| {
            let told = schedule.level(level.t).lambda() - level.lambda();
            if told.is_finite() { told } else { 0.0 }
        });
        let shift = shift.collect();
        let rows = (0..solver.evaluations()).map(|k| {
            let (start, answer) = scales(solver.levels.get(k + 1).copied());
            let scale = |(j, w): (usize, &f64)| w / if j == 0 { start } else { answer };
            solver.weights[k].iter().enumerate().map(scale).collect()
        });
        let rows = rows.collect();
        Self { lambda, shift, rows, start_std: solver.start_std }
    }

    fn solver(&self, schedule: &dyn NoiseSchedule) -> Bespoke {
        let levels: Vec<Level> = (self.lambda.iter().zip(&self.shift))
            .map(|(&lambda, &shift)| {
                let told = schedule.at_lambda(lambda + shift);
                Level { t: told.t, ..schedule.at_lambda(lambda) }
            })
            .collect();
        let weights = self.rows.iter().enumerate().map(|(k, row)| {
            let (start, answer) = scales(levels.get(k + 1).copied());
            row.iter().enumerate().map(|(j, w)| w * if j == 0 { start } else { answer }).collect()
        });
        let weights = weights.collect();
        Bespoke { levels, weights, start_std: self.start_std }
    }

    /// All values that may change; excludes levels of pure noise.
    fn knobs(&self) -> Vec<Knob> {
        let mut knobs = Vec::new();
        for (k, lambda) in self.lambda.iter().enumerate() {
            if lambda.is_finite() {
                knobs.extend([Knob::Lambda(k), Knob::Shift(k)]);
            }
        }
        for (row, weights) in self.rows.iter().enumerate() {
            knobs.extend((0..weights.len()).map(|j| Knob::Weight(row, j)));
        }
        knobs
    }

    fn turn(&mut self, knob: Knob, by: f64) {
        match knob {
            Knob::Lambda(k) => self.lambda[k] += by,
            Knob::Shift(k) => self.shift[k] += by,
            Knob::Weight(row, j) => self.rows[row][j] += by,
        }
    }

    /// All values changed by `by`, with levels clamped to the schedule.
    fn moved(&self, by: &[f64], schedule: &dyn NoiseSchedule) -> Self {
        let mut moved = self.clone();
        let most = by.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        let scale = if most > FURTHEST { FURTHEST / most } else { 1.0 };
        for (knob, by) in self.knobs().into_iter().zip(by) {
            moved.turn(knob, scale * by);
        }
        let times = schedule.times();
        let (low, high) = (schedule.level(times.max()).lambda(), schedule.level(times.min()).lambda());
        moved.lambda.iter_mut().filter(|l| l.is_finite()).for_each(|l| *l = l.clamp(low, high));
        moved
    }
}

/// What weights towards a level are relative to; without a level, the clean one.
fn scales(to: Option<Level>) -> (f64, f64) {
    to.map_or((1.0, 1.0), |level| (level.sigma, if level.alpha > 0.0 { level.alpha } else { 1.0 }))
}

/// The normal equations of the linearized problem.
struct Normal {
    matrix: Vec<Vec<f64>>,
    gradient: Vec<f64>,
}

impl Normal {
    /// `None` if `on` stops it.
    fn of<V: Vector>(
        at: &Parameters,
        schedule: &dyn NoiseSchedule,
        cases: &[Case<'_, V>],
        on: &mut dyn FnMut(f64) -> ControlFlow<()>,
    ) -> Result<Option<Self>, Halt> {
        let (knobs, solver) = (at.knobs(), at.solver(schedule));
        let n = knobs.len();
        let (mut matrix, mut gradient) = (vec![vec![0.0; n]; n], vec![0.0; n]);
        let turned: Vec<Bespoke> = knobs
            .iter()
            .map(|&knob| {
                let mut turned = at.clone();
                turned.turn(knob, DELTA);
                turned.solver(schedule)
            })
            .collect();
        for (index, case) in cases.iter().enumerate() {
            if on(index as f64 / cases.len() as f64).is_break() {
                return Ok(None);
            }
            let columns = || -> Result<(V, Vec<V>), Halt> {
                let mut answers = Vec::new();
                let end = run(&solver, case, &mut answers)?;
                let columns = knobs.iter().zip(&turned).map(|(knob, turned)| {
                    let mut known = answers[..knob.from().min(answers.len())].to_vec();
                    let other = run(turned, case, &mut known)?;
                    Ok(lin![1.0 / DELTA => &other, -1.0 / DELTA => &end])
                });
                Ok((lin![1.0 => &end, -1.0 => &case.target], columns.collect::<Result<_, Halt>>()?))
            };
            let (residual, columns) = match columns() {
                Err(Halt::Cancelled) => return Ok(None),
                other => other?,
            };
            for (i, column) in columns.iter().enumerate() {
                gradient[i] += column.dot(&residual);
                for (j, other) in columns[..i].iter().enumerate() {
                    let product = column.dot(other);
                    matrix[i][j] += product;
                    matrix[j][i] += product;
                }
                matrix[i][i] += column.dot(column);
            }
        }
        Ok(Some(Self { matrix, gradient }))
    }

    /// A step with Marquardt's damping, relative to each value's own curvature, or to a fraction of the largest for
    /// flat ones, so that they do not run away.
    fn step(&self, damping: f64) -> Vec<f64> {
        let largest = (0..self.gradient.len()).fold(0.0f64, |most, i| most.max(self.matrix[i][i]));
        let mut damped = self.matrix.clone();
        for (i, row) in damped.iter_mut().enumerate() {
            row[i] += damping * (row[i] + FLAT * largest) + 1e-12 * largest;
        }
        let step = solve(damped, self.gradient.iter().map(|g| -g).collect());
        step.into_iter().map(|v| if v.is_finite() { v } else { 0.0 }).collect()
    }
}
