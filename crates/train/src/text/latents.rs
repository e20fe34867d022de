//! Latents of all images, computed once, because the autoencoder costs more than the network that is trained.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use burn::tensor::Device;
use tweedie_data::{AugmentConfig, Dataset, augment};
use tweedie_hub::cache;
use tweedie_models::{HostTensor, MelSpectrogram};
use tweedie_ops::Batch;

use super::{Clean, LatentConfig, Vae};
use crate::{
    error::TrainError,
    keys::{Purpose, key, normal, uniform},
};

/// Number of images encoded at once.
const BATCH: usize = 16;
const MEAN: &str = "mean";
const STD: &str = "std";

/// The file of latents, and whether this process writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LatentFile<'a> {
    pub path: &'a Path,
    pub writes: bool,
}

/// Scaled latents: several versions of each image or sound.
pub(crate) struct Latents {
    /// `[C, H, W]`.
    shape: [usize; 3],
    variants: usize,
    sample: bool,
    /// `[images, variants, C, H, W]`.
    mean: Vec<f32>,
    /// Empty if they are not drawn.
    std: Vec<f32>,
    fingerprint: String,
}

impl Latents {
    /// Encodes the images of `data`, `config.variants` times each with augmentation determined by `seed`, or reads them from
    /// `file` if it contains the same latents; otherwise writes it, if this process does.
    ///
    /// # Errors
    /// If they would exceed `config.cache_mb`, an image cannot be read, or `file` cannot be written.
    pub fn open(
        data: &Dataset,
        vae: &Vae,
        changes: &AugmentConfig,
        config: &LatentConfig,
        seed: u64,
        file: LatentFile<'_>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let shape = vae.shape(data.size())?;
        let each: usize = shape.iter().product();
        let count = data.len().saturating_mul(config.variants);
        let megabytes = count.saturating_mul(8 * each).div_ceil(1 << 20);
        if megabytes > config.cache_mb {
            let expected = format!("at least {megabytes}, for {count} latents of {shape:?}");
            return Err(TrainError::config("text.latents.cache_mb", config.cache_mb, expected));
        }
        let seed = key(seed, Purpose::Augment, 0);
        let fingerprint = fingerprint(data, vae, changes, config, seed)?;
        let (variants, sample) = (config.variants, config.sample);
        if let Some([mean, std]) = read(file.path, &fingerprint, count * each) {
            return Ok(Self { shape, variants, sample, mean, std, fingerprint });
        }
        let [mut mean, mut std] = [0; 2].map(|_| Vec::with_capacity(count * each));
        let size = data.size();
        for start in (0..count).step_by(BATCH) {
            let rows = start..(start + BATCH).min(count);
            let mut planes = Vec::with_capacity(rows.len() * 3 * size * size);
            for row in rows.clone() {
                let image = data.get(row / variants)?.sample;
                // The first version is not augmented.
                planes.extend(match row % variants {
                    0 => image.to_planes(),
                    _ => augment(&image, changes, seed, row as u64).0,
                });
            }
            let [m, s] = vae.encode(Batch::from_host(planes, rows.len(), &[3, size, size].into(), device))?;
            mean.extend(m);
            std.extend(s);
        }
        let latents = Self { shape, variants, sample, mean, std, fingerprint };
        if file.writes {
            latents.write(file.path)?;
        }
        Ok(latents)
    }

    /// No latents.
    pub fn none(shape: [usize; 3]) -> Self {
        let [mean, std] = [Vec::new(), Vec::new()];
        Self { shape, variants: 1, sample: false, mean, std, fingerprint: String::new() }
    }

    /// The latents of `shape` of `sounds`: `variants` waveforms of each.
    pub fn of_sounds<V: Iterator<Item = Vec<f32>>>(
        codec: &MelSpectrogram,
        shape: [usize; 3],
        variants: usize,
        sounds: impl Iterator<Item = V>,
    ) -> Self {
        let mean = sounds.flatten().flat_map(|sound| codec.latents(&sound)).collect();
        Self { shape, variants, sample: false, mean, std: Vec::new(), fingerprint: codec.fingerprint() }
    }

