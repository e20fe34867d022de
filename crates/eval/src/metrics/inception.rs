//! Inception Score: `exp` of the mean divergence of an image's class probabilities from their mean over all images (Salimans
//! et al. 2016, arXiv:1606.03498). It only uses the generated images, not the data.

use super::{Features, MetricError, Score};

/// The score as the mean over ten equal parts of the images, like published ones, and its standard error from their spread.
/// Rows are class probabilities.
///
/// # Errors
/// For rows that are not probabilities, and fewer than 20 rows.
pub fn inception_score(probabilities: &Features) -> Result<Score, MetricError> {
    inception_score_in(probabilities, 10)
}

/// Like [`inception_score`], in `parts` parts, at least one. Remaining rows are not used.
///
/// # Errors
/// Those of [`inception_score`], for fewer than two rows per part.
pub fn inception_score_in(probabilities: &Features, parts: usize) -> Result<Score, MetricError> {
    let parts = parts.max(1);
    probabilities.at_least(2 * parts, "the Inception Score")?;
    let dim = probabilities.dim();
    for (row, p) in probabilities.values().chunks_exact(dim).enumerate() {
        let sum: f64 = p.iter().map(|v| f64::from(*v)).sum();
        if p.iter().any(|v| *v < 0.0) || (sum - 1.0).abs() > 1e-3 {
            return Err(MetricError::Probabilities { row });
        }
    }
    let size = probabilities.len() / parts;
    let probabilities = probabilities.shuffled();
    let scores: Vec<f64> = (0..parts)
        .map(|part| {
            let rows = || (part * size..(part + 1) * size).map(|i| probabilities.rows(i, i + 1));
            let mut mean = vec![0.0; dim];
            rows().for_each(|r| mean.iter_mut().zip(r).for_each(|(m, v)| *m += f64::from(*v)));
            mean.iter_mut().for_each(|m| *m /= size as f64);
            let divergence = |(p, q): (&f32, &f64)| match f64::from(*p) {
                0.0 => 0.0,
                p => p * (p / q).ln(),
            };
            let sum: f64 = rows().map(|r| r.iter().zip(&mean).map(divergence).sum::<f64>()).sum();
            (sum / size as f64).exp()
        })
        .collect();
    Ok(Score::mean(&scores))
}
