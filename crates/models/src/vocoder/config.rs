//! The configuration of a [`HifiGan`](super::HifiGan) in the format of transformers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::config::{self, ConfigError, Format, in_range};

/// Keys of transformers that do not affect the output.
const HARMLESS: [&str; 6] =
    ["architectures", "dtype", "initializer_range", "model_type", "torch_dtype", "transformers_version"];
const MAX: usize = 1 << 16;
const MOST_STRIDE: usize = 1 << 20;

/// The keys of `config.json`. Missing keys have transformers' defaults; unknown ones are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HifiGanConfig {
    /// Bands of the spectrogram.
    pub model_in_dim: usize,
    /// Values per second of the waveform, in Hz.
    pub sampling_rate: u32,
    /// Channels before the first upsampling; each upsampling halves them.
    pub upsample_initial_channel: usize,
    /// Factor of each upsampling.
    pub upsample_rates: Vec<usize>,
    /// Kernel length of each upsampling.
    pub upsample_kernel_sizes: Vec<usize>,
    /// Kernel length of each residual block after an upsampling.
    pub resblock_kernel_sizes: Vec<usize>,
    /// Distances of the kernel's values in the layers of each of these blocks.
    pub resblock_dilation_sizes: Vec<Vec<usize>>,
    /// Slope of the activations for negative values.
    pub leaky_relu_slope: f64,
    /// Whether the bands are normalized by `mean` and `scale` first.
    pub normalize_before: bool,
}

impl Default for HifiGanConfig {
    fn default() -> Self {
        Self {
            model_in_dim: 80,
            sampling_rate: 16_000,
            upsample_initial_channel: 512,
            upsample_rates: vec![4, 4, 4, 4],
            upsample_kernel_sizes: vec![8, 8, 8, 8],
            resblock_kernel_sizes: vec![3, 7, 11],
            resblock_dilation_sizes: vec![vec![1, 3, 5]; 3],
            leaky_relu_slope: 0.1,
            normalize_before: true,
        }
    }
}

impl HifiGanConfig {
    /// The class in transformers.
    pub const CLASS: &str = "SpeechT5HifiGan";

    /// Parses `config.json` and [validates](Self::validate) it.
    ///
    /// # Errors
    /// Names the key that is unknown, malformed or contradicts others.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let format = Format { class: Self::CLASS, harmless: &HARMLESS, fixed: &[] };
        let config: Self = config::read(text, &format)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks that a vocoder can be built from this.
    ///
    /// # Errors
    /// Names the key, its value and what was expected.
    pub fn validate(&self) -> Result<(), ConfigError> {
        in_range(&[
            ("model_in_dim", self.model_in_dim, 1, MAX),
            ("sampling_rate", self.sampling_rate as usize, 1, 1 << 20),
            ("upsample_initial_channel", self.upsample_initial_channel, 1, MAX),
        ])?;
        let steps = self.upsample_rates.len();
        if !(1..=16).contains(&steps) || self.upsample_kernel_sizes.len() != steps {
            let reason = "expected 1 to 16 factors, and as many `upsample_kernel_sizes`";
            return Err(ConfigError::value("upsample_rates", &self.upsample_rates, reason));
        }
        let stride = self.upsample_rates.iter().fold(1usize, |all, rate| all.saturating_mul(*rate));
        if stride > MOST_STRIDE {
            let reason = format!("expected factors whose product is at most {MOST_STRIDE}");
            return Err(ConfigError::value("upsample_rates", &self.upsample_rates, reason));
        }
        if !self.upsample_initial_channel.is_multiple_of(1 << steps) {
            let reason = format!("expected a multiple of {}, since {steps} upsamplings halve it", 1 << steps);
            return Err(ConfigError::value(
                "upsample_initial_channel",
                self.upsample_initial_channel,
                reason,
            ));
        }
        for (rate, kernel) in self.upsample_rates.iter().zip(&self.upsample_kernel_sizes) {
            // Otherwise the length would not be a multiple of the spectrogram's.
            if !(1..=1024).contains(rate)
                || *kernel > MAX
                || kernel < rate
                || !(kernel - rate).is_multiple_of(2)
            {
                let reason =
                    format!("expected the factor {rate} of `upsample_rates` (1 to 1024) plus an even number");
                return Err(ConfigError::value("upsample_kernel_sizes", kernel, reason));
            }
        }
        if self.resblock_kernel_sizes.is_empty()
            || self.resblock_kernel_sizes.len() != self.resblock_dilation_sizes.len()
        {
            let reason = "expected at least one length, and as many `resblock_dilation_sizes`";
            return Err(ConfigError::value("resblock_kernel_sizes", &self.resblock_kernel_sizes, reason));
        }
        let odd = |k: &&usize| k.is_multiple_of(2) || **k > MAX;
        if let Some(kernel) = self.resblock_kernel_sizes.iter().find(odd) {
            return Err(ConfigError::value("resblock_kernel_sizes", kernel, "expected odd lengths"));
        }
        let wrong = |d: &&usize| !(1..=MAX).contains(*d);
        if let Some(dilation) = self.resblock_dilation_sizes.iter().flatten().find(wrong) {
            return Err(ConfigError::value("resblock_dilation_sizes", dilation, "expected at least 1"));
        }
        match self.leaky_relu_slope.is_finite() {
            true => Ok(()),
            false => Err(ConfigError::value("leaky_relu_slope", self.leaky_relu_slope, "expected a number")),
        }
    }

    /// Channels of the largest map, per value of the waveform.
    pub(super) fn width(&self) -> usize {
        let (mut channels, mut length, mut most) = (self.upsample_initial_channel, 1, 0);
        for rate in &self.upsample_rates {
            (channels, length) = (channels / 2, length * rate);
            most = most.max(channels * length);
        }
        most.div_ceil(length).max(1)
    }

    /// Values of the waveform for each column of the spectrogram.
    pub fn stride(&self) -> usize {
        self.upsample_rates.iter().product()
    }
}
