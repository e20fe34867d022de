//! Networks that compute features of images for scores.
//!
//! - [`Encoder`] is built in and has few features, so that a few hundred images are enough; its scores are only comparable
//!   with each other.
//! - [`Inception`] is the network of published scores, from a weights file.

mod encoder;
mod inception;
mod resize;
mod stored;

use std::{ops::ControlFlow, path::PathBuf};

use tweedie_data::Image;
use tweedie_hub::HubError;
use tweedie_models::ParamError;

use crate::metrics::{Features, MetricError};

pub use encoder::{Encoder, input as encoder_input};
pub use inception::Inception;
pub use resize::bicubic;
pub use stored::{Stored, fingerprint, stored};

/// Why features cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// There are no images.
    #[error("there are no images")]
    Empty,
    /// The weights file does not exist.
    #[error("{}: no such weights file", .0.display())]
    Missing(PathBuf),
    /// A pickle, which can run code when loaded.
    #[error(
        "{}: this is a pickle, which can run code when loaded and is never read; convert it once in Python: \
         safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"inception.safetensors\")",
        .0.display()
    )]
    Pickle(PathBuf),
    /// The weights file is invalid.
    #[error(transparent)]
    File(#[from] HubError),
    /// The tensors of the weights file are invalid.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// The weights file is invalid.
        path: PathBuf,
        /// What is wrong.
        source: ParamError,
    },
    /// The features are invalid.
    #[error(transparent)]
    Answer(#[from] MetricError),
    /// The caller cancelled it.
    #[error("cancelled")]
    Cancelled,
}

/// A network's outputs for images.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// One row of features per image.
    pub features: Features,
    /// Class probabilities of each image.
    pub probabilities: Features,
}

/// Receives the number of finished and of all images, and may stop the work.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A network that computes features of images of any size.
pub trait Extractor {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// What its scores are comparable with.
    fn comparable(&self) -> &str;

    /// Number of features.
    fn dim(&self) -> usize;

    /// A fingerprint of the network and its weights.
    fn fingerprint(&self) -> u64;

    /// The features and class probabilities of `images`. Those of an image do not depend on the others.
    ///
    /// # Errors
    /// If there are no images, or an output is not finite; [`ExtractError::Cancelled`].
    fn extract(&self, images: &[Image], on: Progress<'_>) -> Result<Extracted, ExtractError>;
}

/// Runs `network`, from images to rows of features and of logits, on `batch` images at a time.
fn in_batches(
    images: &[Image],
    batch: usize,
    on: Progress<'_>,
    network: impl Fn(&[Image]) -> ([usize; 2], Vec<f32>, Vec<f32>),
) -> Result<Extracted, ExtractError> {
    let (mut dims, mut features, mut probabilities) = ([0, 0], Vec::new(), Vec::new());
    for (at, chunk) in images.chunks(batch).enumerate() {
        let (found, rows, logits) = network(chunk);
        dims = found;
        features.extend(rows);
        logits.chunks_exact(found[1]).for_each(|row| probabilities.extend(softmax(row)));
        if on(at * batch + chunk.len(), images.len()).is_break() {
            return Err(ExtractError::Cancelled);
        }
    }
    if images.is_empty() {
        return Err(ExtractError::Empty);
    }
    let probabilities = Features::new(dims[1], probabilities)?;
    Ok(Extracted { features: Features::new(dims[0], features)?, probabilities })
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|v| f64::from(v - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| (p / sum) as f32).collect()
}
