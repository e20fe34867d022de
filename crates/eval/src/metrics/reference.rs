//! A set that others are held against.

use std::sync::OnceLock;

use super::{Features, MetricError, Moments, Score, features::Centred, frechet, manifold, pairs::Watch};

/// A set that others are held against, and what scores need of it alone: computed when it is first needed, and
/// once.
pub struct Reference<'a> {
    features: &'a Features,
    moments: OnceLock<Moments>,
    /// For this neighbour.
    radii: OnceLock<(usize, Vec<f64>)>,
    pub(super) kernel: OnceLock<Vec<Vec<f64>>>,
}

impl<'a> Reference<'a> {
    /// Nothing is computed yet.
    pub fn new(features: &'a Features) -> Self {
        Self { features, moments: OnceLock::new(), radii: OnceLock::new(), kernel: OnceLock::new() }
    }

    /// The set.
    pub fn features(&self) -> &'a Features {
        self.features
    }

    /// As [`frechet::fid`] of `generated` against this set.
    ///
    /// # Errors
    /// As there.
    pub fn fid(&self, generated: &Features) -> Result<Score, MetricError> {
        frechet::fid(generated, self.moments.get_or_init(|| Moments::of(self.features)))
    }

    /// Squared distances to the `k`-th neighbour.
    pub(super) fn radii(&self, k: usize, watch: Watch<'_>) -> Vec<f64> {
        let compute = |k| {
            let centre = self.features.mean();
            manifold::radii(&Centred::new(self.features, &centre), k, watch)
        };
        match self.radii.get_or_init(|| (k, compute(k))) {
            (kept, radii) if *kept == k => radii.clone(),
            _ => compute(k),
        }
    }
}
