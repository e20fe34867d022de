//! Means with standard errors, and the levels that an image visits.

use std::ops::Range;

use rand::Rng;
use serde::Serialize;
use tweedie_core::noise::generator;

/// A mean over images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; `None` for a single image.
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// The mean of independent values, at least one.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let n = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / n;
        let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
        Self { mean, standard_error: (n > 1.0).then(|| (squares / (n - 1.0) / n).sqrt()) }
    }

    /// Half the width of the 95 % confidence interval.
    pub fn half_width(&self) -> Option<f64> {
        self.standard_error.map(|e| 1.96 * e)
    }
}

/// Level indices `0..levels` divided into ranges, of which an image draws one level each.
pub(super) struct Strata {
    ends: Vec<usize>,
}

impl Strata {
    /// `count` ranges, `2..=levels`: index 0 alone, and the rest in ranges that widen quadratically.
    pub fn new(levels: usize, count: usize) -> Self {
        let (rest, parts) = ((levels - 1) as f64, count - 1);
        let mut ends = vec![1];
        for k in 1..=parts {
            let end = 1 + (rest * (k as f64 / parts as f64).powi(2)).round() as usize;
            // At least one level for this range and each of the following ones.
            ends.push(end.max(ends[k - 1] + 1).min(levels - (parts - k)));
        }
        Self { ends }
    }

    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    pub fn sizes(&self) -> Vec<usize> {
        self.ranges().map(|r| r.len()).collect()
    }

    /// A level of each range, a pure function of the seed and the image.
    pub fn draw(&self, seed: u64, image: usize) -> Vec<usize> {
        // The streams of noise count up from 0 under another seed.
        let mut rng = generator(seed ^ 0x6c65_7665_6c73, image as u64);
        let mut draw = |r: Range<usize>| {
            let uniform = (rng.next_u64() >> 11) as f64 * 0.5f64.powi(53);
            r.start + (uniform * r.len() as f64) as usize
        };
        self.ranges().map(&mut draw).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strata_share_out_the_levels() {
        for (levels, count) in [(2, 2), (10, 10), (1000, 2), (1000, 50), (1000, 999), (1000, 1000)] {
            let strata = Strata::new(levels, count);
            let ranges: Vec<_> = strata.ranges().collect();
            assert_eq!((ranges.len(), ranges[0].clone(), ranges[count - 1].end), (count, 0..1, levels));
            assert!(
                ranges.windows(2).all(|p| p[0].end == p[1].start) && ranges.iter().all(|r| !r.is_empty())
            );
            let drawn = strata.draw(3, 7);
            assert!(drawn.iter().zip(&ranges).all(|(i, r)| r.contains(i)));
            assert_eq!(drawn, strata.draw(3, 7));
        }
        let strata = Strata::new(1000, 50);
        assert_ne!(strata.draw(3, 7), strata.draw(3, 8));
        assert_ne!(strata.draw(3, 7), strata.draw(4, 7));
    }

    #[test]
    fn estimates_have_the_usual_error() {
        let found = Estimate::of([1.0, 2.0, 3.0, 6.0].into_iter());
        assert_eq!(found.mean, 3.0);
        assert!((found.standard_error.unwrap() - (14.0f64 / 12.0).sqrt()).abs() < 1e-15);
        assert_eq!(Estimate::of([5.0].into_iter()), Estimate { mean: 5.0, standard_error: None });
    }
}
