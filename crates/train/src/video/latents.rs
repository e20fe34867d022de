//! Latents of all clips, computed once, because the autoencoder costs more than the network that is trained.

use std::{borrow::Cow, collections::BTreeMap};

use tweedie_data::{Clips, DataConfig, Dataset, Frame};
use tweedie_hub::cache;
use tweedie_models::HostTensor;
use tweedie_ops::{Batch, Device};

use crate::{
    config::RunConfig,
    error::TrainError,
    text::{Clean, LatentFile, Part, Vae},
};

/// The files of the latents in the run's folder.
const FILES: [&str; 2] = ["latents.safetensors", "latents-held-out.safetensors"];
const MEAN: &str = "mean";

/// The scaled latents of all clips, computed once: the mean of the autoencoder's distribution for each frame.
pub(crate) struct ClipLatents {
    /// `[C, F, H, W]`.
    shape: [usize; 4],
    /// `[clips, C, F, H, W]`.
    values: Vec<f32>,
    fingerprint: String,
}

impl ClipLatents {
    /// Encodes the clips of frames of `size` pixels, or reads their latents from `file` if it contains those; otherwise writes it.
    fn open(
        clips: &Dataset<Clips>,
        size: usize,
        shape: [usize; 4],
        vae: &Vae,
        fingerprint: &str,
        file: LatentFile<'_>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let [channels, frames, height, width] = shape;
        let count = clips.len() * shape.iter().product::<usize>();
        let mut crc = 0;
        clips.names().for_each(|name| crc = crc32c::crc32c_append(crc, name.as_bytes()));
        let fingerprint = format!("{fingerprint} {crc:08x}");
        let found = cache::read(file.path, &fingerprint).and_then(|mut found| found.remove(MEAN));
        if let Some(values) = found.map(|tensor| tensor.values).filter(|values| values.len() == count) {
            return Ok(Self { shape, values, fingerprint });
        }
        let mut values = Vec::with_capacity(count);
        for index in 0..clips.len() {
            let clip = clips.get(index)?.sample;
            let planes: Vec<f32> = clip.frames.iter().flat_map(|frame| frame.to_planes()).collect();
            let [mean, _] = vae.encode(Batch::from_host(planes, frames, &[3, size, size].into(), device))?;
            // From frames of channels to channels of frames.
            let area = height * width;
            for plane in (0..channels).flat_map(|c| (0..frames).map(move |f| f * channels + c)) {
                values.extend_from_slice(&mean[plane * area..(plane + 1) * area]);
            }
        }
        if file.writes {
            let tensor = HostTensor { shape: [&[clips.len()], &shape[..]].concat(), values: values.clone() };
            cache::write(file.path, &fingerprint, &BTreeMap::from([(MEAN.to_owned(), tensor)]))?;
        }
        Ok(Self { shape, values, fingerprint })
    }

    /// The latents of the training clips and of the held-out ones; `writes` says whether they are written to the run's folder.
    ///
    /// # Errors
    /// If every clip is held out, the latents exceed `text.latents.cache_mb`, a clip cannot be made, or a file cannot be
    /// written.
    pub fn parts(
        config: &RunConfig,
        vae: &Vae,
        device: &Device,
        writes: bool,
    ) -> Result<[Part<Self>; 2], TrainError> {
        let (text, run) = (&config.text, &config.run);
        let DataConfig { size, ref moving, .. } = config.data;
        let [channels, height, width] = vae.shape(size)?;
        let shape = [channels, moving.frames, height, width];
        let each = 4 * shape.iter().product::<usize>();
        let megabytes = moving.clips.saturating_mul(each).div_ceil(1 << 20);
        if megabytes > text.latents.cache_mb {
            let expected = format!("at least {megabytes}, for the latents of {} clips", moving.clips);
            return Err(TrainError::config("text.latents.cache_mb", text.latents.cache_mb, expected));
        }
        let decode = Clips { frame: Frame::of(&config.data), frames: moving.frames };
        let (train, held_out) = Dataset::open_by(&config.data, decode)?.split();
        if train.is_empty() {
            let expected = format!("a fraction that leaves some of the {} clips for training", moving.clips);
            return Err(TrainError::config("data.holdout", config.data.holdout, expected));
        }
        if writes {
            std::fs::create_dir_all(&run.out).map_err(|e| TrainError::io(&run.out, e))?;
        }
        let fingerprint = fingerprint(config, vae);
        let part = |clips: &Dataset<Clips>, file: &str| -> Result<Part<Self>, TrainError> {
            let path = run.out.join(file);
            let latents = match clips.is_empty() {
                true => Self { shape, values: Vec::new(), fingerprint: String::new() },
                false => {
                    let file = LatentFile { path: &path, writes };
                    Self::open(clips, size, shape, vae, &fingerprint, file, device)?
                }
            };
            Ok(Part { latents, words: clips.words().cloned().collect() })
        };
        Ok([part(&train, FILES[0])?, part(&held_out, FILES[1])?])
    }

    /// Channels, frames, height and width.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }
}

impl Clean for ClipLatents {
    const NOUN: &str = "clips";

    fn draw(&self, index: usize, _: u64, _: u64) -> Cow<'_, [f32]> {
        self.plain(index).into()
    }

    fn plain(&self, index: usize) -> &[f32] {
        let each: usize = self.shape.iter().product();
        &self.values[index * each..(index + 1) * each]
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// What the latents depend on besides the names of the clips, which are drawn by laws: CRC-32C.
fn fingerprint(config: &RunConfig, vae: &Vae) -> String {
    let mut crc = 0;
    let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
    add(vae.codec().config_json().as_bytes());
    for (name, tensor) in vae.codec().tensors() {
        add(name.as_bytes());
        tensor.values.iter().for_each(|v| add(&v.to_le_bytes()));
    }
    let DataConfig { size, background, moving, .. } = &config.data;
    add(serde_json::to_string(&(size, background, moving)).unwrap_or_default().as_bytes());
    format!("{crc:08x}")
}
