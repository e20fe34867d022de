//! A codec without a network: the logarithm of a mel spectrogram, as a picture for networks of images.
//!
//! A waveform `[1, n·hop]` has `n` frames of `bands` values, `ln max(mel, floor)`, normalized by the mean and the standard
//! deviation that each band has in the training data. Squares of `patch × patch` values are the channels of the latents,
//! `[patch², bands/patch, n/patch]`. Decoding finds magnitudes for the mel values and phases for the magnitudes (Griffin &
//! Lim), always the same.

mod config;

use std::{collections::BTreeMap, fmt, sync::Arc};

use burn::tensor::Device;
use tweedie_media::{MelFilters, Stft};
use tweedie_ops::{Batch, ExecContext, SampleShape};

use crate::{
    codec::{Codec, CodecSpec, Encoded},
    config::ConfigError,
    network::InputError,
    params::{HostTensor, ParamError, TensorSource},
    unet::LoadError,
};

pub use config::MelSpectrogramConfig;

/// Rounds of the search for magnitudes that have given mel values.
const MAGNITUDE_ROUNDS: usize = 60;

/// The codec.
#[derive(Clone)]
pub struct MelSpectrogram {
    config: MelSpectrogramConfig,
    stft: Stft,
    filters: Arc<MelFilters>,
    /// Mean of the logarithms of each band.
    mean: Vec<f32>,
    /// Their standard deviation.
    std: Vec<f32>,
}

impl fmt::Debug for MelSpectrogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MelSpectrogram").field("config", &self.config).finish_non_exhaustive()
    }
}

