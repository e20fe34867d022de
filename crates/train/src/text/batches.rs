//! The data of one optimizer step: noisy latents and texts, as a pure function of the configuration and the step.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use tweedie_data::{CaptionConfig, Dataset, Order, Words};
use tweedie_hub::ClipTokenizer;
use tweedie_ops::Device;

use super::{LatentFile, Latents, TextConfig, Vae, tokens};
use crate::{
    batches::{HostBatch, Noising},
    config::RunConfig,
    error::TrainError,
    init,
    keys::{Purpose, key, uniform},
};

/// The file of the latents in the run's folder.
const FILE: &str = "latents.safetensors";
const HELD_OUT: &str = "latents-held-out.safetensors";

/// The rows of one forward and backward pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TextBatch {
    /// Latents, times and weights.
    pub rows: HostBatch,
    /// One text per row, all of equal length.
    pub texts: Vec<Vec<u32>>,
}

/// Makes batches.
pub(crate) struct TextBatches {
    config: TextConfig,
    tokenizer: Arc<ClipTokenizer>,
    latents: Latents,
    words: Vec<Words>,
    held_out: Option<Latents>,
    held_words: Vec<Words>,
    order: Order,
    pub noising: Noising,
    seed: u64,
}

/// The tokenizer of the initial model, or else one trained on the captions of `data`.
///
/// # Errors
/// If the initial model has none.
pub(crate) fn tokenizer(data: &Dataset, config: &RunConfig) -> Result<ClipTokenizer, TrainError> {
    if let Some(path) = &config.run.init {
        return init::tokenizer(path);
    }
    let text = &config.text;
    let texts = data.words().flat_map(|words| text.captions.vocabulary(words));
    Ok(ClipTokenizer::train(texts, text.vocabulary))
}

impl TextBatches {
    /// Creates batches for a run; `writes` says whether its latents are written to the run's folder.
    ///
    /// # Errors
    /// If every image is held out or none has a caption, and those of [`Latents::open`].
    pub fn new(
        config: &RunConfig,
        data: &Dataset,
        tokenizer: ClipTokenizer,
        vae: &Vae,
        device: &Device,
        writes: bool,
    ) -> Result<Self, TrainError> {
        let (train, held) = data.split();
        if train.is_empty() {
            let expected = format!("a fraction that leaves some of the {} images for training", data.len());
            return Err(TrainError::config("data.holdout", config.data.holdout, expected));
        }
        if train.words().all(|words| *words == Words::default()) {
            let found = config.data.source.to_string();
            return Err(TrainError::config("data.source", found, "images with captions"));
        }
        let (text, run) = (&config.text, &config.run);
        if writes {
            std::fs::create_dir_all(&run.out).map_err(|e| TrainError::io(&run.out, e))?;
        }
        let latents = |part: &Dataset, file: &str, variants: usize| {
            let config_of = super::LatentConfig { variants, ..text.latents.clone() };
            let path = run.out.join(file);
            let file = LatentFile { path: &path, writes };
            Latents::open(part, vae, &config.augment, &config_of, run.seed, file, device)
        };
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            latents: latents(&train, FILE, text.latents.variants)?,
            words: train.words().cloned().collect(),
            held_out: if held.is_empty() { None } else { Some(latents(&held, HELD_OUT, 1)?) },
            held_words: held.words().cloned().collect(),
            order: Order::new(key(run.seed, Purpose::Order, 0), train.len()),
            noising: Noising::new(config)?,
            seed: run.seed,
            config: text.clone(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<ClipTokenizer> {
        &self.tokenizer
    }

    /// What batches depend on besides the configuration.
    pub fn inputs(&self) -> BTreeMap<String, String> {
        let held_out = self.held_out.iter().map(Latents::fingerprint);
        let latents: Vec<_> = std::iter::once(self.latents.fingerprint()).chain(held_out).collect();
        BTreeMap::from([("the images or the autoencoder".to_owned(), latents.join(" "))])
    }

    /// Channels, height and width of the latents.
    pub fn shape(&self) -> [usize; 3] {
        self.latents.shape()
    }

    /// Number of training images.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Number of held-out images.
    pub fn held_out(&self) -> usize {
        self.held_words.len()
    }

    /// The texts of previews, at least one.
    pub fn prompts(&self) -> Vec<String> {
        const MOST: usize = 8;
        if !self.config.prompts.is_empty() {
            return self.config.prompts.clone();
        }
        let words = if self.held_words.is_empty() { &self.words } else { &self.held_words };
        let plain = self.plain();
        words.iter().take(MOST).map(|words| plain.compose(words, 0, 0)).collect()
    }

    /// How the plain caption of an image is composed.
    fn plain(&self) -> CaptionConfig {
        CaptionConfig { missing: self.config.captions.missing, ..CaptionConfig::default() }
    }

    /// The tokens of a text.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        tokens(&self.tokenizer, text, self.config.tokens)
    }

    /// The batches of some passes of the step after `done` steps. If times depend on the losses,
    /// `Noising::draw_times` must complete them.
    pub fn step(&self, done: u64, passes: Range<usize>) -> Vec<TextBatch> {
        let captions = key(self.seed, Purpose::Caption, 0);
        let pass = |pass: Range<usize>| {
            let mut batch = TextBatch::default();
            for row in pass {
                let sample = done * self.noising.rows() as u64 + row as u64;
                let image = self.order.index(sample);
                let x0 = self.latents.draw(image, self.seed, sample);
                self.noising.add(&mut batch.rows, &x0, done, row);
                let dropped = uniform(self.seed, Purpose::Labels, done, row as u64) < self.config.dropout;
                batch.texts.push(match dropped {
                    true => self.tokens(""),
                    false => self.tokens(&self.config.captions.compose(&self.words[image], captions, sample)),
                });
            }
            batch
        };
        passes.map(|number| self.noising.pass(number)).map(pass).collect()
    }

    /// Held-out images with their plain captions and fixed, evenly spread times and noise: `rows` in all, so each is repeated if
    /// there are fewer.
    pub fn validation(&self, rows: usize) -> Vec<TextBatch> {
        let Some(latents) = &self.held_out else { return Vec::new() };
        let (images, plain) = (self.held_words.len(), self.plain());
        let part = |part: Range<usize>| {
            let mut batch = TextBatch::default();
            for row in part {
                let image = if rows <= images { row * images / rows } else { row % images };
                self.noising.add_held_out(&mut batch.rows, latents.plain(image), row, rows);
                batch.texts.push(self.tokens(&plain.compose(&self.held_words[image], 0, 0)));
            }
            batch
        };
        self.noising.held_out(rows).map(part).collect()
    }
}
