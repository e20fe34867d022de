//! The sound on which a job works: what the network hears of it, what is known, and how the result gets back into it.

use std::{ops::Range, sync::Arc};

use tweedie_media::{Audio, Recording, read_sound, resampled};

use super::{
    Degradation, Known, MaskSpec, Mended,
    window::{reflected, start},
};
use crate::{
    Pipeline, PipelineError, RecordedFile, Request,
    operators::{Chain, Clip, Lowpass, Mask, Operator},
    posterior::Measurement,
};

/// A sound with the part to change and the window of the network.
#[derive(Clone, Debug)]
pub(crate) struct Sound {
    /// At the rate of the model.
    recording: Recording,
    /// Where the window begins; negative before the sound.
    start: isize,
    /// Its length.
    length: usize,
    /// For each value of the sound, `[channels, length]`, whether the result replaces it.
    new: Vec<bool>,
    measurement: Option<Measurement>,
    notes: Vec<String>,
}

fn fail<T>(field: &'static str, reason: impl Into<String>) -> Result<T, PipelineError> {
    Err(PipelineError::request(field, reason))
}

impl Pipeline {
    /// What a request about an existing sound works on.
    ///
    /// # Errors
    /// If the file cannot be read or has changed, or the sound, its gaps or its degradations do not suit the model.
    pub(super) fn sound_work(&self, request: &Request, known: &Known) -> Result<Sound, PipelineError> {
        if request.image.is_some() {
            return fail("image", "has no effect with `known`, which has a sound of its own; remove it");
        }
        if request.size.is_some() {
            return fail("size", "has no effect on an existing sound; remove it");
        }
        known.image.check()?;
        let path = known.image.path.display();
        let mut recording = Recording::open(&known.image.path)?;
        let mut notes = Vec::new();
        self.suits(known, &mut recording, &mut notes)?;
        let (rate, channels) = (recording.rate(), recording.channels());
        let gaps = gaps(known.mask.as_ref(), &recording)?;
        let in_gap: Vec<bool> =
            (0..recording.len()).map(|i| gaps.iter().any(|gap| gap.contains(&i))).collect();
        let degraded = !known.degradations.is_empty() || known.noise != 0.0;
        if degraded && self.codec().is_some() {
            return fail(
                "degradations",
                "restoring needs a model of waveforms, but this model has a codec; gaps work with both",
            );
        }
        if degraded && request.strength.is_some() {
            return fail("strength", "has no effect with degradations or noise; remove it");
        }
        let partial = request.strength.is_some_and(|strength| strength < 1.0);
        if in_gap.iter().all(|gap| *gap) || !degraded && gaps.is_empty() && !partial {
            return fail(
                "mask",
                format!(
                    "{path}: nothing of the sound is known: expected gaps that keep a part, or a `strength` below 1"
                ),
            );
        }

        let spec = self.model.network.spec();
        let Some(&[native]) = self.native_size().as_deref() else {
            return fail("size", "the model does not say the length of its sounds");
        };
        let whole = recording.len();
        let part = match (gaps.iter().map(|gap| gap.start).min(), gaps.iter().map(|gap| gap.end).max()) {
            (Some(from), Some(to)) if !degraded => from..to,
            _ => 0..whole,
        };
        if spec.fixed && part.len() > native {
            let second = |n: usize| n as f64 / f64::from(rate);
            return fail(
                "known",
                format!(
                    "{path}: the part to change has {:.2} s, but this model only supports sounds of {:.2} s",
                    second(part.len()),
                    second(native)
                ),
            );
        }
        // As much context on both sides as the part has itself, but nothing is gained beyond the sound.
        let needed = (3 * part.len()).min(whole.max(part.len()));
        let length = if spec.fixed { native } else { needed.max(native) };
        let length = length.next_multiple_of(self.stride() * spec.multiple);
        let mut sound = Sound {
            start: start((part.start, part.end), length, whole),
            length,
            new: if gaps.is_empty() { vec![true; channels * whole] } else { in_gap.repeat(channels) },
            measurement: None,
            notes,
            recording,
        };
        if degraded {
            sound.degrade(known, &gaps)?;
        }
        Ok(sound)
    }

