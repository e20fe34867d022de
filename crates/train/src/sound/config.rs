//! The `[sound]` table.

use serde::{Deserialize, Serialize};
use tweedie_data::{AugmentConfig, DataConfig, Source};
use tweedie_models::MelSpectrogramConfig;

use crate::{config::RunConfig, error::TrainError};

/// How recordings become samples of one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SoundConfig {
    /// Length of a sample in seconds, rounded up to whole latents. Longer recordings are left out.
    pub seconds: f64,
    /// What is this much quieter than the loudest part of a recording is silence, which is cut off at both ends; in decibels.
    pub silence_db: f64,
    /// Integrated loudness to which recordings are brought, in LUFS (EBU R 128); by default, their largest magnitude is made the
    /// same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loudness: Option<f64>,
    /// The spectrogram in whose values the network works.
    pub codec: MelSpectrogramConfig,
}

impl Default for SoundConfig {
    fn default() -> Self {
        Self { seconds: 0.64, silence_db: 40.0, loudness: None, codec: MelSpectrogramConfig::default() }
    }
}

impl SoundConfig {
    /// Checks all values, and whether the rest of `config` suits this task.
    pub(crate) fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        /// Ten minutes.
        const LONGEST: f64 = 600.0;
        if !(self.seconds > 0.0 && self.seconds <= LONGEST) {
            let expected = format!("a value > 0, at most {LONGEST}");
            return Err(TrainError::config("sound.seconds", self.seconds, expected));
        }
        if !(self.silence_db > 0.0 && self.silence_db <= 200.0) {
            return Err(TrainError::config("sound.silence_db", self.silence_db, "a value > 0, at most 200"));
        }
        if let Some(lufs) = self.loudness.filter(|lufs| !(-70.0..=0.0).contains(lufs)) {
            return Err(TrainError::config("sound.loudness", lufs, "a loudness from -70 to 0 LUFS"));
        }
        self.codec.validate().map_err(|e| TrainError::Model(format!("sound.codec: {e}")))?;
        check_data(config)
    }

    /// Values of a sample.
    pub(crate) fn length(&self) -> usize {
        let stride = self.codec.hop * self.codec.patch;
        let values = (self.seconds * f64::from(self.codec.sample_rate)).ceil() as usize;
        values.next_multiple_of(stride).max(stride)
    }

    /// The shape of the latents, channels first.
    pub(crate) fn shape(&self) -> [usize; 3] {
        let (bands, patch) = (self.codec.bands, self.codec.patch);
        [patch * patch, bands / patch, self.length() / (self.codec.hop * patch)]
    }
}

/// Checks that the data are sounds, and that no key is for images.
pub(crate) fn check_data(config: &RunConfig) -> Result<(), TrainError> {
    if config.augment != AugmentConfig::default() {
        let expected = "no table [augment], which is for images";
        return Err(TrainError::config("augment", "given", expected));
    }
    let (data, default) = (&config.data, DataConfig::default());
    let images = [
        ("data.size", data.size != default.size),
        ("data.background", data.background != default.background),
        ("data.fit", data.fit != default.fit),
        ("data.margin", data.margin != default.margin),
    ];
    if let Some((key, _)) = images.into_iter().find(|(_, given)| *given) {
        return Err(TrainError::config(key, "given", "nothing: this key is for images"));
    }
    match &config.data.source {
        Source::Folder(_) | Source::Packed(_) => Ok(()),
        other => Err(TrainError::config("data.source", other, "a folder of sounds (--data DIR)")),
    }
}
