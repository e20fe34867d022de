//! Precision, recall, density and coverage, by balls around neighbours. The ball of an image reaches to its `k`-th nearest
//! neighbour in its own set.
//!
//! - precision: the fraction of generated images inside a ball of the data; recall: the fraction of the data inside a ball
//!   of the generated images (Kynkäänniemi et al. 2019, arXiv:1904.06991);
//! - density: the number of balls of the data that contain a generated image, divided by `k`; coverage: the fraction of the
//!   data's balls that contain a generated image (Naeem et al. 2020, arXiv:2002.09797). Both are more robust to outliers,
//!   because a large ball counts once.

use super::{
    Features, MetricError, Score,
    linalg::{dot, products},
};

/// An image and its distance.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Nearest {
    /// Index of the image in the set.
    pub index: usize,
    /// Distance of the features.
    pub distance: f64,
}

/// The four scores. Standard errors cover the images of one set, with the other given; those of fractions follow Agresti and
/// Coull (1998), so that all or none of a few is not considered certain.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Shares {
    /// `0..=1`, over the generated pictures.
    pub precision: Score,
    /// `0..=1`, over the data.
    pub recall: Score,
    /// `0..`, about 1 for equal distributions, over the generated pictures.
    pub density: Score,
    /// `0..=1`, over the data.
    pub coverage: Score,
    /// The neighbour that balls reach to.
    pub k: usize,
}

/// Precision, recall, density and coverage of `generated` and `data`, with balls to the `k`-th neighbour. Costs
/// `(n + m)²·dim`.
///
/// # Errors
/// For different numbers of features, `k = 0`, or a set with at most `k` images.
pub fn shares(generated: &Features, data: &Features, k: usize) -> Result<Shares, MetricError> {
    generated.same_dim(data)?;
    for set in [generated, data] {
        set.at_least(k.max(1) + 1, "precision and recall")?;
    }
    let k = k.max(1);
    let (of_data, of_generated) = (radii(data, k), radii(generated, k));
    let mut covered = vec![0.0; data.len()];
    let mut reached = vec![0.0; data.len()];
    let (mut precise, mut dense) = (Vec::new(), Vec::new());
    panels(generated, data, |row, distances| {
        let inside = distances.iter().zip(&of_data).filter(|(d, r)| d < r).count();
        precise.push(f64::from(u8::from(inside > 0)));
        dense.push(inside as f64 / k as f64);
        for (j, d) in distances.iter().enumerate() {
            if *d < of_data[j] {
                covered[j] = 1.0;
            }
            if *d < of_generated[row] {
                reached[j] = 1.0;
            }
        }
    });
    Ok(Shares {
        precision: share(&precise),
        recall: share(&reached),
        density: Score::mean(&dense),
        coverage: share(&covered),
        k,
    })
}

/// The mean of zeros and ones.
fn share(values: &[f64]) -> Score {
    let (n, ones) = (values.len() as f64, values.iter().sum::<f64>());
    let p = (ones + 2.0) / (n + 4.0);
    Score { value: ones / n, standard_error: Some((p * (1.0 - p) / (n + 4.0)).sqrt()) }
}

/// For each of `queries`, the nearest of `set`. Costs `n·m·dim`.
///
/// # Errors
/// For different numbers of features, or an empty `set`.
pub fn nearest(queries: &Features, set: &Features) -> Result<Vec<Nearest>, MetricError> {
    queries.same_dim(set)?;
    set.at_least(1, "a nearest neighbour")?;
    let mut found = Vec::with_capacity(queries.len());
    panels(queries, set, |_, distances| {
        let least = distances.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        let (index, square) = least.map_or((0, 0.0), |(i, d)| (i, *d));
        found.push(Nearest { index, distance: square.sqrt() });
    });
    Ok(found)
}

/// The squared distance of each image to its `k`-th nearest neighbour in its own set, which has more than `k`.
fn radii(set: &Features, k: usize) -> Vec<f64> {
    let mut found = Vec::with_capacity(set.len());
    let mut others = Vec::new();
    panels(set, set, |row, distances| {
        others.clear();
        others.extend(distances.iter().enumerate().filter(|(j, _)| *j != row).map(|(_, d)| *d));
        let (_, kth, _) = others.select_nth_unstable_by(k - 1, f64::total_cmp);
        found.push(*kth);
    });
    found
}

/// Number of queries whose distances are held in memory at once.
const PANEL: usize = 256;

/// Passes each query's squared distances from all of `set` to `on`. Both are centred, so that `|a|² + |b|² - 2·a·b` keeps its
/// precision; very small distances are recomputed.
fn panels(queries: &Features, set: &Features, mut on: impl FnMut(usize, &[f64])) {
    let dim = set.dim();
    let mut centre = vec![0.0; dim];
    for row in set.values().chunks_exact(dim) {
        centre.iter_mut().zip(row).for_each(|(c, v)| *c += f64::from(*v) / set.len() as f64);
    }
    let centred = |values: &[f32]| -> Vec<f64> {
        values.chunks_exact(dim).flat_map(|r| r.iter().zip(&centre)).map(|(v, c)| f64::from(*v) - c).collect()
    };
    let squares = |rows: &[f64]| rows.chunks_exact(dim).map(|r| dot(r, r)).collect::<Vec<_>>();
    let theirs = centred(set.values());
    let norms = squares(&theirs);
    for start in (0..queries.len()).step_by(PANEL) {
        let ours = centred(queries.rows(start, (start + PANEL).min(queries.len())));
        let lengths = squares(&ours);
        let mut distances = products(&ours, &theirs, dim);
        for (i, row) in distances.chunks_exact_mut(set.len()).enumerate() {
            let a = &ours[i * dim..(i + 1) * dim];
            for (j, d) in row.iter_mut().enumerate() {
                let sum = lengths[i] + norms[j];
                *d = sum - 2.0 * *d;
                if *d < 1e-6 * sum {
                    let b = &theirs[j * dim..(j + 1) * dim];
                    *d = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
                }
            }
            on(start + i, row);
        }
    }
}
