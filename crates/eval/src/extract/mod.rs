//! Networks that turn pictures into features: what scores are made of.
//!
//! - [`Encoder`] comes with the crate, needs no download and makes few features, so that a few hundred pictures
//!   are enough; its scores compare with each other and with nothing that was published.
//! - [`Inception`] is the network of published scores, from a weights file of the user's.

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

/// Why there are no features.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// No pictures.
    #[error("there are no pictures")]
    Empty,
    /// No weights file at the path.
    #[error("{}: there is no such weights file", .0.display())]
    Missing(PathBuf),
    /// A pickle, which can run code when it is read.
    #[error(
        "{}: a pickle, which can run code when it is read and is never read here; convert it once, in Python: \
         safetensors.torch.save_file(torch.load(FILE, weights_only=True), \"inception.safetensors\")",
        .0.display()
    )]
    Pickle(PathBuf),
    /// The file.
    #[error(transparent)]
    File(#[from] HubError),
    /// The tensors in it.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: ParamError,
    },
    /// The network's answer.
    #[error(transparent)]
    Answer(#[from] MetricError),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// What a network says of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// A row for each picture.
    pub features: Features,
    /// Its class probabilities.
    pub probabilities: Features,
}

/// Hears of pictures done, and how many there are, and may stop the work.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// A network that turns pictures of any size into features.
pub trait Extractor {
    /// What reports call it.
    fn name(&self) -> &str;

    /// What its scores may be compared with.
    fn comparable(&self) -> &str;

    /// Features of a picture.
    fn dim(&self) -> usize;

    /// A number of the network with its weights: features of another are others.
    fn fingerprint(&self) -> u64;

    /// The features and class probabilities of `images`. They do not depend on the other pictures.
    ///
    /// # Errors
    /// If there are none, or an answer is not finite; [`ExtractError::Cancelled`].
    fn extract(&self, images: &[Image], on: Progress<'_>) -> Result<Extracted, ExtractError>;
}

/// Runs `network`, from pictures to rows of features and of logits, over `batch` pictures at a time.
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
