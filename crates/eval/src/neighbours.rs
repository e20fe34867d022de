//! Memorization: how close generated images are to the training images.
//!
//! The distance is either the root mean square difference over all pixels and channels, for values in 0..=1, or that of
//! features, which also detects copies that are shifted by a pixel. A distance alone means little, so it is compared with
//! the distances of held-out images from the training set: generated images that are much closer were copied.

use serde::Serialize;
use tweedie_data::Image;

use crate::metrics::{
    Features, MetricError, Reference, Watch,
    pairs::{self, Rows},
};

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

/// For each query, the closest image of `set`, the first if several are equally close. All images have the same size.
/// Costs `n·m·pixels`.
///
/// # Errors
/// For an empty set, and images of different size.
pub fn nearest(queries: &[Image], set: &[Image], watch: Watch<'_>) -> Result<Vec<Neighbour>, NeighbourError> {
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
    let grey = queries.iter().chain(set).all(Image::is_grey);
    let centre = Pixels::centre(set);
    let sets = [queries, set].map(|images| Pixels { images, centre: &centre, grey });
    let scale = 1.0 / (255.0 * ((width * height * 3) as f64).sqrt());
    let found = pairs::nearest([&sets[0], &sets[1]], 1, false, watch).into_iter().flatten();
    Ok(found.map(|(square, index)| Neighbour { index, distance: square.sqrt() * scale }).collect())
}

/// Pictures as rows of their bytes.
struct Pixels<'a> {
    images: &'a [Image],
    /// A byte for each value of a picture.
    centre: &'a [u8],
    /// Without a colour one value stands for three.
    grey: bool,
}

impl Pixels<'_> {
    /// The mean of some pictures of the set.
    fn centre(set: &[Image]) -> Vec<u8> {
        let some = || set.iter().step_by(set.len().div_ceil(1000));
        let mut sums = vec![0_u32; set[0].pixels.len()];
        some().for_each(|image| sums.iter_mut().zip(&image.pixels).for_each(|(s, v)| *s += u32::from(*v)));
        sums.into_iter().map(|s| (s / some().count() as u32) as u8).collect()
    }

    fn step(&self) -> usize {
        if self.grey { 3 } else { 1 }
    }

    fn row(&self, at: usize) -> impl Iterator<Item = i32> {
        let values = self.images[at].pixels.iter().zip(self.centre).step_by(self.step());
        values.map(|(v, c)| i32::from(*v) - i32::from(*c))
    }
}

impl Rows for Pixels<'_> {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn dim(&self) -> usize {
        self.centre.len() / self.step()
    }

    fn write(&self, row: usize, scale: f32, out: &mut [f32]) {
        let scale = scale * (self.step() as f32).sqrt();
        out.iter_mut().zip(self.row(row)).for_each(|(out, v)| *out = scale * v as f32);
    }

    fn square(&self, row: usize) -> f64 {
        let sum: u64 = self.row(row).map(|v| u64::from(v.unsigned_abs().pow(2))).sum();
        (sum * self.step() as u64) as f64
    }

    fn apart(&self, row: usize, other: &Self, at: usize) -> f64 {
        squared_distance(&self.images[row].pixels, &other.images[at].pixels) as f64
    }
}

/// For each row of `queries`, the closest of `set`. Costs `n·m·dim`.
///
/// # Errors
/// For different numbers of features, or an empty `set`.
pub fn nearest_features(
    queries: &Features,
    set: &Reference<'_>,
    watch: Watch<'_>,
) -> Result<Vec<Neighbour>, MetricError> {
    let found = set.nearest(queries, watch)?.into_iter();
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
        let found = nearest(&[flat(90), flat(255)], &set, &|_, _| {}).unwrap();
        assert_eq!(found[0].index, 1);
        assert!((found[0].distance - 10.0 / 255.0).abs() < 1e-12);
        assert_eq!(found[1], Neighbour { index: 2, distance: 0.0 });
    }

    #[test]
    fn sizes_must_agree_and_sets_must_not_be_empty() {
        let odd = Image { width: 1, height: 1, pixels: vec![0; 3] };
        let nearest = |a: &[Image], b: &[Image]| nearest(a, b, &|_, _| {});
        assert!(matches!(nearest(&[flat(0)], &[odd]), Err(NeighbourError::Size { set: "training", .. })));
        assert_eq!(nearest(&[], &[flat(0)]), Err(NeighbourError::Empty("generated")));
        assert_eq!(nearest(&[flat(0)], &[]), Err(NeighbourError::Empty("training")));
    }

    /// In colour and grey, with pictures twice in the set and others a byte apart: the engine's `f32` cannot tell
    /// them apart, and the first is found.
    #[test]
    fn neighbours_are_those_of_whole_numbers() {
        let noise = |seed: u64, n: usize, grey: bool| -> Vec<Image> {
            let image = |i: usize| {
                let mut values = vec![0_f32; 3 * 11 * 11];
                tweedie_core::noise::fill_normal(seed, i as u64, &mut values);
                let byte = |at: usize| (128.0 + 40.0 * values[if grey { at / 3 } else { at }]) as u8;
                Image { width: 11, height: 11, pixels: (0..values.len()).map(byte).collect() }
            };
            (0..n).map(image).collect()
        };
        for grey in [false, true] {
            let (queries, mut set) = (noise(1, 40, grey), noise(2, 1500, grey));
            set[700] = set[20].clone();
            set[1400] = queries[3].clone();
            set[1401] = queries[3].clone();
            set[1000] = queries[5].clone();
            set[1000].pixels[..3].iter_mut().for_each(|v| *v ^= 1);
            set[1499] = queries[5].clone();
            let found = nearest(&queries, &set, &|_, _| {}).unwrap();
            for (query, found) in queries.iter().zip(&found) {
                let all = set.iter().map(|image| squared_distance(&query.pixels, &image.pixels));
                let (index, least) = all.enumerate().min_by_key(|(i, d)| (*d, *i)).unwrap();
                let distance = (least as f64).sqrt() / (255.0 * 363_f64.sqrt());
                assert_eq!(found.index, index);
                assert!((found.distance - distance).abs() < 1e-15);
            }
            assert_eq!((found[3].index, found[5].index), (1400, 1499));
        }
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
