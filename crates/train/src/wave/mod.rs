//! Recordings as windows of one length, for models of waveforms.

mod config;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use tweedie_data::{Audio, Dataset, Skipped, Sounds, counted_endings};

use crate::{
    batches::{Batches, HostBatch, Noising},
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, uniform},
    share::Share,
};

pub use config::WaveConfig;

/// The largest magnitude of a recording that is scaled.
const PEAK: f32 = 0.9;

/// The recordings of a run, at the rate and with the channels of its samples.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaveSet {
    train: Arc<[Recording]>,
    held_out: Arc<[Recording]>,
    skipped: Vec<Skipped>,
    /// A fingerprint of all of them.
    sum: u32,
}

/// The channels of a recording, one after another.
#[derive(Clone, Debug, Default)]
struct Recording {
    values: Vec<f32>,
    length: usize,
}

/// What was changed or left out.
#[derive(Default)]
struct Changes {
    mixed: usize,
    doubled: usize,
    silent: usize,
    resampled: BTreeMap<u32, usize>,
}

impl WaveSet {
    /// Reads and prepares all recordings; and notes about what was changed or left out.
    ///
    /// # Errors
    /// If there are none, or they exceed `data.cache_mb`.
    pub fn open(config: &RunConfig) -> Result<(Self, Vec<String>), TrainError> {
        let data = Dataset::open_by(&config.data, Sounds)?;
        let (mut notes, place) = (Vec::new(), &config.data.source);
        if !data.recognized_as().is_empty() {
            notes.push(format!("{place}: {}", data.recognized_as()));
        }
        if !data.passed_over().is_empty() {
            let found = counted_endings(data.passed_over());
            notes.push(format!("{place}: ignoring files that are not sounds: {found}"));
        }
        let (mut changes, mut room) = (Changes::default(), config.data.cache_mb << 18);
        let (train, held_out) = data.split();
        let mut part = |data: &Dataset<Sounds>| recordings(config, data, &mut changes, &mut room);
        let (train, held_out) = (part(&train)?, part(&held_out)?);
        changes.tell(config, data.len(), &mut notes);
        if train.is_empty() {
            let expected = "recordings to train on; all are silent, held out or cannot be read";
            return Err(TrainError::config("data.source", place, expected));
        }
        let mut sum = 0;
        for value in train.iter().chain(&held_out).flat_map(|recording| &recording.values) {
            sum = crc32c::crc32c_append(sum, &value.to_le_bytes());
        }
        Ok((Self { train: train.into(), held_out: held_out.into(), skipped: data.skipped(), sum }, notes))
    }

    /// The files that cannot be read.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// A fingerprint of the recordings.
    pub fn sums(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("the recordings".to_owned(), format!("{:08x}", self.sum))])
    }

    /// Number of training and of held-out recordings.
    pub fn sizes(&self) -> [usize; 2] {
        [self.train.len(), self.held_out.len()]
    }

    /// Number of values of all recordings.
    pub fn values(&self) -> usize {
        self.train.iter().chain(&*self.held_out).map(|recording| recording.values.len()).sum()
    }
}

/// The recordings of `data`, for which there is `room` for values.
fn recordings(
    config: &RunConfig,
    data: &Dataset<Sounds>,
    changes: &mut Changes,
    room: &mut usize,
) -> Result<Vec<Recording>, TrainError> {
    let wave = &config.waveform;
    let mut all = Vec::with_capacity(data.len());
    let names: Vec<String> = data.names().map(str::to_owned).collect();
    for (index, name) in names.iter().enumerate() {
        let item = data.get(index)?;
        // A file that cannot be read is replaced by the next one, which is there already.
        if item.name != *name {
            continue;
        }
        let mut channels = with_channels(&item.sample, wave.channels, changes);
        if item.sample.rate != wave.sample_rate {
            *changes.resampled.entry(item.sample.rate).or_default() += 1;
            for channel in &mut channels {
                *channel = tweedie_media::resampled(channel, item.sample.rate, wave.sample_rate);
            }
        }
        let length = channels.first().map_or(0, Vec::len);
        let mut values = channels.concat();
        let peak = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        if peak == 0.0 {
            changes.silent += 1;
            continue;
        }
        if wave.peak {
            values.iter_mut().for_each(|v| *v *= PEAK / peak);
        }
        let Some(left) = room.checked_sub(values.len()) else {
            let expected = format!(
                "more: the recordings up to {name}, at {} Hz, need it already; or a lower waveform.sample_rate",
                wave.sample_rate
            );
            return Err(TrainError::config("data.cache_mb", config.data.cache_mb, expected));
        };
        *room = left;
        all.push(Recording { values, length });
    }
    Ok(all)
}

