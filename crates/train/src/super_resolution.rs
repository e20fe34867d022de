//! Pairs of small and large images, for a model that enlarges.
//!
//! The network gets the small image, resized to the large one's size, as further channels (Saharia et al. 2021,
//! arXiv:2104.07636), with noise whose level it is told, so that it also enlarges images that another model made (Ho et al.
//! 2021, arXiv:2106.15282).

use serde::{Deserialize, Serialize};
use tweedie_hub::{Enlarging, SmallImage};
use tweedie_pipe::{
    enlarging::{in_bytes, noised, resized},
    operators::{Operator, bicubic, boxes, gaussian},
};

use crate::{
    error::TrainError,
    keys::{Purpose, key, normal, uniform},
};

/// Noise levels are thousandths of the noise's standard deviation, from 0 to this.
const MOST_NOISE: usize = 1000;

/// The `[super_resolution]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SuperResolutionConfig {
    /// How many times larger the result is, per side: 2 to 8.
    pub factor: usize,
    /// The network is trained on random squares of this many pixels of the large images, a multiple of `factor`; 0 for whole
    /// images.
    pub crop: usize,
    /// The largest noise level of the small image in training, from 0 to 1000: thousandths of its standard deviation.
    pub noise: usize,
    /// The noise level that requests have by default, at most `noise`.
    pub noise_level: usize,
    /// Whether the network is not told the noise level: the last stage of DALL·E 2 (`unclip.enlarger`) is such a model.
    pub blind: bool,
}

impl Default for SuperResolutionConfig {
    fn default() -> Self {
        Self { factor: 4, crop: 64, noise: 300, noise_level: 20, blind: false }
    }
}

impl SuperResolutionConfig {
    /// Checks the values for images of `size` pixels.
    pub(crate) fn check(&self, size: usize) -> Result<(), TrainError> {
        let Self { factor, noise, .. } = *self;
        if !(2..=8).contains(&factor) {
            return Err(TrainError::config("super_resolution.factor", factor, "a value from 2 to 8"));
        }
        let crop = self.side(size);
        if crop > size || !crop.is_multiple_of(factor) {
            let expected = format!("a multiple of {factor}, at most {size}, the size of the images");
            return Err(TrainError::config("super_resolution.crop", crop, expected));
        }
        if noise > MOST_NOISE {
            return Err(TrainError::config("super_resolution.noise", noise, format!("at most {MOST_NOISE}")));
        }
        if self.noise_level > noise {
            let expected = format!("at most {noise}, the largest in training");
            return Err(TrainError::config("super_resolution.noise_level", self.noise_level, expected));
        }
        Ok(())
    }

    /// The side of the squares on which the network is trained.
    pub(crate) fn side(&self, size: usize) -> usize {
        if self.crop == 0 { size } else { self.crop }
    }

    /// What the finished model says of itself.
    pub(crate) fn enlarging(&self) -> Enlarging {
        Enlarging { factor: self.factor, noise_level: self.noise_level, most_noise: self.noise }
    }
}

/// Makes small images of large ones.
pub(crate) struct Pairs {
    config: SuperResolutionConfig,
    channels: usize,
    /// The side of the large images, and of the squares of them.
    size: usize,
    side: usize,
    seed: u64,
}

/// A large and a small image.
pub(crate) struct Pair {
    /// The square, `[C, side, side]`.
    pub large: Vec<f32>,
    /// The small image, resized to the same shape, with noise.
    pub small: Vec<f32>,
    /// The level of its noise, if the network is told.
    pub level: Option<usize>,
}

impl Pairs {
    pub fn new(config: &SuperResolutionConfig, channels: usize, size: usize, seed: u64) -> Self {
        Self { config: config.clone(), channels, size, side: config.side(size), seed }
    }

    /// The pair of an image `[C, size, size]` in row `row` of the step after `done` steps: a random square, reduced by a random
    /// filter.
    pub fn of(&self, image: &[f32], done: u64, row: u64) -> Pair {
        let seed = key(self.seed, Purpose::Degradation, done);
        let draw = |at: u64| uniform(seed, Purpose::Degradation, at, row);
        let corner = [draw(0), draw(1)].map(|u| (u * (self.size - self.side + 1) as f64) as usize);
        let level = (draw(2) * (self.config.noise + 1) as f64) as usize;
        let blur = match draw(3) {
            u if u < 0.35 => Filter::Boxes,
            u if u < 0.7 => Filter::Bicubic,
            u => Filter::Blur((0.15 + 0.35 * (u - 0.7) / 0.3) * self.config.factor as f64),
        };
        let mut eps = vec![0.0; self.channels * self.side * self.side];
        normal(seed, Purpose::Degradation, 4, row, &mut eps);
        self.pair(image, corner, blur, level, &eps)
    }

    /// The pair of a held-out image: its middle, reduced by boxes, without noise.
    pub fn held_out(&self, image: &[f32]) -> Pair {
        let corner = (self.size - self.side) / 2;
        self.pair(image, [corner; 2], Filter::Boxes, 0, &[])
    }

    fn pair(
        &self,
        image: &[f32],
        [top, left]: [usize; 2],
        filter: Filter,
        level: usize,
        eps: &[f32],
    ) -> Pair {
        let (side, size) = (self.side, self.size);
        let rows = image.chunks_exact(size).collect::<Vec<_>>();
        let large: Vec<f32> = (0..self.channels)
            .flat_map(|c| &rows[c * size + top..c * size + top + side])
            .flat_map(|row| &row[left..left + side])
            .copied()
            .collect();
        let small = filter.small(&large, [self.channels, side, side], self.config.factor);
        let less = side / self.config.factor;
        let small = resized(&small, [self.channels, less, less], [side; 2]);
        let small = match level {
            0 => small,
            _ => noised(&small, SmallImage::from(self.config.enlarging()).noise(level), eps),
        };
        Pair { small, large, level: (!self.config.blind).then_some(level) }
    }
}

/// How an image is reduced.
enum Filter {
    Boxes,
    Bicubic,
    /// A Gaussian blur of this many pixels, then boxes.
    Blur(f64),
}

impl Filter {
    /// The small image, in steps of 8 bits.
    fn small(&self, large: &[f32], dims: [usize; 3], factor: usize) -> Vec<f32> {
        let mut x: Vec<f64> = large.iter().map(|v| f64::from(*v)).collect();
        if let Self::Blur(sigma) = self {
            x = gaussian(&dims, *sigma).apply(&x);
        }
        let small = match self {
            Self::Bicubic => bicubic(&dims, factor).apply(&x),
            Self::Boxes | Self::Blur(_) => boxes(&dims, factor).apply(&x),
        };
        small.into_iter().map(in_bytes).collect()
    }
}
