//! KID: the squared maximum mean discrepancy with the kernel `(x·y/d + 1)³`, by the unbiased estimator (Bińkowski et al.
//! 2018, arXiv:1801.01401). Unlike FID, its expectation does not depend on the number of images. It may be slightly negative
//! for similar sets.

use std::ops::Range;

use super::{
    Features, MetricError, Reference, Score,
    features::Centred,
    pairs::{Watch, products},
};

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
    Reference::new(b).kid(a, &|_, _| {})
}

impl Reference<'_> {
    /// As [`kid`] of `a` against this set.
    ///
    /// # Errors
    /// As there.
    pub fn kid(&self, a: &Features, watch: Watch<'_>) -> Result<Kid, MetricError> {
        let b = self.features();
        a.same_dim(b)?;
        for set in [a, b] {
            set.at_least(2 * PARTS, "KID")?;
        }
        let blocks = a.len().min(b.len()) / BLOCK;
        let (a, b) = (a.shuffled(), b.shuffled());
        if blocks < PARTS {
            let within = self.kernel.get_or_init(|| pairs([&b, &b], PARTS, true, watch));
            return Ok(Kid { score: jackknife(&Sums::new(&a, &b, PARTS, within, watch)), blocks: None });
        }
        let part = |set: &Features, at: usize| set.part(at * BLOCK..(at + 1) * BLOCK);
        let whole = |at: usize| {
            let (a, b) = (part(&a, at), part(&b, at));
            Sums::new(&a, &b, 1, &pairs([&b, &b], 1, true, &|_, _| {}), &|_, _| {}).discrepancy(None)
        };
        let values: Vec<f64> = (0..blocks).map(whole).collect();
        Ok(Kid { score: Score::mean(&values), blocks: Some([blocks, BLOCK]) })
    }
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
    let quiet: Watch<'_> = &|_, _| {};
    Ok(Sums::new(a, b, 1, &pairs([b, b], 1, true, quiet), quiet).discrepancy(None))
}

fn jackknife(sums: &Sums) -> Score {
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

impl Sums {
    /// With `b`'s own.
    fn new(a: &Features, b: &Features, groups: usize, of_b: &[Vec<f64>], watch: Watch<'_>) -> Self {
        let counts = [a, b].map(|set| (0..groups).map(|g| group(set, groups, g).len() as f64).collect());
        let within = [pairs([a, a], groups, true, watch), of_b.to_vec()];
        Self { within, across: pairs([a, b], groups, false, watch), counts }
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

/// A group's rows.
fn group(set: &Features, groups: usize, at: usize) -> Range<usize> {
    let cut = |g: usize| g * set.len() / groups;
    cut(at)..cut(at + 1)
}

/// The kernel summed over all pairs of a group of `x` and one of `y`, for all groups; `own` pairs leave out those of a
/// picture with itself.
fn pairs(sets: [&Features; 2], groups: usize, own: bool, watch: Watch<'_>) -> Vec<Vec<f64>> {
    let [x, y] = sets;
    // x·y = (x - c)·(y - c) + c·x + c·y - c·c: the engine's share is small, so that little is lost in it.
    let centre = y.mean();
    let along = |set: &Features| -> Vec<f64> {
        let dot = |row: &[f32]| row.iter().zip(&centre).map(|(v, c)| f64::from(*v) * c).sum();
        set.values().chunks_exact(set.dim()).map(dot).collect()
    };
    let (of_x, of_y, of_centre) = (along(x), along(y), centre.iter().map(|c| c * c).sum::<f64>());
    let by = 1.0 / x.dim() as f64;
    let mut rows = vec![vec![0.0; groups]; x.len()];
    let centred = [&Centred::new(x, &centre), &Centred::new(y, &centre)];
    products(centred, 1.0, None, &mut rows, watch, |sums, row, start, out| {
        let base = of_x[row] - of_centre;
        let sum =
            |range: Range<usize>| cubes(&out[range.start - start..range.end - start], &of_y[range], base, by);
        for (g, total) in sums.iter_mut().enumerate() {
            let all = group(y, groups, g);
            let (first, end) = (all.start.max(start), all.end.min(start + out.len()));
            if own && (first..end).contains(&row) {
                *total += sum(first..row) + sum(row + 1..end);
            } else if first < end {
                *total += sum(first..end);
            }
        }
    });
    let add = |mut all: Vec<f64>, row: &Vec<f64>| {
        all.iter_mut().zip(row).for_each(|(a, v)| *a += v);
        all
    };
    (0..groups).map(|g| rows[group(x, groups, g)].iter().fold(vec![0.0; groups], add)).collect()
}

/// The sum of `((p + of + base)·by + 1)³`.
fn cubes(products: &[f32], of: &[f64], base: f64, by: f64) -> f64 {
    let cube = |p: &f32, of: &f64| {
        let v = (f64::from(*p) + of + base) * by + 1.0;
        v * v * v
    };
    let mut lanes = [0.0; 8];
    let (p, o) = (products.chunks_exact(8), of.chunks_exact(8));
    let rest: f64 = p.remainder().iter().zip(o.remainder()).map(|(p, o)| cube(p, o)).sum();
    for (p, o) in p.zip(o) {
        lanes.iter_mut().zip(p.iter().zip(o)).for_each(|(sum, (p, o))| *sum += cube(p, o));
    }
    lanes.iter().sum::<f64>() + rest
}
