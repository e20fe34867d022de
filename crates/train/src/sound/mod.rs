//! Recordings as samples of one length for text-to-sound models.

mod config;

use std::{collections::BTreeMap, sync::Arc};

use tweedie_data::{Audio, Dataset, NoCaption, Skipped, Sounds, Words, counted_endings};
use tweedie_hub::Speech;
use tweedie_media::{level, sounding_in};
use tweedie_models::{Codec, MelSpectrogram};

use crate::{
    config::RunConfig,
    error::TrainError,
    text::{self, Latents, Part},
};

pub use config::SoundConfig;
pub(crate) use config::check_data;

/// Seconds over which loudness is measured to find silence.
const FRAME: f64 = 0.02;
/// The largest magnitude of every recording.
const PEAK: f32 = 0.9;

/// A recording without the silence around it, at the rate of the codec, and with a largest magnitude of [`PEAK`] or the loudness
/// of the configuration.
struct Recording {
    values: Vec<f32>,
    words: Words,
}

/// The recordings of a run.
pub(crate) struct SoundSet {
    train: Vec<Recording>,
    held_out: Vec<Recording>,
    class_names: Vec<String>,
    skipped: Vec<Skipped>,
    /// A fingerprint of all of them.
    sum: u32,
}

impl SoundSet {
    /// Reads and prepares all recordings; and notes about what was changed or left out.
    ///
    /// # Errors
    /// If there are none, one has no caption and `text.captions.missing = "fail"`, or they exceed `text.latents.cache_mb`.
    pub fn open(config: &RunConfig) -> Result<(Self, Vec<String>), TrainError> {
        let data = Dataset::open_by(&config.data, Sounds)?;
        let mut notes = Vec::new();
        let place = &config.data.source;
        if !data.recognized_as().is_empty() {
            notes.push(format!("{place}: {}", data.recognized_as()));
        }
        if !data.passed_over().is_empty() {
            let found = counted_endings(data.passed_over());
            notes.push(format!("{place}: ignoring files that are not sounds: {found}"));
        }
        let (data, mut notes) = text::captioned(config, data, notes)?;
        let (train, held_out) = data.split();
        let mut seen = Changes::default();
        let mut part = |data: &Dataset<Sounds>| recordings(config, data, &mut seen);
        let (train, held_out) = (part(&train)?, part(&held_out)?);
        notes.extend(seen.notes(config, data.len()));
        if train.is_empty() {
            let expected = "recordings to train on; all are longer than sound.seconds, silent or held out";
            return Err(TrainError::config("data.source", place, expected));
        }
        let mut sum = 0;
        for recording in train.iter().chain(&held_out) {
            let bytes: Vec<u8> = recording.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            sum = crc32c::crc32c_append(sum, &bytes);
            sum = crc32c::crc32c_append(sum, format!("{:?}", recording.words).as_bytes());
        }
        let (class_names, skipped) = (data.class_names().to_vec(), data.skipped());
        Ok((Self { train, held_out, class_names, skipped, sum }, notes))
    }

    /// Names of the classes, for example the speakers.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The files that cannot be read.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// A fingerprint of the recordings and their words.
    pub fn sums(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("the recordings".to_owned(), format!("{:08x}", self.sum))])
    }

    /// Number of training and of held-out recordings.
    pub fn sizes(&self) -> [usize; 2] {
        [self.train.len(), self.held_out.len()]
    }

    /// The words of the training recordings.
    pub fn words(&self) -> impl Iterator<Item = &Words> {
        self.train.iter().map(|recording| &recording.words)
    }

    /// The codec, normalized for the training recordings, and the latents of both parts.
    ///
    /// # Errors
    /// If the codec's configuration is invalid.
    pub fn parts(&self, config: &RunConfig) -> Result<(Arc<dyn Codec>, Part, Part), TrainError> {
        let sound = &config.sound;
        let length = sound.length();
        let wrong = |e: tweedie_models::ConfigError| TrainError::Model(format!("sound.codec: {e}"));
        let samples: Vec<Vec<f32>> = self.train.iter().map(|r| placed(&r.values, 0, length)).collect();
        let codec = MelSpectrogram::fitted(&sound.codec, samples.iter().map(Vec::as_slice)).map_err(wrong)?;
        let part = |recordings: &[Recording], variants: usize| Part {
            latents: Latents::of_sounds(
                &codec,
                sound.shape(),
                variants,
                recordings.iter().map(|r| {
                    // Each version begins one frame later, if there is room.
                    let room = (length - r.values.len()) / sound.codec.hop;
                    (0..variants).map(move |v| placed(&r.values, v.min(room) * sound.codec.hop, length))
                }),
            ),
            words: recordings.iter().map(|r| r.words.clone()).collect(),
        };
        let (train, held_out) = (part(&self.train, config.text.latents.variants), part(&self.held_out, 1));
        Ok((Arc::new(codec), train, held_out))
    }

    /// What a model of these recordings can say: their words if each is of one word, in order of appearance, and the voices if
    /// recordings have a text and a class.
    pub fn speech(&self) -> Speech {
        /// A larger vocabulary is not listed.
        const MOST: usize = 1000;
        let mut speech = Speech::default();
        let mut words = Some(Vec::new());
        for Words { caption, kinds, .. } in self.words() {
            let text = caption.as_ref().or(kinds.last());
            if let (Some(_), Some(kind)) = (caption, kinds.last())
                && !speech.voices.contains(kind)
            {
                speech.voices.push(kind.clone());
            }
            let Some(known) = &mut words else { continue };
            match text.map(|text| text.to_lowercase()) {
                Some(text) if text.contains(char::is_whitespace) || known.len() > MOST => words = None,
                Some(text) if !known.contains(&text) => known.push(text),
                _ => {}
            }
        }
        speech.voices.sort();
        speech.words = words.unwrap_or_default();
        speech
    }
}

