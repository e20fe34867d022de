//! Learns a [`Bespoke`] solver for a model that reaches the end of the model's probability-flow ODE in few
//! evaluations.
//!
//! [`search`] finds levels and weights: given the levels, the weights of each step follow by least squares, so only
//! the levels are searched. [`refine`] then optimizes all values together.

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

/// A starting point (or a batch), its denoiser, and its converged solution.
pub struct Case<'a, V> {
    /// Standard normal noise; multiplied by the solver's `start_std` it is the sample at the first level.
    pub noise: V,
    /// The model.
    pub model: &'a dyn Denoiser<V>,
    /// The converged solution at levels that all cases share. Only [`search`] needs it.
    pub path: Vec<V>,
    /// The end of the converged solution.
    pub target: V,
}

/// Progress of the search or refinement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Finished iterations, including the fraction of the current one.
    pub iterations: f64,
    /// The root mean square distance to the targets so far.
    pub error: f64,
}

/// The root mean square distance of the solver's results from the targets of `cases`, all of one size.
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

/// Continues after the given predictions, and appends the new ones.
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
