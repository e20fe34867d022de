//! The configuration of a spectrogram codec.

use serde::{Deserialize, Serialize};
use tweedie_media::{MelFilters, MelScale};

use crate::config::{self, ConfigError, Format, in_range};

/// The keys of a `MelSpectrogram`'s `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MelSpectrogramConfig {
    /// Values per second of the sounds, in Hz.
    pub sample_rate: u32,
    /// Values of a window; even.
    pub window: usize,
    /// Values between windows, with `window - hop` even.
    pub hop: usize,
    /// Number of mel bands, a multiple of `patch`.
    pub bands: usize,
    /// Each latent is a square of this many bands and frames.
    pub patch: usize,
    /// Magnitudes below this are silence, in decibels relative to a sine of amplitude 1.
    pub floor_db: f64,
    /// Rounds of the algorithm that finds phases.
    pub iterations: usize,
}

impl Default for MelSpectrogramConfig {
    fn default() -> Self {
        Self { sample_rate: 8000, window: 256, hop: 80, bands: 64, patch: 4, floor_db: -60.0, iterations: 60 }
    }
}

impl MelSpectrogramConfig {
    /// Name of the class, which diffusers does not have.
    pub const CLASS: &'static str = "MelSpectrogram";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &[], fixed: &[] };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// The `config.json`.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that a codec can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("sample_rate", self.sample_rate as usize, 1000, 384_000),
            ("window", self.window, 16, 1 << 14),
            ("hop", self.hop, 1, self.window),
            ("bands", self.bands, 1, 512),
            ("patch", self.patch, 1, 16),
            ("iterations", self.iterations, 0, 1000),
        ])?;
        let wrong = |key, value: usize, reason: &str| Err(ConfigError::value(key, value, reason));
        if !self.window.is_multiple_of(2) {
            return wrong("window", self.window, "expected an even number");
        }
        if !(self.window - self.hop).is_multiple_of(2) {
            return wrong("hop", self.hop, "expected `window` minus `hop` to be even");
        }
        if !self.bands.is_multiple_of(self.patch) {
            return wrong("bands", self.bands, "expected a multiple of `patch`");
        }
        if !(-200.0..=0.0).contains(&self.floor_db) {
            return Err(ConfigError::value("floor_db", self.floor_db, "expected -200 to 0"));
        }
        if let Some(band) = self.filters().first_empty() {
            let reason = format!(
                "band {band} lies between two frequencies of the window; use fewer bands or a longer window"
            );
            return Err(ConfigError::value("bands", self.bands, reason));
        }
        Ok(())
    }

    /// The filters of the bands.
    pub(super) fn filters(&self) -> MelFilters {
        MelFilters::new(MelScale::Htk, self.sample_rate, self.window, self.bands)
    }
}
