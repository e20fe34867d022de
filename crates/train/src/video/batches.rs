//! The data of one optimizer step: noisy latents of clips and texts, as a pure function of the configuration and the step.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use tweedie_data::{CaptionConfig, Clips, DataConfig, Dataset, Frame, Order, Words};
use tweedie_hub::{ClipTokenizer, cache};
use tweedie_models::HostTensor;
use tweedie_ops::{Batch, Device};

use crate::{
    batches::Noising,
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, key, uniform},
    text::{LatentFile, TextBatch, TextConfig, Vae, tokens},
};

/// The files of the latents in the run's folder.
const FILES: [&str; 2] = ["latents.safetensors", "latents-held-out.safetensors"];
const MEAN: &str = "mean";

/// The scaled latents of all clips, computed once: the mean of the autoencoder's distribution for each frame.
struct Latents {
    /// `[C, F, H, W]`.
    shape: [usize; 4],
    /// `[clips, C, F, H, W]`.
    values: Vec<f32>,
    fingerprint: String,
}

impl Latents {
    /// Encodes the clips, or reads their latents from `file` if it contains those; otherwise writes it.
    fn open(
        clips: &Dataset<Clips>,
        [frames, size]: [usize; 2],
        vae: &Vae,
        fingerprint: &str,
        file: LatentFile<'_>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let [channels, height, width] = vae.shape(size)?;
        let shape = [channels, frames, height, width];
        let count = clips.len() * shape.iter().product::<usize>();
        let mut crc = 0;
        clips.names().for_each(|name| crc = crc32c::crc32c_append(crc, name.as_bytes()));
        let fingerprint = format!("{fingerprint} {crc:08x}");
        let found = cache::read(file.path, &fingerprint).and_then(|mut found| found.remove(MEAN));
        if let Some(values) = found.map(|tensor| tensor.values).filter(|values| values.len() == count) {
            return Ok(Self { shape, values, fingerprint });
        }
        let mut values = Vec::with_capacity(count);
        for index in 0..clips.len() {
            let clip = clips.get(index)?.sample;
            let planes: Vec<f32> = clip.frames.iter().flat_map(|frame| frame.to_planes()).collect();
            let [mean, _] = vae.encode(Batch::from_host(planes, frames, &[3, size, size].into(), device))?;
            // From frames of channels to channels of frames.
            let area = height * width;
            for plane in (0..channels).flat_map(|c| (0..frames).map(move |f| f * channels + c)) {
                values.extend_from_slice(&mean[plane * area..(plane + 1) * area]);
            }
        }
        if file.writes {
            let tensor = HostTensor { shape: [&[clips.len()], &shape[..]].concat(), values: values.clone() };
            cache::write(file.path, &fingerprint, &BTreeMap::from([(MEAN.to_owned(), tensor)]))?;
        }
        Ok(Self { shape, values, fingerprint })
    }

    fn of(&self, clip: usize) -> &[f32] {
        let each: usize = self.shape.iter().product();
        &self.values[clip * each..(clip + 1) * each]
    }
}

/// One part of the data, seen or held out.
struct Part {
    latents: Latents,
    words: Vec<Words>,
}

/// Makes batches.
pub(crate) struct VideoBatches {
    config: TextConfig,
    tokenizer: Arc<ClipTokenizer>,
    train: Part,
    held_out: Option<Part>,
    order: Order,
    pub noising: Noising,
    seed: u64,
}

