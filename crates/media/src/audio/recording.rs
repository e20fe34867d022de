//! A sound with the values of its file, so that editing one part leaves every other value as it was.

use std::{io::Cursor, ops::RangeInclusive, path::Path};

use hound::{SampleFormat, WavReader, WavSpec};
use tweedie_system::files;

use super::{
    Audio,
    decode::{MOST_BYTES, MOST_VALUES, compressed, too_long},
    flac,
    wav::{self, EXPECTED},
};
use crate::MediaError;

/// Bits of the whole numbers that a WAV file stores.
const BITS: RangeInclusive<u32> = 8..=32;
/// Largest bits of whole numbers that `f32` holds exactly.
const EXACT: u32 = 24;

/// A sound as whole numbers or floats, as WAV and FLAC files store it. Other formats are floats.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    rate: u32,
    values: Values,
}

/// The values of each channel.
#[derive(Clone, Debug, PartialEq)]
enum Values {
    Integers { bits: u32, channels: Vec<Vec<i32>> },
    Floats(Vec<Vec<f32>>),
}

impl Recording {
    /// Reads a sound file of any format that [`read_sound`](super::read_sound) reads.
    ///
    /// # Errors
    /// Those of `read_sound`, and if it has no values or values that are not finite.
    pub fn open(path: &Path) -> Result<Self, MediaError> {
        let bytes = files::read(path, MOST_BYTES);
        Self::decode(&bytes.map_err(|source| MediaError::Read { path: path.into(), source })?, path)
    }