impl MelSpectrogram {
    /// The codec whose bands are normalized by the statistics of `sounds`, waveforms at the rate of `config`.
    ///
    /// # Errors
    /// Those of [`MelSpectrogramConfig::validate`].
    pub fn fitted<'a>(
        config: &MelSpectrogramConfig,
        sounds: impl IntoIterator<Item = &'a [f32]>,
    ) -> Result<Self, ConfigError> {
        let mut codec = Self::of(config, vec![0.0; config.bands], vec![1.0; config.bands])?;
        let (mut sums, mut frames) = (vec![[0.0f64; 2]; config.bands], 0usize);
        for sound in sounds {
            for frame in codec.logarithms(sound).chunks_exact(config.bands) {
                frames += 1;
                for (sum, value) in sums.iter_mut().zip(frame) {
                    sum[0] += f64::from(*value);
                    sum[1] += f64::from(*value).powi(2);
                }
            }
        }
        /// A band that is always silent must not be divided by zero.
        const LEAST: f64 = 0.1;
        let count = frames.max(1) as f64;
        for (band, [sum, squares]) in sums.into_iter().enumerate() {
            let mean = sum / count;
            codec.mean[band] = mean as f32;
            codec.std[band] = (squares / count - mean * mean).max(0.0).sqrt().max(LEAST) as f32;
        }
        Ok(codec)
    }

    /// Creates it with the statistics of `source`: the tensors `mean` and `std`, one value per band.
    ///
    /// # Errors
    /// Those of [`MelSpectrogramConfig::validate`]; a tensor that is missing, unknown, of another shape or not finite; a
    /// standard deviation of 0 or less.
    pub fn load(
        config: &MelSpectrogramConfig,
        source: &dyn TensorSource,
        _: &Device,
    ) -> Result<Self, LoadError> {
        config.validate()?;
        const NAMES: [&str; 2] = ["mean", "std"];
        let shape = vec![config.bands];
        let mut unknown = source.names();
        unknown.retain(|name| !NAMES.contains(&name.as_str()));
        if let Some(name) = unknown.first() {
            return Err(ParamError::Unused { name: name.clone(), others: unknown.len() - 1 }.into());
        }
        let read = |name: &str| {
            let named = name.to_owned();
            match source.shape(name) {
                None => {
                    return Err(ParamError::Missing { name: named, shape: shape.clone(), others: 0 });
                }
                Some(found) if found != shape => {
                    return Err(ParamError::Shape { name: named, expected: shape.clone(), found });
                }
                Some(_) => {}
            }
            let values =
                source.read(name).map_err(|reason| ParamError::Read { name: named.clone(), reason })?.values;
            let good = |v: &f32| v.is_finite() && (name == "mean" || *v > 0.0);
            match values.iter().find(|v| !good(v)) {
                Some(v) => {
                    let reason =
                        format!("has the value {v}, expected finite values and standard deviations > 0");
                    Err(ParamError::Read { name: named, reason })
                }
                None => Ok(values),
            }
        };
        let [mean, std] = [read(NAMES[0])?, read(NAMES[1])?];
        Ok(Self::of(config, mean, std)?)
    }

    fn of(config: &MelSpectrogramConfig, mean: Vec<f32>, std: Vec<f32>) -> Result<Self, ConfigError> {
        config.validate()?;
        let stft = Stft::new(config.window, config.hop, (config.window - config.hop) / 2);
        Ok(Self { stft, filters: Arc::new(config.filters()), mean, std, config: config.clone() })
    }

    /// The configuration.
    pub fn config(&self) -> &MelSpectrogramConfig {
        &self.config
    }

    /// Values of a waveform per latent along the time.
    pub fn stride(&self) -> usize {
        self.config.hop * self.config.patch
    }

    /// The magnitude of a sine of amplitude 1, half of the sum of the window.
    fn full(&self) -> f32 {
        self.config.window as f32 / 4.0
    }

    /// The logarithms of the bands of a waveform, relative to a sine of amplitude 1, frame by frame.
    fn logarithms(&self, signal: &[f32]) -> Vec<f32> {
        let least = 10f32.powf(self.config.floor_db as f32 / 20.0);
        let magnitudes: Vec<f32> = self.stft.forward(signal).iter().map(|c| c.norm() / self.full()).collect();
        self.filters.apply(&magnitudes).into_iter().map(|v| v.max(least).ln()).collect()
    }

    /// A fingerprint of its configuration and statistics.
    pub fn fingerprint(&self) -> String {
        let statistics = (self.mean.iter().chain(&self.std)).map(|v| format!("{:08x}", v.to_bits()));
        let all = format!("{} {}", self.config.to_json(), statistics.collect::<String>());
        format!("{:016x}", crate::params::hash(&all))
    }

    /// The latents of a waveform: normalized bands, as one row. `encode` for a single one, without a tensor.
    pub fn latents(&self, signal: &[f32]) -> Vec<f32> {
        let (bands, patch) = (self.config.bands, self.config.patch);
        let mut values = self.logarithms(signal);
        for frame in values.chunks_exact_mut(bands) {
            for ((value, mean), std) in frame.iter_mut().zip(&self.mean).zip(&self.std) {
                *value = (*value - mean) / std;
            }
        }
        let frames = values.len() / bands;
        let mut out = vec![0.0; values.len()];
        for (at, from) in places(bands, frames, patch) {
            out[at] = values[from];
        }
        out
    }

    /// The waveform of a row of latents.
    fn waveform(&self, latents: &[f32]) -> Vec<f32> {
        let (bands, patch) = (self.config.bands, self.config.patch);
        let frames = latents.len() / bands;
        let mut values = vec![0.0; latents.len()];
        for (from, at) in places(bands, frames, patch) {
            values[at] = latents[from];
        }
        let least = 10f32.powf(self.config.floor_db as f32 / 20.0);
        // A network may answer anything; nothing is louder than a few times full scale.
        const MOST: f32 = 3.0;
        for frame in values.chunks_exact_mut(bands) {
            for ((value, mean), std) in frame.iter_mut().zip(&self.mean).zip(&self.std) {
                let magnitude = (*value * std + mean).min(MOST).exp();
                // What is at the floor is silent.
                *value = if magnitude > 1.001 * least { magnitude * self.full() } else { 0.0 };
            }
        }
        let magnitudes = self.filters.invert(&values, MAGNITUDE_ROUNDS);
        self.stft.of_magnitudes(&magnitudes, frames * self.config.hop, self.config.iterations)
    }
}