/// A sample of `length` values, silent but for the recording from `start` on.
fn placed(values: &[f32], start: usize, length: usize) -> Vec<f32> {
    let mut sample = vec![0.0; length];
    let end = (start + values.len()).min(length);
    sample[start..end].copy_from_slice(&values[..end - start]);
    sample
}

/// What was changed or left out.
#[derive(Default)]
struct Changes {
    mixed: usize,
    silent: usize,
    long: usize,
    resampled: BTreeMap<u32, usize>,
    amplified: usize,
    limited: usize,
    unmeasured: usize,
}

impl Changes {
    /// A recording brought to a loudness.
    fn leveled(&mut self, values: Vec<f32>, rate: u32, lufs: f64) -> Vec<f32> {
        let mut sound = Audio { channels: vec![values], rate, guessed: false };
        match level(&mut sound, lufs) {
            Some(done) => {
                self.amplified += 1;
                self.limited += usize::from(done.limited);
            }
            None => self.unmeasured += 1,
        }
        sound.channels.pop().unwrap_or_default()
    }

    fn notes(&self, config: &RunConfig, of: usize) -> Vec<String> {
        let sound = &config.sound;
        let mut notes = Vec::new();
        if self.mixed > 0 {
            notes.push(format!("{} of {of} sounds have several channels: their mean is used", self.mixed));
        }
        for (rate, count) in &self.resampled {
            let to = sound.codec.sample_rate;
            notes.push(format!("{count} of {of} sounds have a rate of {rate} Hz: resampled to {to} Hz"));
        }
        if let Some(lufs) = sound.loudness {
            notes
                .push(format!("{} of {of} sounds are brought to {lufs} LUFS", self.amplified - self.limited));
            if self.limited > 0 {
                notes.push(format!(
                    "{} of {of} sounds stay quieter than {lufs} LUFS: more would clip them",
                    self.limited
                ));
            }
            if self.unmeasured > 0 {
                notes.push(format!(
                    "{} of {of} sounds keep their loudness: they are shorter than the 0.4 s over which it is defined",
                    self.unmeasured
                ));
            }
        }
        if self.silent > 0 {
            notes.push(format!("{} of {of} sounds are silent: left out", self.silent));
        }
        if self.long > 0 {
            let longest = sound.length() as f64 / f64::from(sound.codec.sample_rate);
            notes.push(format!(
                "{} of {of} sounds are longer than {longest} s without the silence around them: left out; \
                 sound.seconds sets the length",
                self.long
            ));
        }
        notes
    }
}

fn recordings(
    config: &RunConfig,
    data: &Dataset<Sounds>,
    seen: &mut Changes,
) -> Result<Vec<Recording>, TrainError> {
    let (sound, most) = (&config.sound, config.text.latents.cache_mb);
    // The latents have as many values as bands, for each frame.
    let each = sound.shape().iter().product::<usize>() * config.text.latents.variants + sound.length();
    let megabytes = data.len().saturating_mul(4 * each).div_ceil(1 << 20);
    if megabytes > most {
        let expected = format!("at least {megabytes}, for {} sounds of {} s", data.len(), sound.seconds);
        return Err(TrainError::config("text.latents.cache_mb", most, expected));
    }
    let mut all = Vec::with_capacity(data.len());
    let names: Vec<String> = data.names().map(str::to_owned).collect();
    for (index, name) in names.iter().enumerate() {
        let item = data.get(index)?;
        // A file that cannot be read is replaced by the next one, which is there already.
        if item.name != *name {
            continue;
        }
        seen.mixed += usize::from(item.sample.channels.len() > 1);
        let values = at_rate(&item.sample, sound.codec.sample_rate, seen);
        let frame = (FRAME * f64::from(sound.codec.sample_rate)).max(1.0) as usize;
        let part = sounding_in(&values, sound.silence_db, frame, frame.div_ceil(4));
        let mut values = values[part].to_vec();
        let peak = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        if peak == 0.0 {
            seen.silent += 1;
        } else if values.len() > sound.length() {
            seen.long += 1;
        } else {
            let scaled = match sound.loudness {
                Some(lufs) => seen.leveled(values, sound.codec.sample_rate, lufs),
                None => {
                    values.iter_mut().for_each(|v| *v *= PEAK / peak);
                    values
                }
            };
            all.push(Recording { values: scaled, words: words_of(config, &item.words) });
        }
    }
    Ok(all)
}

/// The words of a recording; its class is its text if it has none and `text.captions.missing = "class"`.
fn words_of(config: &RunConfig, words: &Words) -> Words {
    match config.text.captions.missing {
        NoCaption::Class if words.caption.is_none() => {
            Words { caption: words.kinds.last().cloned(), ..Words::default() }
        }
        _ => words.clone(),
    }
}

/// The mean of the channels at `rate`.
fn at_rate(sound: &Audio, rate: u32, seen: &mut Changes) -> Vec<f32> {
    if sound.rate != rate {
        *seen.resampled.entry(sound.rate).or_default() += 1;
        return tweedie_media::resampled(&sound.mono(), sound.rate, rate);
    }
    sound.mono()
}
