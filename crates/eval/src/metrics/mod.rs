//! Scores of a set of pictures against another, from their features: pure functions of numbers.
//!
//! | score | of | paper |
//! |---|---|---|
//! | [`frechet`] | means and covariances | Heusel et al. 2017, arXiv:1706.08500 |
//! | [`kernel`] | a polynomial kernel, without bias | Bińkowski et al. 2018, arXiv:1801.01401 |
//! | [`inception`] | class probabilities | Salimans et al. 2016, arXiv:1606.03498 |
//! | [`manifold`] | balls around neighbours | Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797 |
//!
//! Sums are in `f64`, each made by one thread in one order: the same features give the same bits, whatever the
//! number of threads.

mod features;
pub mod frechet;
pub mod inception;
pub mod kernel;
mod linalg;
pub mod manifold;
mod moments;

pub use features::Features;
pub use moments::Moments;

use serde::Serialize;

/// Why there is no score.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum MetricError {
    /// Rows of different length.
    #[error("{found} features a picture, expected {expected} as in the other set")]
    Dimension {
        /// Of the set at fault.
        found: usize,
        /// Of the other.
        expected: usize,
    },
    /// A number of values that is no number of rows.
    #[error("{values} values are no rows of {dim} features")]
    Ragged {
        /// Values given.
        values: usize,
        /// Features of a row.
        dim: usize,
    },
    /// A value that is infinite or not a number.
    #[error("feature {feature} of picture {row} is not finite")]
    NotFinite {
        /// The picture's index.
        row: usize,
        /// The feature's.
        feature: usize,
    },
    /// Too few pictures for a covariance.
    #[error(
        "FID needs more pictures than features: {found} of {dim} give a covariance without full rank, and a \
         distance that says more about their number than about them"
    )]
    Singular {
        /// Pictures in the smaller set.
        found: usize,
        /// Features.
        dim: usize,
    },
    /// Too few pictures.
    #[error("{found} pictures are too few: {score} needs {least} or more")]
    TooFew {
        /// Pictures.
        found: usize,
        /// How many it takes.
        least: usize,
        /// What for.
        score: &'static str,
    },
    /// Rows that are no probabilities.
    #[error("picture {row}: class probabilities are from 0 to 1 and add up to 1")]
    Probabilities {
        /// The picture's index.
        row: usize,
    },
}

/// A score with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The score.
    pub value: f64,
    /// Its standard error, as far as the pictures at hand tell. Each score says which of its sets counts as a
    /// sample.
    pub standard_error: Option<f64>,
}

impl Score {
    /// The interval in which the score of endlessly many such sets lies 95 times of 100.
    pub fn interval(&self) -> Option<[f64; 2]> {
        self.standard_error.map(|e| [self.value - 1.96 * e, self.value + 1.96 * e])
    }

    /// The mean of independent values.
    pub(crate) fn mean(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let value = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - value).powi(2)).sum();
        Self { value, standard_error: (n > 1.0).then(|| (squares / (n - 1.0) / n).sqrt()) }
    }
}