    /// Checks channels and rate; a sound of less bandwidth is brought to the rate of the model.
    fn suits(
        &self,
        known: &Known,
        recording: &mut Recording,
        notes: &mut Vec<String>,
    ) -> Result<(), PipelineError> {
        let path = known.image.path.display();
        let spec = self.model.network.spec();
        let expected = self.codec().map_or(spec.outputs.min(spec.inputs), |codec| codec.spec().media);
        let (rate, channels) = (recording.rate(), recording.channels());
        if channels != expected {
            let each = if expected == 1 { "; give one channel at a time" } else { "" };
            return fail(
                "known",
                format!(
                    "{path}: the sound has {}, but this model makes {}{each}",
                    of(channels),
                    of(expected)
                ),
            );
        }
        let Some(own) = self.rate() else {
            notes.push(format!(
                "the model does not say its sample rate; that of the sound is taken: {rate} Hz"
            ));
            return Ok(());
        };
        let narrow = known.degradations.iter().any(|step| matches!(step, Degradation::Lowpass { .. }));
        if rate == own {
            return Ok(());
        }
        if rate > own || !narrow {
            let but = if rate < own { ", or the bandwidth that is known (`lowpass`)" } else { "" };
            return fail(
                "known",
                format!(
                    "{path}: the sound has {rate} Hz, but this model works at {own} Hz and must not change known values; \
                     expected a sound of {own} Hz{but}"
                ),
            );
        }
        let Audio { channels, .. } = recording.audio();
        let channels = channels.iter().map(|channel| resampled(channel, rate, own)).collect();
        *recording = Recording::of(&Audio { channels, rate: own, guessed: false }, recording.bits());
        notes.push(format!("{path}: resampled from {rate} Hz to the {own} Hz of the model"));
        Ok(())
    }
}

/// The gaps in values.
fn gaps(mask: Option<&MaskSpec>, recording: &Recording) -> Result<Vec<Range<usize>>, PipelineError> {
    let Some(mask) = mask else { return Ok(Vec::new()) };
    if (MaskSpec { gaps: Vec::new(), ..mask.clone() }) != MaskSpec::default() {
        return fail(
            "mask",
            "files, shapes, `extend` and `feather` are parts of images; expected `gaps` for a sound",
        );
    }
    let (rate, length) = (f64::from(recording.rate()), recording.len());
    let seconds = length as f64 / rate;
    let gap = |&[from, to]: &[f64; 2]| {
        let inside = from >= 0.0 && from < to && to <= seconds + 0.5 / rate;
        let part = (from * rate).round() as usize..((to * rate).round() as usize).min(length);
        match inside && !part.is_empty() {
            true => Ok(part),
            false => fail(
                "mask",
                format!(
                    "gap {from}..{to}: expected a beginning and an end in seconds, within the sound's {seconds:.3} s"
                ),
            ),
        }
    };
    mask.gaps.iter().map(gap).collect()
}

impl Sound {
    /// Puts in what has happened to it.
    fn degrade(&mut self, known: &Known, gaps: &[Range<usize>]) -> Result<(), PipelineError> {
        if !(0.0..=1.0).contains(&known.noise) {
            return fail("noise", format!("{}: expected a part of the largest value, in 0..=1", known.noise));
        }
        let (channels, length, rate) = (self.recording.channels(), self.length, self.recording.rate());
        let mut y: Vec<f64> = self.planes().into_iter().map(f64::from).collect();
        let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
        let mut operator: Option<Arc<dyn Operator>> = None;
        for step in &known.degradations {
            let next: Arc<dyn Operator> = match *step {
                Degradation::Lowpass { hertz } => {
                    let top = f64::from(rate) / 2.0;
                    if !(hertz > 0.0 && hertz < top) {
                        let reason =
                            format!("lowpass of {hertz} Hz: expected > 0 and below {top}, half of the rate");
                        return fail("degradations", reason);
                    }
                    let lowpass = Lowpass::new([channels, length], hertz / top);
                    y = lowpass.apply(&y);
                    Arc::new(lowpass)
                }
                Degradation::Clip { level } => {
                    if let Some(level) = level.filter(|level| !(*level > 0.0 && *level <= 1.0)) {
                        let reason = format!("clip at {level}: expected a level > 0 and ≤ 1");
                        return fail("degradations", reason);
                    }
                    // Whole numbers reach one step further below than above.
                    let ends = y.iter().fold([0.0f64; 2], |[low, high], v| [low.min(*v), high.max(*v)]);
                    [low, high] = level.map_or(ends, |level| [-level, level]);
                    Arc::new(Clip { values: y.len(), range: [low, high] })
                }
                _ => {
                    return fail(
                        "degradations",
                        "expected `lowpass` or `clip` for a sound; the others are of images",
                    );
                }
            };
            operator = Some(match operator {
                Some(first) => Arc::new(Chain::new(first, next)),
                None => next,
            });
        }
        // For each value of the sound; the window has all of them.
        let whole = self.recording.len();
        let is_clipped = |i: usize| {
            let value = self.seen(i % whole).map(|seen| y[i / whole * length + seen]);
            value.is_some_and(|value| value <= low || value >= high)
        };
        let clipped: Vec<bool> = (0..channels * whole).map(is_clipped).collect();
        if known.degradations.iter().any(|step| matches!(step, Degradation::Clip { .. })) {
            let count = clipped.iter().filter(|clipped| **clipped).count();
            self.notes.push(format!(
                "{count} of {} values are at {low:.4} or {high:.4} and count as clipped",
                channels * whole
            ));
        }
        // Without noise, values that a clipped sound still has are known exactly.
        let exact = known.noise == 0.0 && matches!(*known.degradations, [Degradation::Clip { .. }]);
        let is_gap = |i: usize| gaps.iter().any(|gap| gap.contains(&i));
        self.new = (0..channels * whole).map(|i| !exact || is_gap(i % whole) || clipped[i]).collect();
        if operator.is_none() || !gaps.is_empty() {
            let known: Vec<bool> = (0..length).map(|i| !is_gap(self.place(i))).collect();
            let select: Arc<dyn Operator> = Arc::new(Mask::new(&known.repeat(channels)));
            y = select.apply(&y);
            operator = Some(match operator {
                Some(first) => Arc::new(Chain::new(first, select)),
                None => select,
            });
        }
        self.measurement = operator.map(|operator| Measurement { operator, y, sigma: known.noise });
        Ok(())
    }

