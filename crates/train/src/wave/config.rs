//! The `[waveform]` table, and its network.

use serde::{Deserialize, Serialize};
use tweedie_models::{DownBlock1DType, UNet1DConfig, UpBlock1DType};

use crate::{
    config::RunConfig,
    diffusion::Process,
    error::TrainError,
    model::{CompactUNet, ModelConfig, nulls},
    sound,
};

/// Channels that the time embedding adds to those of the sound, as in Dance Diffusion.
const TIME: usize = 16;

/// How recordings become samples of one length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WaveConfig {
    /// Values per second of each channel, in Hz, 1000 to 384000. Recordings are resampled to it.
    pub sample_rate: u32,
    /// 1 for mono, 2 for stereo. Of recordings with other channels, the mean is used.
    pub channels: usize,
    /// Length of a sample in values, a multiple of the network's factor between its longest and its shortest maps.
    pub window: usize,
    /// Whether a sample may reach up to half its length beyond the ends of a recording, where it is silent: for recordings that
    /// are short, such as words. Otherwise only recordings shorter than a sample have silence around them.
    pub edges: bool,
    /// Whether each recording is scaled to a largest magnitude of 0.9.
    pub peak: bool,
    /// Each sample is multiplied by a random factor from this to 1; above 0. 1 leaves all as they are.
    pub quietest: f64,
}

impl Default for WaveConfig {
    fn default() -> Self {
        Self { sample_rate: 16_000, channels: 1, window: 8192, edges: true, peak: true, quietest: 1.0 }
    }
}

impl WaveConfig {
    /// Checks all values, and whether the rest of `config` suits this task.
    pub(crate) fn check(&self, config: &RunConfig) -> Result<(), TrainError> {
        let wrong = |key: &str, value: String, expected: &str| Err(TrainError::config(key, value, expected));
        if !(1000..=384_000).contains(&self.sample_rate) {
            return wrong("waveform.sample_rate", self.sample_rate.to_string(), "1000 to 384000 Hz");
        }
        if ![1, 2].contains(&self.channels) {
            return wrong("waveform.channels", self.channels.to_string(), "1 for mono, or 2 for stereo");
        }
        if !(1..=1 << 24).contains(&self.window) {
            return wrong("waveform.window", self.window.to_string(), "1 to 16777216 values");
        }
        if !(self.quietest > 0.0 && self.quietest <= 1.0) {
            return wrong("waveform.quietest", self.quietest.to_string(), "a value > 0, at most 1");
        }
        if config.diffusion.schedule != Process::Cosine {
            let found = format!("{:?}", config.diffusion.schedule).to_lowercase();
            return wrong(
                "diffusion.schedule",
                found,
                "cosine, the process of diffusers' DanceDiffusionPipeline",
            );
        }
        sound::check_data(config)?;
        self.unet(&config.model).map(drop)
    }

    /// The network for samples of this kind.
    ///
    /// # Errors
    /// [`TrainError::Config`] naming the key.
    pub(crate) fn unet(&self, model: &ModelConfig) -> Result<UNet1DConfig, TrainError> {
        let mut unet = match model {
            ModelConfig::Compact(sizes) => {
                UNet1DConfig { in_channels: self.channels, out_channels: self.channels, ..compact(sizes)? }
            }
            ModelConfig::UNet(table) => {
                let value = nulls(serde_json::to_value(table).unwrap_or_default());
                UNet1DConfig::from_json(&value.to_string())
                    .map_err(|e| TrainError::Model(format!("model.unet: {e}")))?
            }
        };
        for (key, found) in [("in_channels", unet.in_channels), ("out_channels", unet.out_channels)] {
            if found != self.channels {
                let expected = format!("{}, as sounds have (waveform.channels)", self.channels);
                return Err(TrainError::config(format!("model.unet.{key}"), found, expected));
            }
        }
        let rate = self.sample_rate as usize;
        if let Some(other) = unet.sample_rate.filter(|other| *other != rate) {
            let expected = format!("{rate}, as sounds have (waveform.sample_rate), or nothing");
            return Err(TrainError::config("model.unet.sample_rate", other, expected));
        }
        (unet.sample_size, unet.sample_rate) = (self.window, Some(rate));
        unet.validate().map_err(|e| TrainError::Model(e.to_string()))?;
        let (stride, least) = (unet.stride(), unet.least());
        if !self.window.is_multiple_of(stride) || self.window < least {
            let expected =
                format!("a multiple of {stride} of at least {least}, for the lengths of the network's maps");
            return Err(TrainError::config("waveform.window", self.window, expected));
        }
        Ok(unet)
    }
}

/// The network of a few sizes: the channels at each length, of which each is half the one before, and the lengths with
/// attention.
fn compact(sizes: &CompactUNet) -> Result<UNet1DConfig, TrainError> {
    let CompactUNet { base_channels, multipliers, attention_levels, .. } = sizes;
    let unused = CompactUNet {
        base_channels: *base_channels,
        multipliers: multipliers.clone(),
        attention_levels: attention_levels.clone(),
        ..CompactUNet::default()
    };
    if *sizes != unused {
        let expected =
            "only base_channels, multipliers and attention_levels; the other keys are for networks of images";
        return Err(TrainError::config("model", "other keys", expected));
    }
    let levels = multipliers.len();
    let widths: Option<Vec<usize>> =
        multipliers.iter().map(|m| base_channels.checked_mul(*m).filter(|width| *width > 0)).collect();
    let Some(widths) = widths.filter(|widths| widths.len() > 1) else {
        let found = format!("{multipliers:?} times {base_channels}");
        return Err(TrainError::config("model.multipliers", found, "at least two values, all > 0"));
    };
    if let Some(level) = attention_levels.iter().find(|level| !(1..levels).contains(*level)) {
        let expected =
            format!("lengths from 1 to {}; there is no attention at the full length, 0", levels - 1);
        return Err(TrainError::config("model.attention_levels", level, expected));
    }
    let down = |level: usize| match level {
        0 => DownBlock1DType::DownBlock1DNoSkip,
        _ if attention_levels.contains(&level) => DownBlock1DType::AttnDownBlock1D,
        _ => DownBlock1DType::DownBlock1D,
    };
    let up = |level: usize| match level {
        0 => UpBlock1DType::UpBlock1DNoSkip,
        _ if attention_levels.contains(&level) => UpBlock1DType::AttnUpBlock1D,
        _ => UpBlock1DType::UpBlock1D,
    };
    Ok(UNet1DConfig {
        extra_in_channels: TIME,
        down_block_types: (0..levels).map(down).collect(),
        up_block_types: (0..levels).rev().map(up).collect(),
        block_out_channels: widths,
        ..UNet1DConfig::default()
    })
}
