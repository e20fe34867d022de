//! The data of one optimizer step: noisy latents and texts, as a pure function of the configuration and the step.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use tweedie_data::{CaptionConfig, Dataset, Order, Words};
use tweedie_hub::ClipTokenizer;
use tweedie_ops::Device;

use super::{LatentFile, Latents, TextConfig, Vae, tokens};
use crate::{
    batches::{Batches, HostBatch, Noising},
    checkpoint::Checkpoint,
    config::RunConfig,
    error::TrainError,
    init,
    keys::{Purpose, key, uniform},
    share::Share,
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

impl AsRef<HostBatch> for TextBatch {
    fn as_ref(&self) -> &HostBatch {
        &self.rows
    }
}

impl AsMut<HostBatch> for TextBatch {
    fn as_mut(&mut self) -> &mut HostBatch {
        &mut self.rows
    }
}

/// Clean samples, which texts describe.
pub(crate) trait Clean: Send + Sync + 'static {
    /// What they are of, in the plural.
    const NOUN: &str;

    /// A sample for sample number `counter` of the run: it may be one of several versions.
    fn draw(&self, index: usize, seed: u64, counter: u64) -> Cow<'_, [f32]>;

    /// The unchanged sample.
    fn plain(&self, index: usize) -> Cow<'_, [f32]>;

    /// A fingerprint of all of them.
    fn fingerprint(&self) -> &str;
}

/// Latents, and the words of each.
pub(crate) struct Part<L = Latents> {
    pub latents: L,
    pub words: Vec<Words>,
}

impl Part {
    /// The latents of the training images and of the held-out ones; `writes` says whether they are written to the run's folder.
    ///
    /// # Errors
    /// If every image is held out or none has a caption, and those of [`Latents::open`].
    pub fn of_images(
        config: &RunConfig,
        data: &Dataset,
        vae: &Vae,
        device: &Device,
        writes: bool,
    ) -> Result<[Self; 2], TrainError> {
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
        let part = |part: &Dataset, file: &str, variants: usize| {
            let config_of = super::LatentConfig { variants, ..text.latents.clone() };
            let path = run.out.join(file);
            let file = LatentFile { path: &path, writes };
            Ok::<_, TrainError>(Self {
                latents: match part.is_empty() {
                    true => Latents::none(vae.shape(data.size())?),
                    false => Latents::open(part, vae, &config.augment, &config_of, run.seed, file, device)?,
                },
                words: part.words().cloned().collect(),
            })
        };
        Ok([part(&train, FILE, text.latents.variants)?, part(&held, HELD_OUT, 1)?])
    }
}

/// Makes batches.
pub(crate) struct TextBatches<L = Latents> {
    config: TextConfig,
    tokenizer: Arc<ClipTokenizer>,
    train: Part<L>,
    held_out: Part<L>,
    order: Order,
    noising: Noising,
    seed: u64,
}

/// The tokenizer of the initial model, or else one trained on these words.
///
/// # Errors
/// If the initial model has none.
pub(crate) fn tokenizer<'a>(
    words: impl Iterator<Item = &'a Words>,
    config: &RunConfig,
) -> Result<ClipTokenizer, TrainError> {
    if let Some(path) = &config.run.init {
        return init::tokenizer(path);
    }
    let text = &config.text;
    let texts = words.flat_map(|words| text.captions.vocabulary(words));
    Ok(ClipTokenizer::train(texts, text.vocabulary))
}

/// The name of the tokenizer among a run's inputs, and of its folder in the run's folder if it was not learned from the captions.
pub(crate) const TOKENIZER: &str = "tokenizer";

/// The tokenizer of a run, which must be that of its checkpoint.
///
/// # Errors
/// Those of [`tokenizer`], and if it is another one.
pub(crate) fn checked_tokenizer<'a>(
    config: &RunConfig,
    words: impl Iterator<Item = &'a Words>,
    from: Option<&Checkpoint>,
) -> Result<ClipTokenizer, TrainError> {
    let own = match (&config.run.init, from) {
        (Some(_), Some(_)) => ClipTokenizer::open(&config.run.out.join(TOKENIZER))?,
        _ => tokenizer(words, config)?,
    };
    let print = own.fingerprint();
    if let Some(checkpoint) = from
        && checkpoint.state.inputs.get(TOKENIZER).is_some_and(|before| *before != print)
    {
        let reason = match &config.run.init {
            Some(_) => format!("the tokenizer in {} is damaged", config.run.out.join(TOKENIZER).display()),
            None => "the captions changed, and so did the tokenizer that is trained on them".into(),
        };
        return Err(TrainError::checkpoint(&checkpoint.path, reason));
    }
    Ok(own)
}

