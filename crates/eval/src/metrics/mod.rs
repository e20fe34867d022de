//! Scores that compare sets of images by their features: pure functions of values.
//!
//! | score | of | paper |
//! |---|---|---|
//! | [`frechet`] | means and covariances | Heusel et al. 2017, arXiv:1706.08500 |
//! | [`kernel`] | a polynomial kernel, unbiased | Bińkowski et al. 2018, arXiv:1801.01401 |
//! | [`inception`] | class probabilities | Salimans et al. 2016, arXiv:1606.03498 |
//! | [`manifold`] | balls around neighbours | Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797 |
//!
//! Sums are in `f64` with a fixed order: the same features give the same bits for any number of threads.
//! Products of all pairs of two sets run on the CPU engine in bounded memory; [`Reference`] keeps what depends on the data alone.

mod features;
pub mod frechet;
pub mod inception;
pub mod kernel;
mod linalg;
pub mod manifold;
mod moments;
pub(crate) mod pairs;
mod reference;

pub use features::Features;
pub use moments::Moments;
pub use pairs::Watch;
pub use reference::Reference;

use serde::Serialize;

/// Why a score cannot be computed.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum MetricError {
    /// Rows of different length.
    #[error("{found} features per image, expected {expected} as in the other set")]
    Dimension {
        /// Features of this set.
        found: usize,
        /// Features of the other set.
        expected: usize,
    },
    /// A number of values that is not a multiple of the features.
    #[error("{values} values cannot be divided into rows of {dim} features")]
    Ragged {
        /// Number of values.
        values: usize,
        /// Features per row.
        dim: usize,
    },
    /// A value that is not finite.
    #[error("feature {feature} of image {row} is not finite")]
    NotFinite {
        /// Index of the image.
        row: usize,
        /// Index of the feature.
        feature: usize,
    },
    /// Too few images for a covariance of full rank.
    #[error(
        "FID needs more images than features, got {found} images for {dim} features; the covariance would not have \
         full rank"
    )]
    Singular {
        /// Number of images in the smaller set.
        found: usize,
        /// Number of features.
        dim: usize,
    },
    /// Too few images.
    #[error("{score} needs at least {least} images, got {found}")]
    TooFew {
        /// Number of images.
        found: usize,
        /// Required number of images.
        least: usize,
        /// Name of the score.
        score: &'static str,
    },
    /// Rows that are not probabilities.
    #[error("image {row}: class probabilities must be in 0..=1 and sum to 1")]
    Probabilities {
        /// Index of the image.
        row: usize,
    },
}

/// A score with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The score.
    pub value: f64,
    /// Its standard error. Each score documents which of its sets counts as a sample.
    pub standard_error: Option<f64>,
}

impl Score {
    /// The 95 % confidence interval.
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
