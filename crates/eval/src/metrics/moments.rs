//! Means and covariances, accumulated.

use super::{
    Features, MetricError,
    linalg::{products, transposed},
};

/// The mean and the covariance of rows, in one pass: each block of rows is centred on its own mean and added by the formula
/// of Chan, Golub and LeVeque (1979), which avoids cancellation.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Sum of `(x - mean)·(x - mean)ᵀ`.
    scatter: Vec<f64>,
}

/// Rows per block.
const BLOCK: usize = 512;

impl Moments {
    /// The moments of zero rows with `dim` features.
    pub fn new(dim: usize) -> Self {
        Self { count: 0, mean: vec![0.0; dim], scatter: vec![0.0; dim * dim] }
    }

    /// The moments of all rows. Costs `n·dim²`.
    pub fn of(features: &Features) -> Self {
        Self::of_rows(features, 0..features.len())
    }

    pub(crate) fn of_rows(features: &Features, rows: std::ops::Range<usize>) -> Self {
        let mut all = Self::new(features.dim());
        for start in rows.clone().step_by(BLOCK) {
            all.add_block(features.rows(start, (start + BLOCK).min(rows.end)));
        }
        all
    }

    /// Adds rows.
    ///
    /// # Errors
    /// If they have another number of features.
    pub fn push(&mut self, features: &Features) -> Result<(), MetricError> {
        self.merge(&Self::of(features))
    }

    fn add_block(&mut self, values: &[f32]) {
        let dim = self.dim();
        let count = values.len() / dim;
        let mut mean = vec![0.0; dim];
        for row in values.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v));
        }
        mean.iter_mut().for_each(|m| *m /= count as f64);
        let centred = values.chunks_exact(dim).flat_map(|row| row.iter().zip(&mean));
        let centred: Vec<f64> = centred.map(|(v, m)| f64::from(*v) - m).collect();
        let columns = transposed(&centred, dim);
        let scatter = products(&columns, &columns, count);
        self.add(&Self { count, mean, scatter });
    }

    /// Adds the rows of `other`.
    ///
    /// # Errors
    /// If it has another number of features.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricError> {
        let (found, expected) = (other.dim(), self.dim());
        if found != expected {
            return Err(MetricError::Dimension { found, expected });
        }
        self.add(other);
        Ok(())
    }

    /// Of the same number of features.
    pub(crate) fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (n, m) = (self.count as f64, other.count as f64);
        let shift: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(b, a)| b - a).collect();
        let weight = n * m / (n + m);
        for (i, row) in self.scatter.chunks_exact_mut(shift.len()).enumerate() {
            let theirs = &other.scatter[i * shift.len()..];
            let by = weight * shift[i];
            row.iter_mut().zip(theirs.iter().zip(&shift)).for_each(|(s, (t, d))| *s += t + by * d);
        }
        self.mean.iter_mut().zip(&shift).for_each(|(a, d)| *a += d * m / (n + m));
        self.count += other.count;
    }

    /// Number of features.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean of the rows.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance, `[dim, dim]`, over `count - 1`; zero for fewer than two rows.
    pub fn covariance(&self) -> Vec<f64> {
        let by = 1.0 / (self.count.max(2) - 1) as f64;
        self.scatter.iter().map(|s| s * by).collect()
    }
}
