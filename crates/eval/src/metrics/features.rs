//! Feature matrices with one row per image.

use rand::Rng;
use tweedie_core::noise::generator;

use super::{MetricError, pairs::Rows};

/// The features of a set of images, all finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    dim: usize,
    values: Vec<f32>,
}

impl Features {
    /// Creates them from rows of `dim` values, one after another.
    ///
    /// # Errors
    /// If the last row is incomplete, or a value is not finite.
    pub fn new(dim: usize, values: Vec<f32>) -> Result<Self, MetricError> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(MetricError::Ragged { values: values.len(), dim });
        }
        match values.iter().position(|v| !v.is_finite()) {
            Some(at) => Err(MetricError::NotFinite { row: at / dim, feature: at % dim }),
            None => Ok(Self { dim, values }),
        }
    }

    /// Number of features per image.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The rows from `start` to `end`, which must exist.
    pub(crate) fn rows(&self, start: usize, end: usize) -> &[f32] {
        &self.values[start * self.dim..end * self.dim]
    }

    /// The pictures of a range, which exist.
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self { dim: self.dim, values: self.rows(range.start, range.end).to_vec() }
    }

    /// The rows in a random order that only depends on their number. Parts of it have the same distribution, unlike parts of a
    /// set that is sorted by class or cycles through classes.
    pub(crate) fn shuffled(&self) -> Self {
        let mut order: Vec<usize> = (0..self.len()).collect();
        let mut rng = generator(0x7368_7566_666c_6564, self.len() as u64);
        for last in (1..order.len()).rev() {
            order.swap(last, ((u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64) as usize);
        }
        let values = order.iter().flat_map(|&i| self.rows(i, i + 1)).copied().collect();
        Self { dim: self.dim, values }
    }

    /// The mean row.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.dim];
        for row in self.values.chunks_exact(self.dim) {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / self.len() as f64);
        }
        mean
    }

    pub(crate) fn same_dim(&self, other: &Self) -> Result<(), MetricError> {
        let (found, expected) = (self.dim, other.dim);
        if found == expected { Ok(()) } else { Err(MetricError::Dimension { found, expected }) }
    }

    pub(crate) fn at_least(&self, least: usize, score: &'static str) -> Result<(), MetricError> {
        let found = self.len();
        if found < least { Err(MetricError::TooFew { found, least, score }) } else { Ok(()) }
    }
}

/// Rows, as seen from a centre.
pub(crate) struct Centred<'a> {
    features: &'a Features,
    centre: &'a [f64],
}

impl<'a> Centred<'a> {
    pub fn new(features: &'a Features, centre: &'a [f64]) -> Self {
        Self { features, centre }
    }

    fn row(&self, at: usize) -> impl Iterator<Item = f64> {
        self.features.rows(at, at + 1).iter().zip(self.centre).map(|(v, c)| f64::from(*v) - c)
    }
}

impl Rows for Centred<'_> {
    fn len(&self) -> usize {
        self.features.len()
    }

    fn dim(&self) -> usize {
        self.features.dim
    }

    fn write(&self, row: usize, scale: f32, out: &mut [f32]) {
        out.iter_mut().zip(self.row(row)).for_each(|(out, v)| *out = scale * v as f32);
    }

    fn square(&self, row: usize) -> f64 {
        self.row(row).map(|v| v * v).sum()
    }

    fn apart(&self, row: usize, other: &Self, at: usize) -> f64 {
        let (a, b) = (self.features.rows(row, row + 1), other.features.rows(at, at + 1));
        a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }
}