/// How the plain caption of a sample is composed: alone, unless training never shows it so.
pub(crate) fn plain(captions: &CaptionConfig) -> CaptionConfig {
    let CaptionConfig { caption, caption_and_kind, missing, .. } = *captions;
    let alone = caption > 0.0 || caption_and_kind == 0.0;
    CaptionConfig {
        caption: if alone { 1.0 } else { 0.0 },
        caption_and_kind: if alone { 0.0 } else { 1.0 },
        missing,
        ..CaptionConfig::default()
    }
}

impl<L: Clean> TextBatches<L> {
    /// Creates batches for a run.
    ///
    /// # Errors
    /// If the configuration of the process is invalid.
    pub fn new(
        config: &RunConfig,
        tokenizer: ClipTokenizer,
        [train, held_out]: [Part<L>; 2],
    ) -> Result<Self, TrainError> {
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            order: Order::new(key(config.run.seed, Purpose::Order, 0), train.words.len()),
            train,
            held_out,
            noising: Noising::new(config)?,
            seed: config.run.seed,
            config: config.text.clone(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<ClipTokenizer> {
        &self.tokenizer
    }

    /// What batches depend on besides the configuration.
    pub fn inputs(&self) -> BTreeMap<String, String> {
        let parts = [&self.train, &self.held_out];
        let used = parts.into_iter().filter(|part| !part.words.is_empty());
        let latents: Vec<_> = used.map(|part| part.latents.fingerprint()).collect();
        BTreeMap::from([
            (format!("the {} or the autoencoder", L::NOUN), latents.join(" ")),
            (TOKENIZER.to_owned(), self.tokenizer.fingerprint()),
        ])
    }

    /// The latents of the training samples.
    pub fn latents(&self) -> &L {
        &self.train.latents
    }

    /// The texts of previews, at least one.
    pub fn prompts(&self) -> Vec<String> {
        const MOST: usize = 8;
        if !self.config.prompts.is_empty() {
            return self.config.prompts.clone();
        }
        let part = if self.held_out.words.is_empty() { &self.train } else { &self.held_out };
        let (plain, all) = (plain(&self.config.captions), part.words.len());
        let count = all.min(MOST);
        (0..count).map(|i| plain.compose(&part.words[i * all / count], 0, 0)).collect()
    }

    /// The tokens of a text.
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        tokens(&self.tokenizer, text, self.config.tokens)
    }
}

impl<L: Clean> Batches for TextBatches<L> {
    type Rows = TextBatch;

    fn noising(&self) -> &Noising {
        &self.noising
    }

    fn sizes(&self) -> [usize; 2] {
        [self.train.words.len(), self.held_out.words.len()]
    }

    fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<TextBatch>, TrainError> {
        let captions = key(self.seed, Purpose::Caption, 0);
        let pass = |pass: Range<usize>| {
            let mut batch = TextBatch::default();
            for row in pass {
                let sample = done * self.noising.rows() as u64 + row as u64;
                let image = self.order.index(sample);
                let x0 = self.train.latents.draw(image, self.seed, sample);
                self.noising.add(&mut batch.rows, &x0, done, row);
                let dropped = uniform(self.seed, Purpose::Labels, done, row as u64) < self.config.dropout;
                batch.texts.push(match dropped {
                    true => self.tokens(""),
                    false => {
                        self.tokens(&self.config.captions.compose(&self.train.words[image], captions, sample))
                    }
                });
            }
            batch
        };
        Ok(passes.map(|number| self.noising.pass(number)).map(pass).collect())
    }

    /// Samples are repeated if there are fewer than `rows`.
    fn validation(&self, rows: usize, share: &Share) -> Result<Vec<TextBatch>, TrainError> {
        let Part { latents, words } = &self.held_out;
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let (images, plain) = (words.len(), plain(&self.config.captions));
        let part = |part: Range<usize>| {
            let mut batch = TextBatch::default();
            for row in part {
                let image = if rows <= images { row * images / rows } else { row % images };
                self.noising.add_held_out(&mut batch.rows, &latents.plain(image), row, rows);
                batch.texts.push(self.tokens(&plain.compose(&words[image], 0, 0)));
            }
            batch
        };
        Ok(share.deal(self.noising.held_out(rows)).map(part).collect())
    }
}