    /// The length of the samples.
    pub fn length(&self) -> usize {
        self.length
    }

    /// What is known after a degradation.
    pub fn measurement(&self) -> Option<&Measurement> {
        self.measurement.as_ref()
    }

    /// What was done to the file, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The value of the sound that the network hears at `i`: beyond the ends, the sound is reflected.
    fn place(&self, i: usize) -> usize {
        reflected(self.start + i as isize, self.recording.len())
    }

    /// Where the network hears value `i` of the sound, if it does.
    fn seen(&self, i: usize) -> Option<usize> {
        usize::try_from(i as isize - self.start).ok().filter(|at| *at < self.length)
    }

    /// How much each value of the window is changed: 0 or 1.
    pub fn change(&self) -> Vec<f32> {
        (0..self.length).map(|i| if self.new[self.place(i)] { 1.0 } else { 0.0 }).collect()
    }

    /// What the network hears, `[channels, length]`.
    pub fn planes(&self) -> Vec<f32> {
        let Audio { channels, .. } = self.recording.audio();
        channels.iter().flat_map(|channel| (0..self.length).map(|i| channel[self.place(i)])).collect()
    }

    /// Puts a result for the window, `[channels, length]`, into the sound.
    pub fn compose(&self, made: &[f32]) -> Mended {
        let (mut recording, mut clipped) = (self.recording.clone(), 0);
        let whole = recording.len();
        for c in 0..recording.channels() {
            for i in (0..whole).filter(|i| self.new[c * whole + i]) {
                let Some(at) = self.seen(i) else { continue };
                clipped += usize::from(recording.replace(c, i, made[c * self.length + at]));
            }
        }
        Mended { recording, clipped }
    }
}

fn of(channels: usize) -> String {
    format!("{channels} channel{}", if channels == 1 { "" } else { "s" })
}

/// The length of the samples that begin at the sound of a file: its own, unless the model only makes sounds of one length.
pub(crate) fn length(file: &RecordedFile, pipeline: &Pipeline) -> Result<usize, PipelineError> {
    file.check()?;
    if let (Some(&[native]), true) = (pipeline.native_size().as_deref(), pipeline.network().spec().fixed) {
        return Ok(native);
    }
    let sound = read_sound(&file.path)?;
    let rate = u64::from(pipeline.rate().unwrap_or(sound.rate));
    let length = (sound.len() as u64 * rate).div_ceil(u64::from(sound.rate.max(1))) as usize;
    Ok(length.next_multiple_of(pipeline.stride() * pipeline.model.network.spec().multiple))
}

/// The sound of a file as the beginning of samples `[channels, length]` at `rate`, and what was done to it.
pub(crate) fn initial(
    file: &RecordedFile,
    channels: usize,
    length: usize,
    rate: Option<u32>,
) -> Result<(Vec<f32>, Vec<String>), PipelineError> {
    file.check()?;
    let (path, mut notes) = (file.path.display(), Vec::new());
    let Audio { channels: mut own, rate: from, .. } = Recording::open(&file.path)?.audio();
    if own.len() != channels {
        let mean = Audio { channels: own.clone(), rate: from, guessed: false }.mono();
        notes.push(match channels {
            1 => format!("{path}: {} mixed to one", of(own.len())),
            _ => format!("{path}: the mean of {} is the sound in each of {channels}", of(own.len())),
        });
        own = vec![mean; channels];
    }
    if let Some(rate) = rate.filter(|rate| *rate != from) {
        own.iter_mut().for_each(|channel| *channel = resampled(channel, from, rate));
        notes.push(format!("{path}: resampled from {from} Hz to the {rate} Hz of the model"));
    }
    let found = own.first().map_or(0, Vec::len);
    if found != length {
        let done = if found < length { "continued by silence" } else { "cut" };
        notes.push(format!("{path}: {done} from {found} to {length} values"));
        own.iter_mut().for_each(|channel| channel.resize(length, 0.0));
    }
    Ok((own.into_iter().flatten().collect(), notes))
}
