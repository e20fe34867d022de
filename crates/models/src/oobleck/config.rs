//! The configuration of an [`AutoencoderOobleck`](super::AutoencoderOobleck) in the format of diffusers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::config::{self, ConfigError, Format, in_range};

const MAX: usize = 1 << 16;
const MOST_STRIDE: usize = 1 << 20;

/// The keys of `config.json`. Missing keys have diffusers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderOobleckConfig {
    /// Channels of the encoder's first level; also those of its output, means and spreads of the latents.
    pub encoder_hidden_size: usize,
    /// The factor by which each level of the encoder shortens; the decoder has them in reverse.
    pub downsampling_ratios: Vec<usize>,
    /// Channels after each level, as multiples of those of the first.
    pub channel_multiples: Vec<usize>,
    /// Channels of the decoder's last level.
    pub decoder_channels: usize,
    /// Channels of the latents.
    pub decoder_input_channels: usize,
    /// Channels of the sounds.
    pub audio_channels: usize,
    /// Values per second of the sounds, in Hz.
    pub sampling_rate: u32,
}

impl Default for AutoencoderOobleckConfig {
    fn default() -> Self {
        Self {
            encoder_hidden_size: 128,
            downsampling_ratios: vec![2, 4, 4, 8, 8],
            channel_multiples: vec![1, 2, 4, 8, 16],
            decoder_channels: 128,
            decoder_input_channels: 64,
            audio_channels: 2,
            sampling_rate: 44_100,
        }
    }
}

impl AutoencoderOobleckConfig {
    /// Name of the class in diffusers.
    pub const CLASS: &'static str = "AutoencoderOobleck";

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

    /// The `config.json` for diffusers.
    pub fn to_json(&self) -> String {
        config::write(self, Self::CLASS)
    }

    /// Checks that an autoencoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("encoder_hidden_size", self.encoder_hidden_size, 2, MAX),
            ("decoder_channels", self.decoder_channels, 1, MAX),
            ("decoder_input_channels", self.decoder_input_channels, 1, MAX),
            ("audio_channels", self.audio_channels, 1, 2),
            ("sampling_rate", self.sampling_rate as usize, 1, 1 << 20),
        ])?;
        let levels = self.downsampling_ratios.len();
        let fits = |list: &[usize]| list.len() == levels && list.iter().all(|n| (1..=1024).contains(n));
        if !(1..=16).contains(&levels) || !fits(&self.downsampling_ratios) || !fits(&self.channel_multiples) {
            let reason = "expected 1 to 16 factors from 1 to 1024, and as many `channel_multiples`";
            return Err(ConfigError::value("downsampling_ratios", &self.downsampling_ratios, reason));
        }
        if self.stride() > MOST_STRIDE {
            let reason = format!("expected factors whose product is at most {MOST_STRIDE}");
            return Err(ConfigError::value("downsampling_ratios", &self.downsampling_ratios, reason));
        }
        // Otherwise lengths would not be multiples of those of the latents.
        if let Some(odd) = self.downsampling_ratios.iter().find(|n| !n.is_multiple_of(2)) {
            return Err(ConfigError::value("downsampling_ratios", odd, "expected even factors"));
        }
        if self.encoder_hidden_size != 2 * self.decoder_input_channels {
            let reason =
                format!("expected {}, twice `decoder_input_channels`", 2 * self.decoder_input_channels);
            return Err(ConfigError::value("encoder_hidden_size", self.encoder_hidden_size, reason));
        }
        Ok(())
    }

    /// Values of a sound per latent.
    pub fn stride(&self) -> usize {
        self.downsampling_ratios.iter().fold(1, |all, n| all.saturating_mul(*n))
    }

    /// Channels of the decoder's largest map, per value of the sound.
    pub(super) fn width(&self) -> usize {
        let (mut shortened, mut most) = (1, self.decoder_channels);
        for (ratio, multiple) in self.downsampling_ratios.iter().zip(&self.channel_multiples) {
            most = most.max((self.decoder_channels * multiple).div_ceil(shortened));
            shortened = shortened.saturating_mul(*ratio);
        }
        most
    }
}
