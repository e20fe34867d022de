//! Learning a [`Bespoke`] solver for a model, such that in few evaluations it ends where the model's own
//! probability-flow ODE does.
//!
//! [`search`] finds levels and weights: given levels, each step's weights follow by least squares, so that only the
//! levels are to be searched. [`refine`] then changes all numbers at once.

mod fit;
mod refine;

pub use fit::search;
pub use refine::{Options, refine};

use crate::{
    lin,
    predict::{Denoiser, Halt},
    solver::Bespoke,
    vector::Vector,
};

/// A start (or a batch of them), its denoiser, and its converged solution.
pub struct Case<'a, V> {
    /// Standard normal noise; times the solver's `start_std` it is the sample at the first level.
    pub noise: V,
    /// The model.
    pub model: &'a dyn Denoiser<V>,
    /// The converged solution on its way, at levels that all cases share. For [`search`] alone.
    pub path: Vec<V>,
    /// Where the converged solution ends.
    pub target: V,
}

/// How far learning is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Iterations done, and the share of the present one.
    pub iterations: f64,
    /// The root mean square distance to the targets so far.
    pub error: f64,
}

/// The root mean square distance of the solver's ends from the targets of `cases`, all of one size.
///
/// # Errors
/// If a model halts.
pub fn error<V: Vector>(solver: &Bespoke, cases: &[Case<'_, V>]) -> Result<f64, Halt> {
    let mut squares = 0.0;
    for case in cases {
        let end = run(solver, case, &mut Vec::new())?;
        squares += lin![1.0 => &end, -1.0 => &case.target].rms().powi(2);
    }
    Ok((squares / cases.len().max(1) as f64).sqrt())
}

/// Runs on from the answers there are, and adds those that come.
fn run<V: Vector>(solver: &Bespoke, case: &Case<'_, V>, answers: &mut Vec<V>) -> Result<V, Halt> {
    let start = lin![solver.start_std => &case.noise];
    for k in answers.len()..solver.evaluations() {
        let x = match k {
            0 => start.clone(),
            _ => solver.sum(k - 1, &start, answers),
        };
        answers.push(case.model.denoise(&x, solver.levels[k])?.x0);
    }
    Ok(solver.sum(solver.evaluations() - 1, &start, answers))
}
