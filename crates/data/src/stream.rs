//! The endless stream of training samples.

use rayon::prelude::*;

use crate::{AugmentConfig, DataError, Dataset, EDM_LABELS, Order, augment};

/// An endless stream of augmented samples. Sample `n` is a pure function of the seed, the data set and `n`: a run resumes
/// from that integer, and neither the batch size nor the number of threads changes it.
pub struct Stream {
    dataset: Dataset,
    order: Order,
    augment: AugmentConfig,
    seed: u64,
}

/// A batch of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[count, 3, size, size]`, values in `[-1, 1]`.
    pub images: Vec<f32>,
    /// The augmentation labels for the network: see [`augment`](crate::augment()).
    pub augment_labels: Vec<[f32; EDM_LABELS]>,
    /// Indices into [`Dataset::class_names`].
    pub classes: Vec<Option<usize>>,
    /// Captions.
    pub captions: Vec<Option<String>>,
}

impl Stream {
    /// A stream over the data set in the given order, see [`Order::new`] and [`Order::balanced`].
    ///
    /// # Errors
    /// [`DataError::Config`] for an augmentation out of range, [`DataError::Index`] if there are no items or the order is for
    /// another number of items.
    pub fn new(dataset: Dataset, order: Order, augment: AugmentConfig, seed: u64) -> Result<Self, DataError> {
        augment.validate()?;
        if dataset.is_empty() || order.len() != dataset.len() {
            return Err(DataError::Index { index: order.len(), len: dataset.len() });
        }
        Ok(Self { dataset, order, augment, seed })
    }

    /// The data set.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Samples `start` to `start + count`, decoded and augmented in parallel.
    ///
    /// # Errors
    /// Those of [`Dataset::get`].
    pub fn batch(&self, start: u64, count: usize) -> Result<Batch, DataError> {
        let sample = |n: u64| {
            let item = self.dataset.get(self.order.index(n))?;
            let (planes, label) = augment(&item.sample, &self.augment, self.seed, n);
            Ok((planes, label, item.class, item.words.caption.clone()))
        };
        let samples = (start..start + count as u64).into_par_iter().map(sample);
        let samples = samples.collect::<Result<Vec<_>, DataError>>()?;
        let area = 3 * self.dataset.size() * self.dataset.size();
        let mut batch = Batch {
            images: Vec::with_capacity(count * area),
            augment_labels: Vec::with_capacity(count),
            classes: Vec::with_capacity(count),
            captions: Vec::with_capacity(count),
        };
        for (planes, label, class, caption) in samples {
            batch.images.extend(planes);
            batch.augment_labels.push(label);
            batch.classes.push(class);
            batch.captions.push(caption);
        }
        Ok(batch)
    }
}
