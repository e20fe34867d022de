//! Precision, recall, density and coverage, by balls around neighbours. The ball of an image reaches to its `k`-th nearest
//! neighbour in its own set.
//!
//! - precision: the fraction of generated images inside a ball of the data; recall: the fraction of the data inside a ball
//!   of the generated images (Kynkäänniemi et al. 2019, arXiv:1904.06991);
//! - density: the number of balls of the data that contain a generated image, divided by `k`; coverage: the fraction of the
//!   data's balls that contain a generated image (Naeem et al. 2020, arXiv:2002.09797). Both are more robust to outliers,
//!   because a large ball counts once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{
    Features, MetricError, Reference, Score,
    features::Centred,
    pairs::{self, Distances, Rows, Watch},
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
    Reference::new(data).shares(generated, k, &|_, _| {})
}

impl Reference<'_> {
    /// As [`shares`] of `generated` against this set.
    ///
    /// # Errors
    /// As there.
    pub fn shares(&self, generated: &Features, k: usize, watch: Watch<'_>) -> Result<Shares, MetricError> {
        let data = self.features();
        generated.same_dim(data)?;
        for set in [generated, data] {
            set.at_least(k.max(1) + 1, "precision and recall")?;
        }
        let k = k.max(1);
        let of_data = self.radii(k, watch);
        let centre = data.mean();
        let sets = [&Centred::new(generated, &centre), &Centred::new(data, &centre)];
        let of_generated = radii(sets[0], k, watch);

        let flags = || (0..data.len()).map(|_| AtomicBool::new(false)).collect::<Vec<_>>();
        let (covered, reached) = (flags(), flags());
        let mut inside = vec![0_usize; generated.len()];
        let distances = Distances::new(sets);
        distances.each(sets, &mut inside, watch, |inside, row, start, out| {
            let (square, wrong) = distances.of(row);
            for (i, v) in out.iter().enumerate() {
                let (at, mut d) = (start + i, square + f64::from(*v));
                let limits = [of_data[at], of_generated[row]];
                let sure = limits.iter().all(|limit| (d - limit).abs() > wrong);
                if !sure {
                    d = sets[0].apart(row, sets[1], at);
                }
                if d < limits[0] {
                    *inside += 1;
                    covered[at].store(true, Relaxed);
                }
                if d < limits[1] {
                    reached[at].store(true, Relaxed);
                }
            }
        });
        let of_flags = |flags: Vec<AtomicBool>| {
            let values = flags.into_iter().map(|f| f64::from(u8::from(f.into_inner())));
            share(&values.collect::<Vec<_>>())
        };
        let precise: Vec<f64> = inside.iter().map(|n| f64::from(u8::from(*n > 0))).collect();
        let dense: Vec<f64> = inside.iter().map(|n| *n as f64 / k as f64).collect();
        Ok(Shares {
            precision: share(&precise),
            recall: of_flags(reached),
            density: Score::mean(&dense),
            coverage: of_flags(covered),
            k,
        })
    }

    /// For each of `queries` the nearest of this set. Costs `n·m·dim`.
    ///
    /// # Errors
    /// For different numbers of features, or an empty set.
    pub fn nearest(&self, queries: &Features, watch: Watch<'_>) -> Result<Vec<Nearest>, MetricError> {
        let set = self.features();
        queries.same_dim(set)?;
        set.at_least(1, "a nearest neighbour")?;
        let centre = set.mean();
        let sets = [&Centred::new(queries, &centre), &Centred::new(set, &centre)];
        let found = pairs::nearest(sets, 1, false, watch).into_iter().flatten();
        Ok(found.map(|(square, index)| Nearest { index, distance: square.sqrt() }).collect())
    }
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
    Reference::new(set).nearest(queries, &|_, _| {})
}

/// The squared distance of each image to its `k`-th nearest neighbour in its own set, of more than `k`.
pub(super) fn radii(set: &Centred<'_>, k: usize, watch: Watch<'_>) -> Vec<f64> {
    let found = pairs::nearest([set, set], k, true, watch).into_iter();
    found.map(|near| near.last().map_or(f64::INFINITY, |(d, _)| *d)).collect()
}
