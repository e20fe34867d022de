//! Memorization: how close generated images are to the training images.
//!
//! The distance is either the root mean square difference over all pixels and channels, for values in 0..=1, or that of
//! features, which also detects copies that are shifted by a pixel. A distance alone means little, so it is compared with
//! the distances of held-out images from the training set: generated images that are much closer were copied.

use serde::Serialize;
use tweedie_data::Image;

use crate::metrics::{Features, MetricError};

/// Why neighbours cannot be found.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NeighbourError {
    /// One of the sets is empty.
    #[error("there are no {0} images to compare")]
    Empty(&'static str),
    /// Images of different size cannot be compared by pixels.
    #[error(
        "the {set} images have {found_width}×{found_height} pixels, expected {width}×{height} like the first query"
    )]
    Size {
        /// Name of the set.
        set: &'static str,
        /// Width of the image at fault.
        found_width: usize,
        /// Height of the image at fault.
        found_height: usize,
        /// Width of the first query.
        width: usize,
        /// Height of the first query.
        height: usize,
    },
}

/// The closest image of a set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Neighbour {
    /// Index of the image in the set.
    pub index: usize,
    /// Its distance; for pixels the root mean square difference, `0..=1`.
    pub distance: f64,
}

/// For each query, the closest image of `set`. All images must have the same size. Costs one pass over `set` per query.
pub fn nearest(queries: &[Image], set: &[Image]) -> Result<Vec<Neighbour>, NeighbourError> {
    let first = queries.first().ok_or(NeighbourError::Empty("generated"))?;
    if set.is_empty() {
        return Err(NeighbourError::Empty("training"));
    }
    let (width, height) = (first.width, first.height);
    for (name, images) in [("generated", queries), ("training", set)] {
        if let Some(odd) = images.iter().find(|i| (i.width, i.height) != (width, height)) {
            let (found_width, found_height) = (odd.width, odd.height);
            return Err(NeighbourError::Size { set: name, found_width, found_height, width, height });
        }
    }
    let scale = 1.0 / (255.0 * ((width * height * 3) as f64).sqrt());
    Ok(queries
        .iter()
        .map(|query| {
            let (mut index, mut least) = (0, u64::MAX);
            for (i, image) in set.iter().enumerate() {
                let d = squared_distance(&query.pixels, &image.pixels);
                if d < least {
                    (index, least) = (i, d);
                }
            }
            Neighbour { index, distance: (least as f64).sqrt() * scale }
        })
        .collect())
}

/// For each row of `queries`, the closest of `set`. Costs `n·m·dim`.
///
/// # Errors
/// For different numbers of features, or an empty `set`.
pub fn nearest_features(queries: &Features, set: &Features) -> Result<Vec<Neighbour>, MetricError> {
    let found = crate::metrics::manifold::nearest(queries, set)?.into_iter();
    Ok(found.map(|n| Neighbour { index: n.index, distance: n.distance }).collect())
}

/// Distances of generated and of held-out images from the training set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memorisation {
    /// The closest training image of each generated one.
    pub generated: Vec<Neighbour>,
    /// The closest training image of each held-out one.
    pub held_out: Vec<Neighbour>,
}

impl Memorisation {
    /// The quantiles in [`Self::generated_quantiles`].
    pub const QUANTILES: [f64; 5] = [0.0, 0.05, 0.5, 0.95, 1.0];

    /// Quantiles of the generated images' distances.
    pub fn generated_quantiles(&self) -> [Option<f64>; 5] {
        Self::QUANTILES.map(|q| quantile(&self.generated, q))
    }

    /// Quantiles of the held-out images' distances.
    pub fn held_out_quantiles(&self) -> [Option<f64>; 5] {
        Self::QUANTILES.map(|q| quantile(&self.held_out, q))
    }

    /// The number of generated images that are closer than the closest 5 % of held-out ones, if there are any. For a model that
    /// does not copy, it is about 5 %.
    pub fn closer(&self) -> Option<usize> {
        let limit = quantile(&self.held_out, 0.05)?;
        Some(self.generated.iter().filter(|n| n.distance < limit).count())
    }

    /// Indices of the generated images, closest first.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.generated.len()).collect();
        order.sort_by(|a, b| self.generated[*a].distance.total_cmp(&self.generated[*b].distance));
        order
    }
}

fn squared_distance(a: &[u8], b: &[u8]) -> u64 {
    a.iter().zip(b).map(|(x, y)| u64::from(x.abs_diff(*y)).pow(2)).sum()
}

/// The `q`-quantile (`0..=1`) of the distances, by linear interpolation; `None` without distances.
pub fn quantile(neighbours: &[Neighbour], q: f64) -> Option<f64> {
    let mut d: Vec<f64> = neighbours.iter().map(|n| n.distance).collect();
    d.sort_by(f64::total_cmp);
    let last = d.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    Some(d[low] + part * (d[(low + 1).min(last)] - d[low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(value: u8) -> Image {
        Image { width: 2, height: 3, pixels: vec![value; 18] }
    }

    #[test]
    fn the_closest_is_found_and_its_distance_is_in_units_of_the_range() {
        let set = [flat(0), flat(100), flat(255)];
        let found = nearest(&[flat(90), flat(255)], &set).unwrap();
        assert_eq!(found[0].index, 1);
        assert!((found[0].distance - 10.0 / 255.0).abs() < 1e-12);
        assert_eq!(found[1], Neighbour { index: 2, distance: 0.0 });
    }

    #[test]
    fn sizes_must_agree_and_sets_must_not_be_empty() {
        let odd = Image { width: 1, height: 1, pixels: vec![0; 3] };
        assert!(matches!(nearest(&[flat(0)], &[odd]), Err(NeighbourError::Size { set: "training", .. })));
        assert_eq!(nearest(&[], &[flat(0)]), Err(NeighbourError::Empty("generated")));
        assert_eq!(nearest(&[flat(0)], &[]), Err(NeighbourError::Empty("training")));
    }

    #[test]
    fn copies_stand_out_against_pictures_held_out() {
        let at =
            |distances: &[f64]| distances.iter().map(|&distance| Neighbour { index: 0, distance }).collect();
        let found = Memorisation { generated: at(&[0.5, 0.01, 0.3]), held_out: at(&[0.2, 0.4, 0.6]) };
        assert_eq!((found.closer(), found.order()), (Some(1), vec![1, 2, 0]));
        assert_eq!(found.held_out_quantiles()[2], Some(0.4));
        assert_eq!(Memorisation { held_out: Vec::new(), ..found }.closer(), None);
    }

    #[test]
    fn quantiles_interpolate() {
        let d = |distance| Neighbour { index: 0, distance };
        assert_eq!(quantile(&[d(3.0), d(1.0), d(2.0)], 0.5), Some(2.0));
        assert_eq!(quantile(&[d(1.0), d(2.0)], 0.25), Some(1.25));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