    /// The same for the content of a file; errors name `path`.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn decode(bytes: &[u8], path: &Path) -> Result<Self, MediaError> {
        let fail = |reason: String| MediaError::format(path, reason);
        let found = match bytes.starts_with(b"RIFF") {
            true => Self::of_wav(bytes, path)?,
            false => match compressed(bytes).map_err(fail)? {
                (audio, Some(bits)) if (BITS.start()..=&EXACT).contains(&&bits) => {
                    Self::of(&audio, Some(bits))
                }
                (audio, _) => Self::of(&audio, None),
            },
        };
        if found.is_empty() {
            return Err(fail("the sound has no values".into()));
        }
        match &found.values {
            Values::Floats(channels) if channels.iter().flatten().any(|v| !v.is_finite()) => {
                Err(fail("the sound has values that are not finite".into()))
            }
            _ => Ok(found),
        }
    }

    /// The values of a WAV file of integers of 8 to 32 bits or floats of 32 bits.
    pub(super) fn of_wav(bytes: &[u8], path: &Path) -> Result<Self, MediaError> {
        let mut reader = WavReader::new(Cursor::new(bytes)).map_err(|e| wav::wrong(path, e))?;
        let WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format } = reader.spec();
        let (all, count) = (reader.len() as usize, usize::from(channels));
        if all > MOST_VALUES {
            return Err(MediaError::format(path, too_long(all, rate, count)));
        }
        fn apart<T: Copy>(all: &[T], count: usize) -> Vec<Vec<T>> {
            (0..count).map(|c| all.iter().skip(c).step_by(count).copied().collect()).collect()
        }
        let wrong = |e| wav::wrong(path, e);
        let values = match (sample_format, u32::from(bits)) {
            (SampleFormat::Int, bits) if BITS.contains(&bits) => {
                // Whole bytes, as they are written.
                let whole = bits.next_multiple_of(8);
                let value = |v: Result<i32, _>| v.map(|v| v << (whole - bits));
                let all: Vec<i32> = reader.samples().map(value).collect::<Result<_, _>>().map_err(wrong)?;
                Values::Integers { bits: whole, channels: apart(&all, count) }
            }
            (SampleFormat::Float, 32) => {
                let all: Vec<f32> = reader.samples().collect::<Result<_, _>>().map_err(wrong)?;
                Values::Floats(apart(&all, count))
            }
            (_, bits) => {
                return Err(MediaError::format(path, format!("values of {bits} bits; {EXPECTED}")));
            }
        };
        Ok(Self { rate, values })
    }

    /// The recording of a sound, as whole numbers of `bits`, or as floats. Whole numbers are rounded and clipped to the range.
    ///
    /// # Panics
    /// If `bits` is not in 8..=32.
    pub fn of(sound: &Audio, bits: Option<u32>) -> Self {
        let values = match bits {
            None => Values::Floats(sound.channels.clone()),
            Some(bits) => {
                assert!(BITS.contains(&bits), "8 to 32 bits, not {bits}");
                let channel = |values: &Vec<f32>| values.iter().map(|v| stored(*v, bits).0).collect();
                Values::Integers { bits, channels: sound.channels.iter().map(channel).collect() }
            }
        };
        Self { rate: sound.rate, values }
    }

    /// Values per second of each channel, in Hz.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// Bits of its values, if they are whole numbers and not floats.
    pub fn bits(&self) -> Option<u32> {
        match self.values {
            Values::Integers { bits, .. } => Some(bits),
            Values::Floats(_) => None,
        }
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        match &self.values {
            Values::Integers { channels, .. } => channels.len(),
            Values::Floats(channels) => channels.len(),
        }
    }

    /// Length of a channel.
    pub fn len(&self) -> usize {
        match &self.values {
            Values::Integers { channels, .. } => channels.first().map_or(0, Vec::len),
            Values::Floats(channels) => channels.first().map_or(0, Vec::len),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its values if they are whole numbers of 16 bits, little-endian, channel by channel in turn.
    pub fn pcm16(&self) -> Option<Vec<u8>> {
        let Values::Integers { bits: 16, channels } = &self.values else { return None };
        let at = |i: usize| channels.iter().flat_map(move |channel| (channel[i] as i16).to_le_bytes());
        Some((0..self.len()).flat_map(at).collect())
    }

    /// The sound, in `-1..=1`: a whole number divided by half of their range.
    pub fn audio(&self) -> Audio {
        let channels = match &self.values {
            Values::Floats(channels) => channels.clone(),
            Values::Integers { bits, channels } => {
                let scale = 1.0 / half(*bits);
                let channel = |all: &Vec<i32>| all.iter().map(|v| (f64::from(*v) * scale) as f32).collect();
                channels.iter().map(channel).collect()
            }
        };
        Audio { channels, rate: self.rate, guessed: false }
    }

    /// Replaces a value. Whether it was clipped to the range of whole numbers.
    ///
    /// # Panics
    /// If there is no such channel or value.
    pub fn replace(&mut self, channel: usize, i: usize, value: f32) -> bool {
        match &mut self.values {
            Values::Floats(channels) => {
                channels[channel][i] = value;
                false
            }
            Values::Integers { bits, channels } => {
                let (value, clipped) = stored(value, *bits);
                channels[channel][i] = value;
                clipped
            }
        }
    }

    /// Writes a WAV file, or a FLAC file if the extension is `.flac`, with exactly these values, and `text` as
    /// [`write_wav`](super::write_wav) does.
    ///
    /// # Errors
    /// If there are no channels or values, the rate is 0, the format cannot store them, or the file cannot be written.
    pub fn save(&self, path: &Path, text: Option<&str>) -> Result<(), MediaError> {
        if !is_flac(path) {
            return self.save_wav(path, text);
        }
        match &self.values {
            Values::Integers { bits, channels } => flac::write(path, channels, *bits, self.rate, text),
            Values::Floats(_) => Err(MediaError::format(
                path,
                "FLAC files have whole numbers, but the values of this sound are floats; write a WAV file",
            )),
        }
    }

    /// Writes a WAV file with exactly these values, and `text` as [`write_wav`](super::write_wav) does.
    ///
    /// # Errors
    /// If there are no channels or values, the rate is 0, it exceeds 4 GiB, or the file cannot be written.
    pub(super) fn save_wav(&self, path: &Path, text: Option<&str>) -> Result<(), MediaError> {
        let (bits, sample_format) = match &self.values {
            Values::Integers { bits, .. } => (*bits, SampleFormat::Int),
            Values::Floats(_) => (32, SampleFormat::Float),
        };
        wav::write(path, [self.channels(), self.len()], self.rate, (bits, sample_format), text, |writer| {
            for i in 0..self.len() {
                match &self.values {
                    Values::Integers { channels, .. } => {
                        channels.iter().try_for_each(|channel| writer.write_sample(channel[i]))?;
                    }
                    Values::Floats(channels) => {
                        channels.iter().try_for_each(|channel| writer.write_sample(channel[i]))?;
                    }
                }
            }
            Ok(())
        })
    }
}

/// Whether a file is to be a FLAC file.
pub(super) fn is_flac(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("flac"))
}

