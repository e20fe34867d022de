//! The Fréchet distance of two normal distributions; of features FID (Heusel et al. 2017, arXiv:1706.08500):
//! `|μ₁ - μ₂|² + Tr(Σ₁ + Σ₂ - 2·(Σ₁Σ₂)^½)`.
//!
//! With `Σ₁ = L·Lᵀ`, the product `Σ₁Σ₂` has the eigenvalues of the symmetric `Lᵀ·Σ₂·L`, none of which is negative, and the
//! trace of the root is the sum of their roots. So no root of a nonsymmetric matrix is needed, and there are no imaginary
//! parts.
//!
//! FID is too high for few samples, so only compare sets of the same size.

use super::{
    Features, MetricError, Moments, Score,
    linalg::{eigenvalues, factor, products},
};

/// The distance of two distributions. Costs `O(dim³)`.
///
/// # Errors
/// If they have different numbers of features, or not more rows than features.
pub fn distance(a: &Moments, b: &Moments) -> Result<f64, MetricError> {
    check(a, b)?;
    Ok(Target::new(a).distance(b))
}

fn check(a: &Moments, b: &Moments) -> Result<(), MetricError> {
    let (found, expected) = (b.dim(), a.dim());
    if found != expected {
        return Err(MetricError::Dimension { found, expected });
    }
    match a.count().min(b.count()) {
        found if found <= expected => Err(MetricError::Singular { found, dim: expected }),
        _ => Ok(()),
    }
}

/// Number of groups of the jackknife.
const GROUPS: usize = 10;

/// The distance of `generated` from `data`. The standard error covers the sampling of `generated`, by the jackknife: each
/// tenth is left out in turn. The sampling of the data is not included.
///
/// # Errors
/// Those of [`distance`].
pub fn fid(generated: &Features, data: &Moments) -> Result<Score, MetricError> {
    let (n, generated) = (generated.len(), generated.shuffled());
    let cut = |g: usize| g * n / GROUPS;
    let groups: Vec<Moments> =
        (0..GROUPS).map(|g| Moments::of_rows(&generated, cut(g)..cut(g + 1))).collect();
    let merged = |without: Option<usize>| {
        let mut all = Moments::new(generated.dim());
        for (_, group) in groups.iter().enumerate().filter(|(g, _)| Some(*g) != without) {
            all.add(group);
        }
        all
    };
    let whole = merged(None);
    check(data, &whole)?;
    let target = Target::new(data);
    let value = target.distance(&whole);
    let parts: Vec<Moments> = (0..GROUPS).map(|g| merged(Some(g))).collect();
    if parts.iter().any(|p| p.count() <= p.dim()) {
        return Ok(Score { value, standard_error: None });
    }
    let left: Vec<f64> = parts.iter().map(|p| target.distance(p)).collect();
    let mean = left.iter().sum::<f64>() / GROUPS as f64;
    let squares: f64 = left.iter().map(|v| (v - mean).powi(2)).sum();
    let factor = (GROUPS - 1) as f64 / GROUPS as f64;
    Ok(Score { value, standard_error: Some((factor * squares).sqrt()) })
}

/// A distribution, prepared for comparison with many.
struct Target<'a> {
    moments: &'a Moments,
    /// `Lᵀ`, `[rank, dim]`.
    root: Vec<f64>,
    trace: f64,
}

fn trace(matrix: &[f64], n: usize) -> f64 {
    matrix.iter().step_by(n + 1).sum()
}

impl<'a> Target<'a> {
    fn new(moments: &'a Moments) -> Self {
        let covariance = moments.covariance();
        let n = moments.dim();
        Self { moments, root: factor(&covariance, n), trace: trace(&covariance, n) }
    }

    fn distance(&self, other: &Moments) -> f64 {
        let n = other.dim();
        let means = self.moments.mean().iter().zip(other.mean());
        let apart: f64 = means.map(|(a, b)| (a - b).powi(2)).sum();
        let covariance = other.covariance();
        let half = products(&self.root, &covariance, n);
        let symmetric = products(&half, &self.root, n);
        let rank = self.root.len() / n;
        let roots: f64 = eigenvalues(symmetric, rank).iter().map(|v| v.max(0.0).sqrt()).sum();
        // Rounding may give slightly negative values for a set compared with itself.
        (apart + self.trace + trace(&covariance, n) - 2.0 * roots).max(0.0)
    }
}
