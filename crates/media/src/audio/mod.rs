//! Sound: the signal in memory, its files, and its spectrum.

mod cosine;
mod decode;
mod flac;
mod loudness;
mod mel;
mod picture;
mod recording;
mod resample;
mod silence;
mod spectrum;
mod wav;

pub(crate) use self::flac::flac_text;
pub use self::{
    cosine::Cosines,
    decode::{SOUND_ENDINGS, decode_sound, read_sound},
    loudness::{Leveled, level, loudness},
    mel::{MelFilters, MelScale},
    picture::spectrogram,
    recording::Recording,
    resample::resampled,
    silence::{sounding, sounding_in},
    spectrum::{Complex32, Frames, Stft},
    wav::{WavFormat, pcm16, read_wav_text, wav_start, write_wav},
};

/// The rate of audio whose model does not say it, in Hz.
pub const DEFAULT_RATE: u32 = 44_100;

/// An audio signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// The values of each channel, nominally in `-1..=1`; the left channel first. All have the same length.
    pub channels: Vec<Vec<f32>>,
    /// Values per second of each channel, in Hz.
    pub rate: u32,
    /// Whether [`Self::rate`] is [`DEFAULT_RATE`] because the model does not say it.
    pub guessed: bool,
}

impl Audio {
    /// The audio of values `[channels, length]`. Without a `rate`, it is guessed.
    ///
    /// # Panics
    /// If the values cannot be divided into `channels` of the same length.
    pub fn from_rows(channels: usize, values: &[f32], rate: Option<u32>) -> Self {
        assert!(channels > 0 && values.len().is_multiple_of(channels), "{channels} channels of one length");
        let length = values.len() / channels;
        let channels = (0..channels).map(|c| values[c * length..(c + 1) * length].to_vec()).collect();
        Self { channels, rate: rate.unwrap_or(DEFAULT_RATE), guessed: rate.is_none() }
    }

    /// Length of a channel.
    pub fn len(&self) -> usize {
        self.channels.first().map_or(0, Vec::len)
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mean of the channels.
    pub fn mono(&self) -> Vec<f32> {
        let scale = 1.0 / self.channels.len().max(1) as f32;
        (0..self.len()).map(|i| self.channels.iter().map(|channel| channel[i]).sum::<f32>() * scale).collect()
    }

    /// Duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.len() as f64 / f64::from(self.rate.max(1))
    }
}
