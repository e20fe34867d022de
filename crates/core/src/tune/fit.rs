//! Levels and weights of a [`Bespoke`] solver, from what the converged solutions pass through.
//!
//! Between two levels the sample is a sum of the start and of the answers so far. What it should be is known, for
//! the converged solution of the same start passes the next level, too: the weights of one step are those of a
//! linear regression over all starts, after which the step's own samples are what the network is asked at next. So
//! weights cost as many evaluations as sampling does, and no derivatives. They are as in Shaul et al. 2024,
//! arXiv:2403.01329; there, and in Frankel et al. 2025 (S4S, arXiv:2502.17423), by gradient descent on the end.
//!
//! Levels are searched one by one, among those at which the converged solution is known. There are few at first, and
//! one more at a time, where it helps most: many at once, spread evenly, stay where they fell. The first is one of them: at
//! little signal a sample is all but noise, so that a multiple of the noise is as good a sample of a cleaner level,
//! and no evaluation is spent above it. A change of a level keeps the answers before it.

use std::ops::ControlFlow;

use super::{Case, Progress};
use crate::{level::Level, lin, phi::solve, predict::Halt, solver::Bespoke, vector::Vector};

/// What is added to the diagonal of the normal equations, each number in units of its own size: answers of
/// neighbouring levels resemble each other.
const RIDGE: f64 = 1e-5;
/// The share of the error that a move must save.
const WORTH: f64 = 1e-3;
/// Levels to begin with.
const BEGIN: usize = 3;
/// Sweeps before one more level.
const GROWING: usize = 2;