impl VideoBatches {
    /// Creates batches for a run; `writes` says whether its latents are written to the run's folder.
    ///
    /// # Errors
    /// If every clip is held out, the latents exceed `text.latents.cache_mb`, a clip cannot be made, or a file cannot be
    /// written.
    pub fn new(
        config: &RunConfig,
        tokenizer: ClipTokenizer,
        vae: &Vae,
        device: &Device,
        writes: bool,
    ) -> Result<Self, TrainError> {
        let (text, run) = (&config.text, &config.run);
        let DataConfig { size, ref moving, .. } = config.data;
        let [channels, height, width] = vae.shape(size)?;
        let each = 4 * channels * moving.frames * height * width;
        let megabytes = moving.clips.saturating_mul(each).div_ceil(1 << 20);
        if megabytes > text.latents.cache_mb {
            let expected = format!("at least {megabytes}, for the latents of {} clips", moving.clips);
            return Err(TrainError::config("text.latents.cache_mb", text.latents.cache_mb, expected));
        }
        let decode = Clips { frame: Frame::of(&config.data), frames: moving.frames };
        let (train, held) = Dataset::open_by(&config.data, decode)?.split();
        if train.is_empty() {
            let expected = format!("a fraction that leaves some of the {} clips for training", moving.clips);
            return Err(TrainError::config("data.holdout", config.data.holdout, expected));
        }
        if writes {
            std::fs::create_dir_all(&run.out).map_err(|e| TrainError::io(&run.out, e))?;
        }
        let fingerprint = fingerprint(config, vae);
        let part = |clips: &Dataset<Clips>, file: &str| -> Result<Part, TrainError> {
            let sizes = [moving.frames, size];
            let path = run.out.join(file);
            let file = LatentFile { path: &path, writes };
            let latents = Latents::open(clips, sizes, vae, &fingerprint, file, device)?;
            Ok(Part { latents, words: clips.words().cloned().collect() })
        };
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            order: Order::new(key(run.seed, Purpose::Order, 0), train.len()),
            train: part(&train, FILES[0])?,
            held_out: if held.is_empty() { None } else { Some(part(&held, FILES[1])?) },
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
        let parts = std::iter::once(&self.train).chain(&self.held_out);
        let all: Vec<_> = parts.map(|part| part.latents.fingerprint.as_str()).collect();
        BTreeMap::from([("the clips or the autoencoder".to_owned(), all.join(" "))])
    }

    /// Channels, frames, height and width of the latents.
    pub fn shape(&self) -> [usize; 4] {
        self.train.latents.shape
    }

    /// Number of training and of held-out clips.
    pub fn sizes(&self) -> [usize; 2] {
        [self.train.words.len(), self.held_out.as_ref().map_or(0, |part| part.words.len())]
    }

    /// The texts of previews, at least one.
    pub fn prompts(&self) -> Vec<String> {
        const MOST: usize = 8;
        if !self.config.prompts.is_empty() {
            return self.config.prompts.clone();
        }
        let words = &self.held_out.as_ref().unwrap_or(&self.train).words;
        let plain = CaptionConfig::default();
        words.iter().take(MOST).map(|words| plain.compose(words, 0, 0)).collect()
    }

    /// The tokens of a text.
    fn tokens(&self, text: &str) -> Vec<u32> {
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
                let clip = self.order.index(sample);
                self.noising.add(&mut batch.rows, self.train.latents.of(clip), done, row);
                let dropped = uniform(self.seed, Purpose::Labels, done, row as u64) < self.config.dropout;
                let words = &self.train.words[clip];
                batch.texts.push(match dropped {
                    true => self.tokens(""),
                    false => self.tokens(&self.config.captions.compose(words, captions, sample)),
                });
            }
            batch
        };
        passes.map(|number| self.noising.pass(number)).map(pass).collect()
    }

    /// Held-out clips with their captions and fixed, evenly spread times and noise: `rows` in all, so each is repeated if there
    /// are fewer.
    pub fn validation(&self, rows: usize) -> Vec<TextBatch> {
        let Some(Part { latents, words }) = &self.held_out else { return Vec::new() };
        let (clips, plain) = (words.len(), CaptionConfig::default());
        let part = |part: Range<usize>| {
            let mut batch = TextBatch::default();
            for row in part {
                let clip = if rows <= clips { row * clips / rows } else { row % clips };
                self.noising.add_held_out(&mut batch.rows, latents.of(clip), row, rows);
                batch.texts.push(self.tokens(&plain.compose(&words[clip], 0, 0)));
            }
            batch
        };
        self.noising.held_out(rows).map(part).collect()
    }
}

/// What the latents depend on besides the names of the clips, which are drawn by laws: CRC-32C.
fn fingerprint(config: &RunConfig, vae: &Vae) -> String {
    let mut crc = 0;
    let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
    add(vae.codec().config_json().as_bytes());
    for (name, tensor) in vae.codec().tensors() {
        add(name.as_bytes());
        tensor.values.iter().for_each(|v| add(&v.to_le_bytes()));
    }
    let DataConfig { size, background, moving, .. } = &config.data;
    add(serde_json::to_string(&(size, background, moving)).unwrap_or_default().as_bytes());
    format!("{crc:08x}")
}
