//! Inception Score: `exp` of the mean divergence of a picture's class probabilities from their mean over all
//! pictures (Salimans et al. 2016, arXiv:1606.03498). It sees the generated pictures alone, never the data.

use super::{Features, MetricError, Score};

/// The score as the mean over ten equal parts of the pictures, as published ones are, and its standard error
/// from their spread. Rows are probabilities of the classes.
///
/// # Errors
/// For rows that are no probabilities, and fewer than 20 of them.
pub fn inception_score(probabilities: &Features) -> Result<Score, MetricError> {
    inception_score_in(probabilities, 10)
}

/// As [`inception_score`], in `parts` parts, at least one. What is left over is not used.
///
/// # Errors
/// As there, for fewer than two rows a part.
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