/// Finds a solver of `evaluations` on `cases`, all of one size, whose [`Case::path`] is at `levels`, falling. Gives
/// it with its [`error`](super::error()). It grows from a few levels; then each of at most `sweeps` moves every level back
/// and forth while that pays. `on` hears of the progress and may end the work, as a model that halts with
/// [`Halt::Cancelled`] does; what was reached by then is kept, if all levels are there.
///
/// # Errors
/// If a model halts before the first solver is found, or there are fewer levels than evaluations.
pub fn search<V: Vector>(
    levels: &[Level],
    evaluations: usize,
    cases: &[Case<'_, V>],
    sweeps: usize,
    on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(Bespoke, f64), Halt> {
    let count = levels.len();
    if evaluations == 0 || count < evaluations || cases.iter().any(|case| case.path.len() != count) {
        let reason = format!("a solution at {count} levels for {evaluations} evaluations");
        return Err(Halt::Failed(reason));
    }
    let begin = evaluations.min(BEGIN);
    let evenly = (0..begin).map(|k| k * count / begin).collect();
    let mut fit = Fit::new(levels, evenly, cases, None)?;
    // All of this counts as the first sweep.
    while fit.at.len() < evaluations {
        let grown = (fit.at.len() - begin) as f64;
        let mut tell = |sweeps: f64, error| {
            let iterations = (grown + sweeps / (GROWING + 1) as f64) / (evaluations - begin) as f64;
            on(Progress { iterations, error })
        };
        fit = fit.settled(levels, cases, GROWING, &mut |p| tell(p.iterations, p.error))?;
        if tell(GROWING as f64, fit.error).is_break() {
            return Err(Halt::Cancelled);
        }
        fit = fit.grown(levels, cases)?;
    }
    let first = usize::from(evaluations > begin);
    let fit = fit.settled(levels, cases, sweeps.saturating_sub(first), &mut |p| {
        on(Progress { iterations: p.iterations + first as f64, ..p })
    })?;
    let error = fit.error;
    Ok((fit.solver(levels), error))
}

/// The best weights for some levels, and what the models answered there.
struct Fit<V> {
    /// The index of each evaluation's level.
    at: Vec<usize>,
    start_std: f64,
    weights: Vec<Vec<f64>>,
    /// By case and evaluation.
    answers: Vec<Vec<V>>,
    /// Products of start and answers with each other, summed over the cases.
    products: Vec<Vec<f64>>,
    error: f64,
}

impl<V: Vector> Fit<V> {
    /// What was found for other levels holds up to the evaluation `known.1`, the first that changed.
    fn new(
        levels: &[Level],
        at: Vec<usize>,
        cases: &[Case<'_, V>],
        known: Option<(&Self, usize)>,
    ) -> Result<Self, Halt> {
        let known = known.filter(|(_, kept)| *kept > 0);
        let kept = known.map_or(0, |(_, kept)| kept);
        let start_std = known.map_or_else(|| scale(cases, at[0]), |(fit, _)| fit.start_std);
        let starts: Vec<V> = cases.iter().map(|case| lin![start_std => &case.noise]).collect();
        let (mut answers, mut products, mut weights) = match known {
            Some((fit, _)) => (
                fit.answers.iter().map(|answers| answers[..kept].to_vec()).collect(),
                fit.products[..=kept].iter().map(|row| row[..=kept].to_vec()).collect(),
                fit.weights[..kept - 1].to_vec(),
            ),
            None => {
                let own: f64 = starts.iter().map(|start| start.dot(start)).sum();
                (vec![Vec::new(); cases.len()], vec![vec![own]], Vec::new())
            }
        };
        for k in kept..at.len() {
            if k > 0 {
                weights.push(regression(&products, cases, &starts, &answers, |case| &case.path[at[k]]));
            }
            for ((case, start), answers) in cases.iter().zip(&starts).zip(&mut answers) {
                let x =
                    weights.last().map_or_else(|| start.clone(), |row| Bespoke::sum_of(row, start, answers));
                answers.push(case.model.denoise(&x, levels[at[k]])?.x0);
            }
            extend(&mut products, &starts, &answers);
        }
        weights.push(regression(&products, cases, &starts, &answers, |case| &case.target));
        let last = &weights[at.len() - 1];
        let squares = (cases.iter().zip(&starts).zip(&answers)).map(|((case, start), answers)| {
            lin![1.0 => &Bespoke::sum_of(last, start, answers), -1.0 => &case.target].rms().powi(2)
        });
        let error = (squares.sum::<f64>() / cases.len().max(1) as f64).sqrt();
        Ok(Self { at, start_std, weights, answers, products, error })
    }

    /// Its levels moved back and forth, in at most `sweeps` over all of them, while that pays. What was reached when
    /// `on` or a model ends the work is kept.
    fn settled(
        mut self,
        levels: &[Level],
        cases: &[Case<'_, V>],
        sweeps: usize,
        on: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Self, Halt> {
        let evaluations = self.at.len();
        let mut strides = vec![(levels.len() / (3 * evaluations)).max(1); evaluations];
        for sweep in 0..sweeps {
            let before = (self.error, strides.clone());
            for (turn, which) in (0..evaluations).rev().enumerate() {
                let iterations = sweep as f64 + turn as f64 / evaluations as f64;
                if on(Progress { iterations, error: self.error }).is_break() {
                    return Ok(self);
                }
                match self.moved(levels, cases, which, strides[which]) {
                    Ok(Some(better)) => self = better,
                    Ok(None) => strides[which] = (strides[which] / 2).max(1),
                    Err(Halt::Cancelled) => return Ok(self),
                    Err(halt) => return Err(halt),
                }
            }
            if before == (self.error, strides.clone()) {
                break;
            }
        }
        Ok(self)
    }

    /// With one more level, in the middle of the gap where it helps most.
    fn grown(&self, levels: &[Level], cases: &[Case<'_, V>]) -> Result<Self, Halt> {
        let mut best: Option<Self> = None;
        for place in 0..=self.at.len() {
            let above = place.checked_sub(1).map_or(0, |before| self.at[before] + 1);
            let below = self.at.get(place).copied().unwrap_or(levels.len());
            if above == below {
                continue;
            }
            let mut at = self.at.clone();
            at.insert(place, above.midpoint(below));
            let grown = Self::new(levels, at, cases, Some((self, place)))?;
            if best.as_ref().is_none_or(|best| grown.error < best.error) {
                best = Some(grown);
            }
        }
        best.ok_or_else(|| Halt::Failed("no gap between levels is left".into()))
    }

    /// The level `which` moved by `stride` to either side, on and on while that lowers the error.
    fn moved(
        &self,
        levels: &[Level],
        cases: &[Case<'_, V>],
        which: usize,
        stride: usize,
    ) -> Result<Option<Self>, Halt> {
        let above = which.checked_sub(1).map_or(0, |before| self.at[before] + 1);
        let below = self.at.get(which + 1).copied().unwrap_or(levels.len());
        for cleaner in [true, false] {
            let mut best: Option<Self> = None;
            loop {
                let now = best.as_ref().unwrap_or(self);
                let index = now.at[which];
                let next = if cleaner { index.checked_add(stride) } else { index.checked_sub(stride) };
                let Some(next) = next.filter(|next| (above..below).contains(next)) else { break };
                let mut at = now.at.clone();
                at[which] = next;
                let moved = Self::new(levels, at, cases, Some((now, which)))?;
                let better = moved.error < now.error * (1.0 - WORTH);
                if !better {
                    break;
                }
                best = Some(moved);
            }
            if best.is_some() {
                return Ok(best);
            }
        }
        Ok(None)
    }

    fn solver(self, levels: &[Level]) -> Bespoke {
        let levels = self.at.iter().map(|&index| levels[index]).collect();
        Bespoke { levels, weights: self.weights, start_std: self.start_std }
    }
}

/// The multiple of the noise that is closest to the converged solutions at a level.
fn scale<V: Vector>(cases: &[Case<'_, V>], level: usize) -> f64 {
    let along: f64 = cases.iter().map(|case| case.noise.dot(&case.path[level])).sum();
    let own: f64 = cases.iter().map(|case| case.noise.dot(&case.noise)).sum();
    along / own
}

/// Adds the products with the newest answers.
fn extend<V: Vector>(products: &mut Vec<Vec<f64>>, starts: &[V], answers: &[Vec<V>]) {
    let mut row = vec![0.0; products.len() + 1];
    for (start, answers) in starts.iter().zip(answers) {
        let Some(newest) = answers.last() else { continue };
        for (product, other) in row.iter_mut().zip(std::iter::once(start).chain(answers)) {
            *product += newest.dot(other);
        }
    }
    for (above, product) in products.iter_mut().zip(&row) {
        above.push(*product);
    }
    products.push(row);
}

/// The weights of start and answers that come closest to what is `wanted`.
fn regression<'c, V: Vector>(
    products: &[Vec<f64>],
    cases: &'c [Case<'_, V>],
    starts: &[V],
    answers: &[Vec<V>],
    wanted: impl Fn(&'c Case<'_, V>) -> &'c V,
) -> Vec<f64> {
    let n = products.len();
    let size = |i: usize| if products[i][i] > 0.0 { products[i][i].sqrt() } else { 1.0 };
    let mut right = vec![0.0; n];
    for ((case, start), answers) in cases.iter().zip(starts).zip(answers) {
        for (product, term) in right.iter_mut().zip(std::iter::once(start).chain(answers)) {
            *product += term.dot(wanted(case));
        }
    }
    let mut matrix: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|j| products[i][j] / (size(i) * size(j))).collect()).collect();
    for (i, row) in matrix.iter_mut().enumerate() {
        row[i] += RIDGE;
    }
    let found = solve(matrix, right.iter().enumerate().map(|(i, r)| r / size(i)).collect());
    found.iter().enumerate().map(|(i, w)| w / size(i)).collect()
}
