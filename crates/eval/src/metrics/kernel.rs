//! KID: the squared maximum mean discrepancy with the kernel `(x·y/d + 1)³`, by the unbiased estimator (Bińkowski et al.
//! 2018, arXiv:1801.01401). Unlike FID, its expectation does not depend on the number of images. It may be slightly negative
//! for similar sets.

use super::{Features, MetricError, Score, linalg::products};

/// Images per block, if there are enough for ten blocks.
const BLOCK: usize = 1000;
/// Number of parts of each set: blocks, or groups of the jackknife.
const PARTS: usize = 10;

/// KID with its standard error, which covers the sampling of both sets.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Kid {
    /// The score.
    pub score: Score,
    /// Number of blocks and of images of each set in a block, if it was computed in blocks.
    pub blocks: Option<[usize; 2]>,
}

/// KID between two sets. With at least 10,000 images in each, the mean over disjoint blocks of 1000, whose spread gives the
/// error; costs `1000·n·dim`. Otherwise the discrepancy of all images, and its error by the jackknife, leaving out a tenth
/// of both sets in turn; costs `(n + m)²·dim`.
///
/// # Errors
/// For different numbers of features, or fewer than 20 images in a set.
pub fn kid(a: &Features, b: &Features) -> Result<Kid, MetricError> {
    a.same_dim(b)?;
    for set in [a, b] {
        set.at_least(2 * PARTS, "KID")?;
    }
    let (dim, blocks) = (a.dim(), a.len().min(b.len()) / BLOCK);
    let (a, b) = (a.shuffled(), b.shuffled());
    if blocks < PARTS {
        return Ok(Kid { score: jackknife(&wide(a.values()), &wide(b.values()), dim), blocks: None });
    }
    let part = |set: &Features, at: usize| wide(set.rows(at * BLOCK, (at + 1) * BLOCK));
    let whole = |at: usize| Sums::new(&part(&a, at), &part(&b, at), dim, 1).discrepancy(None);
    let values: Vec<f64> = (0..blocks).map(whole).collect();
    Ok(Kid { score: Score::mean(&values), blocks: Some([blocks, BLOCK]) })
}

/// The unbiased estimator of the squared discrepancy of two sets. Costs `(n + m)²·dim`.
///
/// # Errors
/// For different numbers of features, or fewer than two images in a set.
pub fn squared_discrepancy(a: &Features, b: &Features) -> Result<f64, MetricError> {
    a.same_dim(b)?;
    for set in [a, b] {
        set.at_least(2, "the discrepancy")?;
    }
    Ok(Sums::new(&wide(a.values()), &wide(b.values()), a.dim(), 1).discrepancy(None))
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

fn jackknife(a: &[f64], b: &[f64], dim: usize) -> Score {
    let sums = Sums::new(a, b, dim, PARTS);
    let left: Vec<f64> = (0..PARTS).map(|g| sums.discrepancy(Some(g))).collect();
    let mean = left.iter().sum::<f64>() / PARTS as f64;
    let squares: f64 = left.iter().map(|v| (v - mean).powi(2)).sum();
    let factor = (PARTS - 1) as f64 / PARTS as f64;
    Score { value: sums.discrepancy(None), standard_error: Some((factor * squares).sqrt()) }
}

/// Sums of the kernel over all pairs of two groups, excluding pairs of an image with itself.
struct Sums {
    within: [Vec<Vec<f64>>; 2],
    across: Vec<Vec<f64>>,
    /// Number of images in each group, for both sets.
    counts: [Vec<f64>; 2],
}

/// Rows whose products are held in memory at once.
const PANEL: usize = 256;

impl Sums {
    fn new(a: &[f64], b: &[f64], dim: usize, groups: usize) -> Self {
        let cut = |set: &[f64], g: usize| g * (set.len() / dim) / groups;
        let group_of = |set: &[f64]| -> Vec<usize> {
            (0..groups).flat_map(|g| std::iter::repeat_n(g, cut(set, g + 1) - cut(set, g))).collect()
        };
        let pairs = |x: &[f64], y: &[f64], same: bool| {
            let (of_x, of_y) = (group_of(x), group_of(y));
            let mut sums = vec![vec![0.0; groups]; groups];
            for (panel, rows) in x.chunks(PANEL * dim).enumerate() {
                for (i, row) in products(rows, y, dim).chunks_exact(of_y.len()).enumerate() {
                    let i = panel * PANEL + i;
                    for (j, product) in row.iter().enumerate().filter(|(j, _)| !same || *j != i) {
                        sums[of_x[i]][of_y[j]] += (product / dim as f64 + 1.0).powi(3);
                    }
                }
            }
            sums
        };
        let counts = [a, b].map(|set| (0..groups).map(|g| (cut(set, g + 1) - cut(set, g)) as f64).collect());
        Self { within: [pairs(a, a, true), pairs(b, b, true)], across: pairs(a, b, false), counts }
    }

    /// The discrepancy without one group.
    fn discrepancy(&self, without: Option<usize>) -> f64 {
        let kept = |g: &usize| Some(*g) != without;
        let total = |sums: &[Vec<f64>]| -> f64 {
            let row = |row: &Vec<f64>| (0..row.len()).filter(kept).map(|j| row[j]).sum::<f64>();
            (0..sums.len()).filter(kept).map(|i| row(&sums[i])).sum()
        };
        let [n, m] = [0, 1]
            .map(|s: usize| (0..self.counts[s].len()).filter(kept).map(|g| self.counts[s][g]).sum::<f64>());
        let own = |s: usize, n: f64| total(&self.within[s]) / (n * (n - 1.0));
        own(0, n) + own(1, m) - 2.0 * total(&self.across) / (n * m)
    }
}