    /// Channels, height and width.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Mean and standard deviation of each channel, over all images and versions.
    pub fn moments(&self) -> [Vec<f32>; 2] {
        let [channels, height, width] = self.shape;
        let (each, area) = (channels * height * width, height * width);
        let count = (self.mean.len() / each.max(1) * area).max(1) as f64;
        let sum = |channel: usize, of: &dyn Fn(f64) -> f64| -> f64 {
            let rows =
                self.mean.chunks_exact(each).flat_map(|row| &row[channel * area..(channel + 1) * area]);
            rows.map(|v| of(f64::from(*v))).sum::<f64>() / count
        };
        let mean: Vec<f64> = (0..channels).map(|channel| sum(channel, &|v| v)).collect();
        let std = (0..channels).map(|channel| sum(channel, &|v| (v - mean[channel]).powi(2)).sqrt() as f32);
        [mean.iter().map(|v| *v as f32).collect(), std.collect()]
    }

    /// The same with `(z − mean)/std` of each channel instead of `z`.
    #[must_use]
    pub fn standardized(mut self, mean: &[f32], std: &[f32]) -> Self {
        let area = self.shape[1] * self.shape[2];
        for (at, v) in self.mean.iter_mut().enumerate() {
            let channel = at / area % mean.len();
            *v = (*v - mean[channel]) / std[channel];
        }
        for (at, v) in self.std.iter_mut().enumerate() {
            *v /= std[at / area % mean.len()];
        }
        self
    }

    fn of<'a>(&self, values: &'a [f32], image: usize, variant: usize) -> &'a [f32] {
        let each: usize = self.shape.iter().product();
        let at = (image * self.variants + variant) * each;
        &values[at..at + each]
    }

    fn write(&self, file: &Path) -> Result<(), TrainError> {
        let each: usize = self.shape.iter().product();
        let tensor = |values: &Vec<f32>| HostTensor {
            shape: vec![values.len() / each.max(1), self.shape[0], self.shape[1], self.shape[2]],
            values: values.clone(),
        };
        let tensors =
            BTreeMap::from([(MEAN.to_owned(), tensor(&self.mean)), (STD.to_owned(), tensor(&self.std))]);
        Ok(cache::write(file, &self.fingerprint, &tensors)?)
    }
}

impl Clean for Latents {
    const NOUN: &str = "images";

    /// One of the versions of an image, and a draw from its posterior.
    fn draw(&self, index: usize, seed: u64, counter: u64) -> Cow<'_, [f32]> {
        let coin = uniform(seed, Purpose::Variant, counter, 0);
        let variant = ((coin * self.variants as f64) as usize).min(self.variants - 1);
        let mean = self.of(&self.mean, index, variant);
        if !self.sample {
            return mean.into();
        }
        let std = self.of(&self.std, index, variant);
        let mut noise = vec![0.0; mean.len()];
        normal(seed, Purpose::Posterior, counter, 0, &mut noise);
        mean.iter().zip(std).zip(noise).map(|((m, s), e)| m + s * e).collect()
    }

    /// The mean for the unchanged image.
    fn plain(&self, index: usize) -> Cow<'_, [f32]> {
        self.of(&self.mean, index, 0).into()
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// Mean and standard deviation in `file`, if its content is valid.
fn read(file: &Path, fingerprint: &str, len: usize) -> Option<[Vec<f32>; 2]> {
    let mut found = cache::read(file, fingerprint)?;
    let mut take = |name| found.remove(name).map(|t| t.values).filter(|values| values.len() == len);
    Some([take(MEAN)?, take(STD)?])
}

/// A fingerprint of the latents: FNV-1a over autoencoder, images, augmentation and seed.
fn fingerprint(
    data: &Dataset,
    vae: &Vae,
    changes: &AugmentConfig,
    config: &LatentConfig,
    seed: u64,
) -> Result<String, TrainError> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        hash = bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    };
    add(vae.codec().config_json().as_bytes());
    for (name, tensor) in vae.codec().tensors() {
        add(name.as_bytes());
        tensor.values.iter().for_each(|v| add(&v.to_le_bytes()));
    }
    add(serde_json::to_string(changes).unwrap_or_default().as_bytes());
    add(&[config.variants as u64, seed, data.len() as u64].map(u64::to_le_bytes).concat());
    for index in 0..data.len() {
        add(&data.get(index)?.sample.pixels);
    }
    Ok(format!("{hash:016x}"))
}
