//! KID: the squared maximum mean discrepancy under the kernel `(x·y/d + 1)³`, by the estimator without bias
//! (Bińkowski et al. 2018, arXiv:1801.01401). Unlike FID its expectation does not depend on the number of
//! pictures; it may be a little below zero for sets that are alike.

use super::{Features, MetricError, Score, linalg::products};

/// Pictures of a block, if there are enough for ten.
const BLOCK: usize = 1000;
/// The least blocks, so that their spread means something.
const BLOCKS: usize = 10;

/// KID with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Kid {
    /// The mean of the blocks, with its standard error: both sets are samples.
    pub score: Score,
    /// Blocks.
    pub blocks: usize,
    /// Pictures of each set in a block.
    pub block: usize,
}

/// KID between two sets, as the mean over blocks that have no picture in common, so that they are independent
/// and their spread is the error: 1000 pictures of each set a block, or a tenth of the smaller set.
/// Costs `n·block·dim`.
///
/// # Errors
/// For different numbers of features, or fewer than 20 pictures in a set.
pub fn kid(a: &Features, b: &Features) -> Result<Kid, MetricError> {
    a.same_dim(b)?;
    for set in [a, b] {
        set.at_least(2 * BLOCKS, "KID")?;
    }
    let block = BLOCK.min(a.len().min(b.len()) / BLOCKS);
    let blocks = a.len().min(b.len()) / block;
    let (a, b) = (a.shuffled(), b.shuffled());
    let part = |set: &Features, at: usize| wide(set.rows(at * block, (at + 1) * block));
    let values: Vec<f64> = (0..blocks).map(|at| discrepancy(&part(&a, at), &part(&b, at), a.dim())).collect();
    Ok(Kid { score: Score::mean(&values), blocks, block })
}

/// The estimator without bias of the squared discrepancy of all of two sets. Costs `(n + m)²·dim` and a matrix
/// of that size.
///
/// # Errors
/// For different numbers of features, or fewer than two pictures in a set.
pub fn squared_discrepancy(a: &Features, b: &Features) -> Result<f64, MetricError> {
    a.same_dim(b)?;
    for set in [a, b] {
        set.at_least(2, "the discrepancy")?;
    }
    Ok(discrepancy(&wide(a.values()), &wide(b.values()), a.dim()))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn discrepancy(a: &[f64], b: &[f64], dim: usize) -> f64 {
    let kernel = |products: Vec<f64>| -> Vec<f64> {
        products.into_iter().map(|p| (p / dim as f64 + 1.0).powi(3)).collect()
    };
    let (n, m) = ((a.len() / dim) as f64, (b.len() / dim) as f64);
    let within = |set: &[f64], n: f64| {
        let k = kernel(products(set, set, dim));
        let diagonal: f64 = k.iter().step_by(set.len() / dim + 1).sum();
        (k.iter().sum::<f64>() - diagonal) / (n * (n - 1.0))
    };
    let across: f64 = kernel(products(a, b, dim)).iter().sum();
    within(a, n) + within(b, m) - 2.0 * across / (n * m)
}