/// The sound with this number of channels: its own, the mean of all, or copies of it.
fn with_channels(sound: &Audio, count: usize, changes: &mut Changes) -> Vec<Vec<f32>> {
    match sound.channels.len() {
        own if own == count => sound.channels.clone(),
        1 => {
            changes.doubled += 1;
            vec![sound.channels[0].clone(); count]
        }
        _ => {
            changes.mixed += 1;
            vec![sound.mono(); count]
        }
    }
}

impl Changes {
    fn tell(&self, config: &RunConfig, of: usize, notes: &mut Vec<String>) {
        let wave = &config.waveform;
        if self.mixed > 0 {
            notes.push(format!("{} of {of} sounds have other channels: their mean is used", self.mixed));
        }
        if self.doubled > 0 {
            notes.push(format!("{} of {of} sounds are mono: both channels get the same", self.doubled));
        }
        for (rate, count) in &self.resampled {
            let to = wave.sample_rate;
            notes.push(format!("{count} of {of} sounds have a rate of {rate} Hz: resampled to {to} Hz"));
        }
        if self.silent > 0 {
            notes.push(format!("{} of {of} sounds are silent: left out", self.silent));
        }
    }
}

/// Draws windows of recordings, all of their values equally often.
pub(crate) struct Windows {
    parts: [Part; 2],
    edges: bool,
    window: usize,
    channels: usize,
    quietest: f64,
    noising: Noising,
    seed: u64,
}

/// Recordings, and the number of values of a channel before each and in all.
struct Part {
    recordings: Arc<[Recording]>,
    before: Vec<usize>,
}

impl Part {
    fn new(recordings: Arc<[Recording]>) -> Self {
        let mut before = vec![0];
        before.extend(recordings.iter().scan(0, |sum, recording| {
            *sum += recording.length;
            Some(*sum)
        }));
        Self { recordings, before }
    }

    /// The recording of value number `at` of all, and its number in the recording.
    fn place(&self, at: usize) -> Option<(&Recording, usize)> {
        let index = self.before.partition_point(|before| *before <= at).checked_sub(1)?;
        Some((self.recordings.get(index)?, at - self.before[index]))
    }

    fn length(&self) -> usize {
        self.before.last().copied().unwrap_or(0)
    }
}

impl Windows {
    /// The windows of a run.
    ///
    /// # Errors
    /// For an invalid process.
    pub fn new(config: &RunConfig, set: &WaveSet) -> Result<Self, TrainError> {
        let wave = &config.waveform;
        Ok(Self {
            parts: [Part::new(set.train.clone()), Part::new(set.held_out.clone())],
            edges: wave.edges,
            window: wave.window,
            channels: wave.channels,
            quietest: wave.quietest,
            noising: Noising::new(config)?,
            seed: config.run.seed,
        })
    }

    /// The window of `part` at a fraction of all its values, in `0..1`: `[channels, window]`.
    fn at(&self, part: &Part, fraction: f64) -> Vec<f32> {
        let mut sample = vec![0.0; self.channels * self.window];
        let at = ((fraction * part.length() as f64) as usize).min(part.length().saturating_sub(1));
        let Some((recording, at)) = part.place(at) else { return sample };
        let (own, window) = (recording.length as i64, self.window as i64);
        let start = match self.edges {
            // This value in the middle.
            true => at as i64 - window / 2,
            // The whole window in the recording, or the whole recording in the window.
            false => {
                let room = own - window;
                let share = at as f64 / own as f64;
                let moved = (share * (room.abs() + 1) as f64) as i64;
                moved.min(room.abs()) * room.signum()
            }
        };
        let (from, to) = (start.max(0), (start + window).min(own));
        if from < to {
            let (own, put) = (from as usize..to as usize, (from - start) as usize);
            for channel in 0..self.channels {
                let values = &recording.values[channel * recording.length..][own.clone()];
                sample[channel * self.window + put..][..values.len()].copy_from_slice(values);
            }
        }
        sample
    }
}

impl Batches for Windows {
    type Rows = HostBatch;

    fn noising(&self) -> &Noising {
        &self.noising
    }

    fn sizes(&self) -> [usize; 2] {
        self.parts.each_ref().map(|part| part.recordings.len())
    }

    fn step(&self, done: u64, passes: Range<usize>) -> Result<Vec<HostBatch>, TrainError> {
        let rows = self.noising.rows() as u64;
        let pass = |number| {
            let mut batch = HostBatch::default();
            for row in self.noising.pass(number) {
                let sample = done * rows + row as u64;
                let mut x0 = self.at(&self.parts[0], uniform(self.seed, Purpose::Window, sample, 0));
                if self.quietest < 1.0 {
                    let share = uniform(self.seed, Purpose::Augment, sample, 0);
                    let factor = (self.quietest + (1.0 - self.quietest) * share) as f32;
                    x0.iter_mut().for_each(|v| *v *= factor);
                }
                self.noising.add(&mut batch, &x0, done, row);
            }
            batch
        };
        Ok(passes.map(pass).collect())
    }

