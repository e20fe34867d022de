//! Trains CLIP (Radford et al. 2021, arXiv:2103.00020): encoders of images and of texts into one space, where the embeddings of
//! an image and of its caption are near.

mod config;
mod loss;

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use tweedie_hub::{Clip, ClipTokenizer, ImageEncoder, ImageProcessor, TextPart};
use tweedie_models::{ClipTextModel, ClipVisionModel, InputError, layers::Init, params::settle};
use tweedie_ops::{Device, from_host, to_host};

use crate::{autoencoder::number, config::RunConfig, error::TrainError, text::CaptionedBatch};

pub use config::ClipConfig;

pub(crate) use loss::{contrastive, unit};

/// The logarithm of the largest factor of the cosines, 100.
const MOST_SCALE: f32 = 4.605_170_2;

/// The trained networks.
#[derive(Module, Debug)]
pub(crate) struct ClipModel {
    /// Encodes texts.
    pub text: ClipTextModel,
    /// Encodes images.
    pub images: ClipVisionModel,
    /// The logarithm of the factor of the cosines, which is the inverse of the temperature.
    pub logit_scale: Param<Tensor<1>>,
}

impl ClipModel {
    /// Creates it with initial weights.
    ///
    /// # Errors
    /// If the configuration does not describe networks.
    pub fn new(config: &RunConfig, tokenizer: &ClipTokenizer, device: &Device) -> Result<Self, TrainError> {
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(e.to_string());
        let seed = config.run.seed;
        let text = ClipConfig::text_encoder(&config.text, tokenizer);
        let images = config.clip.encoder(&config.text, config.data.size);
        let scale = (1.0 / config.clip.temperature).ln() as f32;
        Ok(settle(Self {
            text: ClipTextModel::new(&text, seed, device).map_err(wrong)?,
            images: ClipVisionModel::new(&images, seed, device).map_err(wrong)?,
            logit_scale: Init::new(seed, device).constant("logit_scale", [1], scale),
        }))
    }

    /// The embeddings of the images and of the texts of a batch, `[B, width]`.
    pub fn embed(&self, batch: &CaptionedBatch) -> Result<[Tensor<2>; 2], TrainError> {
        let wrong = |e: InputError| TrainError::Model(e.to_string());
        let size = self.images.config().image_size;
        let shape = [batch.images.rows, 3, size, size];
        let like = self.logit_scale.val();
        let x = from_host::<4>(batch.images.images.clone(), shape, &like.device().inner());
        let x = if like.is_autodiff() { x.autodiff() } else { x };
        let images = self.images.encode(x).map_err(wrong)?;
        Ok([images, self.text.encode(&batch.texts, 0).map_err(wrong)?.pooled])
    }

    /// The loss of a batch.
    pub fn loss(&self, batch: &CaptionedBatch) -> Result<Tensor<1>, TrainError> {
        let [images, texts] = self.embed(batch)?;
        Ok(contrastive(images, texts, self.logit_scale.val()))
    }

    /// The temperature of the scores.
    pub fn temperature(&self) -> f64 {
        (-number(&self.logit_scale.val())).exp()
    }

    /// The same with a temperature of at least 0.01, "which we found necessary to prevent training instability".
    #[must_use]
    pub fn clamped(mut self) -> Self {
        if self.logit_scale.val().into_scalar::<f32>() <= MOST_SCALE {
            return self;
        }
        let (id, value, mapper) = self.logit_scale.consume();
        let tracked = value.is_autodiff();
        let value = value.without_autodiff().clamp_max(MOST_SCALE);
        let value = if tracked { Tensor::from_inner(value).require_grad() } else { value };
        self.logit_scale = Param::from_mapped_value(id, value, mapper);
        self
    }

    /// Both encoders with the tokenizer, for files.
    pub fn finished(self, tokenizer: &std::sync::Arc<ClipTokenizer>) -> Clip {
        let processor = ImageProcessor::plain(self.images.config().image_size);
        Clip {
            text: TextPart { tokenizer: tokenizer.clone(), encoder: self.text },
            images: ImageEncoder { processor, encoder: self.images },
        }
    }
}

/// How often the right partner of a pair is found among all: for each image its text, and for each text its image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Retrieval {
    /// For each pair, the place of the text among all texts for the image, from 0.
    texts: Vec<usize>,
    /// For each pair, the place of the image among all images for the text.
    images: Vec<usize>,
}

impl Retrieval {
    /// That of these embeddings `[B, width]`, whose rows are pairs.
    pub fn of(images: Tensor<2>, texts: Tensor<2>) -> Self {
        let rows = images.dims()[0];
        let scores = to_host(unit(images).matmul(unit(texts).swap_dims(0, 1)));
        let better = |right: usize, other: &dyn Fn(usize) -> f32| {
            (0..rows).filter(|&i| other(i) > other(right)).count()
        };
        Self {
            texts: (0..rows).map(|row| better(row, &|i| scores[row * rows + i])).collect(),
            images: (0..rows).map(|row| better(row, &|i| scores[i * rows + row])).collect(),
        }
    }

    /// How often, in 0..1, the right text and the right image are among the first `most`.
    pub fn top(&self, most: usize) -> [f64; 2] {
        [&self.texts, &self.images].map(|places| {
            let found = places.iter().filter(|place| **place < most).count();
            found as f64 / places.len().max(1) as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_both_directions() {
        let device = Device::flex();
        let vectors = |values: &[f32]| from_host::<2>(values.to_vec(), [3, 2], &device);
        // The second image is nearest to the first text; lengths do not matter.
        let images = vectors(&[1.0, 0.0, 5.0, 0.1, 0.0, 1.0]);
        let texts = vectors(&[1.0, 0.0, 0.2, 0.1, 0.0, 3.0]);
        let found = Retrieval::of(images, texts);
        assert_eq!(found, Retrieval { texts: vec![0, 1, 0], images: vec![0, 0, 0] });
        assert_eq!(found.top(1), [2.0 / 3.0, 1.0]);
        assert_eq!(found.top(2), [1.0, 1.0]);
    }
}
