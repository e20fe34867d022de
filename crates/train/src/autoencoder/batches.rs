//! The data of one optimizer step: images, and noise for their latents, as a pure function of the configuration and the
//! step.

use std::ops::Range;

use tweedie_data::{AugmentConfig, Dataset, Order, augment};

use crate::{
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, key, normal},
};

/// The images of one forward and backward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ImageBatch {
    /// Number of images.
    pub rows: usize,
    /// The place of each image in its part of the data.
    pub items: Vec<usize>,
    /// Images `[B, 3, H, W]` in −1..1.
    pub images: Vec<f32>,
    /// Standard normals `[B, latent channels, h, w]`; empty if latents are not drawn.
    pub noise: Vec<f32>,
}

/// Makes batches.
pub(crate) struct ImageBatches {
    pub train: Dataset,
    pub held_out: Dataset,
    order: Order,
    augment: AugmentConfig,
    /// Number of values in an image's latents.
    latent: usize,
    seed: u64,
    batch: usize,
    accumulation: usize,
}

impl ImageBatches {
    /// Creates batches for a run whose images have `latent` latent values.
    ///
    /// # Errors
    /// If every image is held out.
    pub fn new(config: &RunConfig, data: &Dataset, latent: usize) -> Result<Self, TrainError> {
        let (train, held_out) = data.split();
        if train.is_empty() {
            let expected = format!("a fraction that leaves some of the {} images for training", data.len());
            return Err(TrainError::config("data.holdout", config.data.holdout, expected));
        }
        Ok(Self {
            order: train.order(key(config.run.seed, Purpose::Order, 0)),
            train,
            held_out,
            augment: config.augment,
            latent,
            seed: config.run.seed,
            batch: config.run.batch,
            accumulation: config.run.accumulation,
        })
    }

    /// The batches of some passes of the step after `done` steps.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<ImageBatch>, TrainError> {
        let augment_seed = key(self.seed, Purpose::Augment, 0);
        let mut noise = vec![0.0; self.latent];
        let mut batches = Vec::with_capacity(passes.len());
        for pass in passes {
            let mut batch = ImageBatch { rows: self.batch, ..ImageBatch::default() };
            for row in pass * self.batch..(pass + 1) * self.batch {
                let sample = done * (self.batch * self.accumulation) as u64 + row as u64;
                let place = self.order.index(sample);
                let item = self.train.get(place)?;
                batch.items.push(place);
                batch.images.extend(augment(&item.sample, &self.augment, augment_seed, sample).0);
                normal(self.seed, Purpose::Posterior, sample, 0, &mut noise);
                batch.noise.extend(&noise);
            }
            batches.push(batch);
        }
        Ok(batches)
    }

    /// At most `most` images of `data`, evenly spread, without augmentation.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn plain(&self, data: &Dataset, most: usize) -> Result<Vec<ImageBatch>, TrainError> {
        let rows = most.min(data.len());
        let mut batches = Vec::new();
        for start in (0..rows).step_by(self.batch) {
            let chosen = start..(start + self.batch).min(rows);
            let mut batch = ImageBatch { rows: chosen.len(), ..ImageBatch::default() };
            for row in chosen {
                let place = row * data.len() / rows;
                batch.items.push(place);
                batch.images.extend(data.get(place)?.sample.to_planes());
            }
            batches.push(batch);
        }
        Ok(batches)
    }
}