/// The place of each value in latents `[patch², bands/patch, frames/patch]`, and in bands frame by frame.
fn places(bands: usize, frames: usize, patch: usize) -> impl Iterator<Item = (usize, usize)> {
    let (height, width) = (bands / patch, frames / patch);
    (0..frames).flat_map(move |frame| {
        (0..bands).map(move |band| {
            let channel = band % patch * patch + frame % patch;
            ((channel * height + band / patch) * width + frame / patch, frame * bands + band)
        })
    })
}

impl Codec for MelSpectrogram {
    fn spec(&self) -> CodecSpec {
        let latents = self.config.patch * self.config.patch;
        CodecSpec {
            class: MelSpectrogramConfig::CLASS,
            media: 1,
            latents,
            axes: 1,
            stride: self.stride(),
            width: self.config.bands,
            scale: vec![1.0; latents],
            shift: vec![0.0; latents],
        }
    }

    fn latent_axes(&self, media: &[usize]) -> Vec<usize> {
        vec![self.config.bands / self.config.patch, media.iter().product::<usize>() / self.stride()]
    }

    fn media_axes(&self, latents: &[usize]) -> Vec<usize> {
        vec![latents.last().map_or(0, |width| width.saturating_mul(self.stride()))]
    }

    fn rate(&self) -> Option<u32> {
        Some(self.config.sample_rate)
    }

    fn encode(&self, media: Batch) -> Result<Encoded, InputError> {
        let (stride, shape) = (self.stride(), media.shape().clone());
        let &[1, length] = shape.dims() else {
            return Err(InputError(format!("expected sounds of shape 1×length (mono), not {shape}")));
        };
        if length == 0 || !length.is_multiple_of(stride) {
            return Err(InputError(format!("a sound of {length} values, expected a multiple of {stride}")));
        }
        let rows = media.to_host().chunks_exact(length).flat_map(|row| self.latents(row)).collect();
        let latents = SampleShape::new(self.spec().latents, &self.latent_axes(&[length]));
        Ok(Encoded { mean: Batch::from_host(rows, media.len(), &latents, &media.device()), logvar: None })
    }

    fn decode(&self, latents: Batch) -> Result<Batch, InputError> {
        let (shape, spec) = (latents.shape().clone(), self.spec());
        let height = self.config.bands / self.config.patch;
        match shape.dims() {
            &[channels, h, width] if channels == spec.latents && h == height && width > 0 => {
                let rows = latents.to_host();
                let rows = rows.chunks_exact(shape.len()).flat_map(|row| self.waveform(row)).collect();
                let media = SampleShape::new(1, &[width * self.stride()]);
                Ok(Batch::from_host(rows, latents.len(), &media, &latents.device()))
            }
            _ => {
                Err(InputError(format!("latents of shape {shape}, expected {}×{height}×width", spec.latents)))
            }
        }
    }

    fn in_context(&self, _: &ExecContext) -> Box<dyn Codec> {
        Box::new(self.clone())
    }

    fn differentiable(&self) -> Box<dyn Codec> {
        Box::new(self.clone())
    }

    fn config_json(&self) -> String {
        self.config.to_json()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let tensor = |values: &Vec<f32>| HostTensor { shape: vec![values.len()], values: values.clone() };
        BTreeMap::from([("mean".to_owned(), tensor(&self.mean)), ("std".to_owned(), tensor(&self.std))])
    }

    fn non_finite(&self) -> Option<String> {
        let broken = |values: &[f32]| values.iter().any(|v| !v.is_finite());
        [("mean", &self.mean), ("std", &self.std)]
            .into_iter()
            .find_map(|(name, values)| broken(values).then(|| name.to_owned()))
    }
}
