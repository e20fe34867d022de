//! Fits levels and weights of a [`Bespoke`] solver to converged solutions.
//!
//! Between two levels the sample is a weighted sum of the initial noise and of the predictions so far. Its target
//! is known, because the converged solution from the same starting point passes through the next level. So the
//! weights of one step are a linear regression over all starting points, and the step's own samples are the inputs
//! of the next evaluation. Weights therefore cost as many evaluations as sampling, and no derivatives. The form is
//! that of Shaul et al. 2024, arXiv:2403.01329; there, and in Frankel et al. 2025 (S4S, arXiv:2502.17423), weights
//! are found by gradient descent on the end.
//!
//! Levels are searched one by one among those of the converged solution. The search starts with few and adds one at
//! a time where it helps most; many levels that are spread evenly at once stay near where they started. The first
//! level moves, too: at low signal a sample is almost pure noise, so a multiple of the noise is as good a sample of
//! a cleaner level, and no evaluation is spent above it. Changing a level keeps the predictions before it.

use std::ops::ControlFlow;

use super::{Case, Progress};
use crate::{level::Level, lin, phi::solve, predict::Halt, solver::Bespoke, vector::Vector};

/// Added to the diagonal of the normal equations, relative to each value's own size, because predictions at
/// neighbouring levels are similar.
const RIDGE: f64 = 1e-5;
/// The fraction of the error that a move must save.
const WORTH: f64 = 1e-3;
/// Initial number of levels.
const BEGIN: usize = 3;
/// Sweeps before a level is added.
const GROWING: usize = 2;

/// Finds a solver with `evaluations` for `cases` of one size, whose [`Case::path`] is given at the decreasing
/// `levels`. Returns it with its [`error`](super::error()). It grows from a few levels; then each of at most
/// `sweeps` moves every level back and forth while that pays. `on` receives the progress and may stop the search,
/// as may a model that halts with [`Halt::Cancelled`]; the best solver so far is returned if all levels exist.
///
/// # Errors
/// If a model halts before the first solver is found, or if there are fewer levels than evaluations.
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
        let reason =
            format!("the reference solution has {count} levels, fewer than {evaluations} evaluations need");
        return Err(Halt::Failed(reason));
    }
    let begin = evaluations.min(BEGIN);
    let evenly = (0..begin).map(|k| k * count / begin).collect();
    let mut fit = Fit::new(levels, evenly, cases, None)?;
    // Growing counts as the first sweep.
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

/// The best weights for some levels, and the models' predictions there.
struct Fit<V> {
    /// Index of the level of each evaluation.
    at: Vec<usize>,
    start_std: f64,
    weights: Vec<Vec<f64>>,
    /// Predictions by case and evaluation.
    answers: Vec<Vec<V>>,
    /// Inner products of initial noise and predictions, summed over the cases.
    products: Vec<Vec<f64>>,
    error: f64,
}

impl<V: Vector> Fit<V> {
    /// Reuses what was found for other levels up to the evaluation `known.1`, the first that changed.
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

    /// Moves its levels back and forth, in at most `sweeps` over all of them, while that pays. If `on` or a model stops
    /// the search, the result so far is kept.
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

    /// Adds a level in the middle of the gap where it helps most.
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
        best.ok_or_else(|| Halt::Failed("no level can be added between the existing ones".into()))
    }

    /// Moves the level `which` by `stride` to either side, repeatedly, while that lowers the error.
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

/// Adds the inner products with the newest predictions.
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

/// The weights of initial noise and predictions that come closest to `wanted`.
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