/// Half of the range of whole numbers.
fn half(bits: u32) -> f64 {
    (1u64 << (bits - 1)) as f64
}

/// A value as a whole number, and whether it was clipped.
fn stored(value: f32, bits: u32) -> (i32, bool) {
    let (half, value) = (half(bits), (f64::from(value) * half(bits)).round());
    // 1.0 is one step above the range, but no overflow.
    (value.clamp(-half, half - 1.0) as i32, value.abs() > half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{read_sound, read_text, read_wav_text};

    #[test]
    fn every_value_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        for bits in [8u32, 16, 24, 32] {
            let most = ((1i64 << (bits - 1)) - 1) as i32;
            let channels = vec![vec![-most - 1, -most, -1, 0, 1, most - 1, most], vec![3; 7]];
            let recording = Recording { rate: 8000, values: Values::Integers { bits, channels } };
            recording.save(&path, Some("{}")).unwrap();
            let mut found = Recording::open(&path).unwrap();
            assert_eq!(found, recording);
            assert_eq!(read_wav_text(&path).unwrap().as_deref(), Some("{}"));
            // A replaced value changes nothing else, and those of other values round back to themselves.
            assert!(found.replace(1, 2, 1.5) && !found.replace(1, 2, 3.0 / half(bits) as f32));
            assert_eq!(found, recording);
            if bits <= EXACT {
                assert_eq!(Recording::of(&recording.audio(), Some(bits)), recording);
                let flac = dir.path().join("a.FLAC");
                recording.save(&flac, Some(r#"{"prompt":"日本"}"#)).unwrap();
                assert_eq!(Recording::open(&flac).unwrap(), recording);
                assert_eq!(read_text(&flac).unwrap().as_deref(), Some(r#"{"prompt":"日本"}"#));
            }
        }
        let floats = Audio { channels: vec![vec![0.1, -2.5, 0.3]], rate: 44_100, guessed: false };
        Recording::of(&floats, None).save(&path, None).unwrap();
        assert_eq!(read_sound(&path).unwrap(), floats);
        assert_eq!(Recording::open(&path).unwrap().audio(), floats);
    }

    /// Long enough for several frames, with what predictors see: tones, noise and silence.
    #[test]
    fn flac_files_keep_long_sounds_and_say_that_they_are_truncated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.flac");
        let value = |i: usize| match i / 4000 {
            0 => (i as f32 * 0.05).sin() * 0.9,
            1 => ((i * 7919 % 1009) as f32 / 504.5) - 1.0,
            _ => 0.0,
        };
        let left: Vec<f32> = (0..10_001).map(value).collect();
        let right = left.iter().map(|v| 0.3 - 0.5 * v).collect();
        let sound = Audio { channels: vec![left, right], rate: 44_100, guessed: false };
        let recording = Recording::of(&sound, Some(16));
        recording.save(&path, None).unwrap();
        assert_eq!(Recording::open(&path).unwrap(), recording);
        assert_eq!(read_text(&path).unwrap(), None);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() < 3 * 10_001, "{}", bytes.len());
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = Recording::open(&path).unwrap_err().to_string();
        assert!(
            error.contains("a.flac") && error.contains("truncated") && error.contains("10001"),
            "{error}"
        );
        let error = Recording::of(&sound, None).save(&path, None).unwrap_err().to_string();
        assert!(error.contains("floats") && error.contains("WAV"), "{error}");
    }

    #[test]
    fn sounds_without_values_or_with_bad_ones_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let save = |channels| Recording { rate: 8000, values: Values::Floats(channels) }.save(&path, None);
        assert!(save(vec![vec![]]).is_err() && save(vec![]).is_err());
        save(vec![vec![0.5, f32::NAN]]).unwrap();
        let error = Recording::open(&path).unwrap_err().to_string();
        assert!(error.contains("a.wav") && error.contains("not finite"), "{error}");
    }
}