    fn validation(&self, rows: usize, share: &Share) -> Result<Vec<HostBatch>, TrainError> {
        let held_out = &self.parts[1];
        // As many as there are windows.
        let rows = rows.min(held_out.length().div_ceil(self.window));
        let part = |part: Range<usize>| {
            let mut batch = HostBatch::default();
            for row in part {
                let x0 = self.at(held_out, (row as f64 + 0.5) / rows as f64);
                self.noising.add_held_out(&mut batch, &x0, row, rows);
            }
            batch
        };
        Ok(share.deal(self.noising.held_out(rows)).map(part).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConfigBuilder;

    /// Ramps, so that a value says its place.
    fn windows(lengths: &[usize], set: &[&str]) -> Windows {
        let builder = ConfigBuilder::preset("waveform").unwrap();
        let fixed = ["waveform.window=96", "model.multipliers=[1, 2]", "model.attention_levels=[]"];
        let config = fixed.iter().chain(set).fold(builder, |b, a| b.set(a).unwrap()).build().unwrap();
        let ramp = |(i, length): (usize, &usize)| Recording {
            values: (0..config.waveform.channels * length).map(|at| (1000 * (i + 1) + at) as f32).collect(),
            length: *length,
        };
        let train = lengths.iter().enumerate().map(ramp).collect();
        Windows::new(&config, &WaveSet { train, ..WaveSet::default() }).unwrap()
    }

    #[test]
    fn windows_lie_in_the_recordings_and_reach_all_of_their_values() {
        let windows = windows(&[300, 40], &["waveform.edges=false"]);
        let mut seen = [0usize; 2];
        let mut starts = std::collections::BTreeSet::new();
        let count = 3400;
        for i in 0..count {
            let sample = windows.at(&windows.parts[0], (f64::from(i) + 0.5) / f64::from(count));
            let sounding: Vec<f32> = sample.iter().copied().filter(|v| *v != 0.0).collect();
            let own = usize::from(sounding[0] >= 2000.0);
            seen[own] += 1;
            assert_eq!(sounding.len(), [96, 40][own]);
            assert!(sounding.windows(2).all(|pair| pair[1] == pair[0] + 1.0));
            let at = sample.iter().position(|v| *v != 0.0).unwrap();
            starts.insert((own, at, sounding[0] as usize));
        }
        // In proportion to the lengths.
        assert_eq!(seen, [3000, 400]);
        // From the first to the last place of each.
        for place in [(0, 0, 1000), (0, 0, 1204), (1, 0, 2000)] {
            assert!(starts.contains(&place), "{place:?}");
        }
        assert!(starts.iter().any(|(own, at, _)| *own == 1 && *at > 30));
    }

    #[test]
    fn with_edges_every_value_is_in_the_middle_once() {
        let windows = windows(&[300, 40], &["waveform.edges=true"]);
        for (value, expected) in [(0usize, 1000.0), (299, 1299.0), (300, 2000.0), (339, 2039.0)] {
            let sample = windows.at(&windows.parts[0], (value as f64 + 0.5) / 340.0);
            assert_eq!(sample[48], expected);
            assert_eq!(sample.iter().filter(|v| **v == 0.0).count() > 0, value != 150);
        }
        assert!(!windows.at(&windows.parts[0], 150.5 / 340.0).contains(&0.0));
    }

    #[test]
    fn channels_belong_together_and_rows_do_not_depend_on_passes() {
        let set = ["waveform.channels=2", "waveform.quietest=0.5", "run.batch=6"];
        let one = windows(&[300], &set);
        let sample = one.at(&one.parts[0], 0.5);
        assert!((0..96).all(|i| sample[96 + i] == sample[i] + 300.0));
        let two = windows(&[300], &[set[0], set[1], "run.batch=2", "run.accumulation=3"]);
        let join = |batches: Vec<HostBatch>| batches.into_iter().flat_map(|b| b.input).collect::<Vec<_>>();
        let whole = one.step(5, 0..1).unwrap();
        assert_eq!(join(whole.clone()), join(two.step(5, 0..3).unwrap()));
        assert_eq!(join(two.step(5, 1..2).unwrap()), join(two.step(5, 0..3).unwrap())[4 * 96..8 * 96]);
        assert_ne!(whole, one.step(6, 0..1).unwrap());
        assert!(one.validation(8, &Share::of_one()).unwrap().is_empty());
    }
}
