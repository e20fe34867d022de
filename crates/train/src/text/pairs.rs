//! Images with texts, as a pure function of the configuration and the step.

use std::{ops::Range, sync::Arc};

use tweedie_data::{CaptionConfig, Dataset, Words};
use tweedie_hub::ClipTokenizer;

use super::{plain, tokens};
use crate::{
    autoencoder::{ImageBatch, ImageBatches},
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, key, uniform},
};

/// The rows of one forward and backward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CaptionedBatch {
    /// The images.
    pub images: ImageBatch,
    /// One text per row, all of equal length.
    pub texts: Vec<Vec<u32>>,
}

/// Makes batches.
pub(crate) struct CaptionedBatches {
    images: ImageBatches,
    /// Of the training images, and of the held-out ones.
    words: [Vec<Words>; 2],
    tokenizer: Arc<ClipTokenizer>,
    captions: CaptionConfig,
    tokens: usize,
    dropout: f64,
    seed: u64,
    rows: usize,
}

impl CaptionedBatches {
    /// Creates batches for a run, with texts of `tokens` tokens, which are empty with the probability `dropout`.
    ///
    /// # Errors
    /// If every image is held out, or none has a caption.
    pub fn new(
        config: &RunConfig,
        data: &Dataset,
        tokenizer: Arc<ClipTokenizer>,
        tokens: usize,
        dropout: f64,
    ) -> Result<Self, TrainError> {
        let images = ImageBatches::new(config, data, 0)?;
        let words = [&images.train, &images.held_out].map(|part| part.words().cloned().collect::<Vec<_>>());
        if words[0].iter().all(|words| *words == Words::default()) {
            let found = config.data.source.to_string();
            return Err(TrainError::config("data.source", found, "images with captions"));
        }
        let captions = config.text.captions.clone();
        let (seed, rows) = (config.run.seed, config.run.images_per_step());
        Ok(Self { images, words, tokenizer, captions, tokens, dropout, seed, rows })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<ClipTokenizer> {
        &self.tokenizer
    }

    /// The images.
    pub fn images(&self) -> &ImageBatches {
        &self.images
    }

    /// The batches of some passes of the step after `done` steps.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<CaptionedBatch>, TrainError> {
        let captions = key(self.seed, Purpose::Caption, 0);
        let batches = self.images.step(done, passes.clone())?;
        let with_texts = |(pass, images): (usize, ImageBatch)| {
            let first = pass * images.rows;
            let text = |(row, item): (usize, &usize)| {
                let row = (first + row) as u64;
                let dropped = uniform(self.seed, Purpose::Labels, done, row) < self.dropout;
                let sample = done * self.rows as u64 + row;
                match dropped {
                    true => self.encoded(""),
                    false => self.encoded(&self.captions.compose(&self.words[0][*item], captions, sample)),
                }
            };
            let texts = images.items.iter().enumerate().map(text).collect();
            CaptionedBatch { images, texts }
        };
        Ok(passes.zip(batches).map(with_texts).collect())
    }

    /// At most `most` held-out images, evenly spread, or training images if there are none, with their plain captions.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn unseen(&self, most: usize) -> Result<Vec<CaptionedBatch>, TrainError> {
        match self.images.held_out.is_empty() {
            true => self.plain(&self.images.train, &self.words[0], most),
            false => self.held_out(most),
        }
    }

    /// At most `most` held-out images, evenly spread, with their plain captions.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn held_out(&self, most: usize) -> Result<Vec<CaptionedBatch>, TrainError> {
        self.plain(&self.images.held_out, &self.words[1], most)
    }

    fn plain(&self, data: &Dataset, words: &[Words], most: usize) -> Result<Vec<CaptionedBatch>, TrainError> {
        let plain = plain(&self.captions);
        let with_texts = |images: ImageBatch| {
            let text = |item: &usize| self.encoded(&plain.compose(&words[*item], 0, 0));
            let texts = images.items.iter().map(text).collect();
            CaptionedBatch { images, texts }
        };
        Ok(self.images.plain(data, most)?.into_iter().map(with_texts).collect())
    }

    fn encoded(&self, text: &str) -> Vec<u32> {
        tokens(&self.tokenizer, text, self.tokens)
    }
}
