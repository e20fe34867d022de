//! Latents of all frames of all clips, computed once, because the autoencoder costs more than the network that is trained.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    ops::ControlFlow,
};

use tweedie_data::{Clips, DataConfig, Dataset, Film, Image, Source, Words};
use tweedie_hub::cache;
use tweedie_models::HostTensor;
use tweedie_ops::{Batch, Device};

use crate::{
    config::RunConfig,
    error::TrainError,
    keys::{Purpose, uniform},
    text::{Clean, LatentFile, Part, Vae},
};

/// The files of the latents in the run's folder.
const FILES: [&str; 2] = ["latents.safetensors", "latents-held-out.safetensors"];
/// Their tensors: the latents, and the number of frames of each clip.
const FRAMES: &str = "frames";
const LENGTHS: &str = "lengths";
/// Number of frames encoded at once.
const BATCH: usize = 16;

/// The scaled latents of all frames, computed once: the mean of the autoencoder's distribution for each frame. A sample is a
/// window of a clip.
pub(crate) struct ClipLatents {
    /// `[C, F, H, W]` of a sample.
    shape: [usize; 4],
    /// `[frames, C, H, W]`, one clip after another.
    values: Vec<f32>,
    /// The frame with which each clip begins, and the end.
    starts: Vec<usize>,
    fingerprint: String,
}

/// What clips are encoded by, and how much of them.
struct Encoder<'a> {
    config: &'a RunConfig,
    vae: &'a Vae,
    device: &'a Device,
    shape: [usize; 4],
}

impl Encoder<'_> {
    /// Encodes the clips, or reads their latents from `file` if it contains those; otherwise writes it. Clips without a window are
    /// skipped.
    fn part(&self, clips: &Dataset<Clips>, file: LatentFile<'_>) -> Result<Part<ClipLatents>, TrainError> {
        let shape = self.shape;
        let none = ClipLatents { shape, values: Vec::new(), starts: vec![0], fingerprint: String::new() };
        if clips.is_empty() {
            return Ok(Part { latents: none, words: Vec::new() });
        }
        let fingerprint = self.fingerprint(clips)?;
        let (lengths, values) = match self.stored(clips.len(), &fingerprint, file) {
            Some((lengths, values)) => {
                for index in (0..clips.len()).filter(|index| lengths[*index] == 0) {
                    let reason = "it was skipped when the latents were computed, and has not changed";
                    clips.read(index, |_| Err::<(), _>(reason.into()))?;
                }
                (lengths, values)
            }
            None => {
                let (lengths, values) = self.encode(clips)?;
                if file.writes && !values.is_empty() {
                    self.store(&lengths, &values, &fingerprint, file)?;
                }
                (lengths, values)
            }
        };
        let mut starts = vec![0];
        let mut words: Vec<Words> = Vec::new();
        for (own, length) in clips.words().zip(lengths).filter(|(_, length)| *length > 0) {
            starts.push(starts.last().copied().unwrap_or(0) + length);
            words.push(own.clone());
        }
        Ok(Part { latents: ClipLatents { values, starts, fingerprint, ..none }, words })
    }

    /// The number of frames of each clip, 0 if it is skipped, and the latents of all frames.
    fn encode(&self, clips: &Dataset<Clips>) -> Result<(Vec<usize>, Vec<f32>), TrainError> {
        let (mut lengths, mut values) = (Vec::new(), Vec::new());
        for index in 0..clips.len() {
            let before = values.len();
            let read = clips.read(index, |film| self.film(film, &mut values, [index, clips.len()]));
            let length = match read? {
                Some(length) => length?,
                None => 0,
            };
            if length == 0 {
                values.truncate(before);
            }
            lengths.push(length);
        }
        Ok((lengths, values))
    }

    /// Adds the latents of a clip's frames to `values`; their number.
    fn film(
        &self,
        film: &Film,
        values: &mut Vec<f32>,
        [index, of]: [usize; 2],
    ) -> Result<Result<usize, TrainError>, String> {
        let [_, window, _, _] = self.shape;
        let most = self.config.text.latents.cache_mb;
        let (mut count, mut failed) = (0, None);
        let mut waiting: Vec<Image> = Vec::with_capacity(BATCH);
        film.each(&mut |image| {
            waiting.push(image);
            count += 1;
            if waiting.len() < BATCH {
                return ControlFlow::Continue(());
            }
            failed = self.frames(&mut waiting, values).err();
            if failed.is_none() && values.len().saturating_mul(4) >> 20 >= most {
                let expected = format!(
                    "more: the latents of the first {index} of {of} clips and of {count} frames of the next fill it; or fewer or \
                     shorter clips, or fewer frames per second (data.clips.fps)"
                );
                failed = Some(TrainError::config("text.latents.cache_mb", most, expected));
            }
            if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let last = || if waiting.is_empty() { Ok(()) } else { self.frames(&mut waiting, values) };
        if let Err(error) = failed.map_or_else(last, Err) {
            return Ok(Err(error));
        }
        match count < window {
            true => Err(format!(
                "it has {count} frames at {} per second, fewer than a sample of {window} (data.clips)",
                self.config.data.window().fps
            )),
            false => Ok(Ok(count)),
        }
    }

    /// Adds the latents of some frames.
    fn frames(&self, waiting: &mut Vec<Image>, values: &mut Vec<f32>) -> Result<(), TrainError> {
        let (rows, size) = (waiting.len(), self.config.data.size);
        let planes: Vec<f32> = waiting.drain(..).flat_map(|frame| frame.to_planes()).collect();
        let [mean, _] =
            self.vae.encode(Batch::from_host(planes, rows, &[3, size, size].into(), self.device))?;
        values.extend(mean);
        Ok(())
    }

    fn stored(
        &self,
        clips: usize,
        fingerprint: &str,
        file: LatentFile<'_>,
    ) -> Option<(Vec<usize>, Vec<f32>)> {
        let mut found = cache::read(file.path, fingerprint)?;
        let (lengths, frames) = (found.remove(LENGTHS)?.values, found.remove(FRAMES)?.values);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let each = self.shape.iter().product::<usize>() / self.shape[1].max(1);
        let fits = lengths.len() == clips && lengths.iter().sum::<usize>() * each == frames.len();
        fits.then_some((lengths, frames))
    }

    fn store(
        &self,
        lengths: &[usize],
        values: &[f32],
        fingerprint: &str,
        file: LatentFile<'_>,
    ) -> Result<(), TrainError> {
        let [channels, _, height, width] = self.shape;
        let frames = HostTensor {
            shape: vec![lengths.iter().sum(), channels, height, width],
            values: values.to_vec(),
        };
        // Whole numbers of this size are exact.
        let values = lengths.iter().map(|length| *length as f32).collect();
        let lengths = HostTensor { shape: vec![lengths.len()], values };
        let tensors = BTreeMap::from([(FRAMES.to_owned(), frames), (LENGTHS.to_owned(), lengths)]);
        Ok(cache::write(file.path, fingerprint, &tensors)?)
    }

    /// What the latents depend on, by CRC-32C: autoencoder, how frames are made, names, and the content of files. Moving emoji are
    /// drawn by laws.
    fn fingerprint(&self, clips: &Dataset<Clips>) -> Result<String, TrainError> {
        let mut crc = 0;
        let mut add = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
        add(self.vae.codec().config_json().as_bytes());
        for (name, tensor) in self.vae.codec().tensors() {
            add(name.as_bytes());
            tensor.values.iter().for_each(|v| add(&v.to_le_bytes()));
        }
        let DataConfig { source, size, background, moving, fit, margin, clips: window, .. } =
            &self.config.data;
        let made = match source {
            Source::MovingEmoji => serde_json::to_string(&(size, background, moving)),
            _ => serde_json::to_string(&(size, background, fit, margin, window)),
        };
        add(made.unwrap_or_default().as_bytes());
        let first = crc;
        let mut crc = 0;
        for (index, name) in clips.names().enumerate() {
            crc = crc32c::crc32c_append(crc, name.as_bytes());
            let read = clips.read(index, |film| {
                crc = content(film, crc).map_err(|e| e.to_string())?;
                Ok(())
            });
            read?;
        }
        Ok(format!("{first:08x} {crc:08x}"))
    }
}

/// The checksum of the files of a clip, after `crc`.
fn content(film: &Film, mut crc: u32) -> io::Result<u32> {
    let mut piece = vec![0; 1 << 16];
    for path in film.files()? {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut piece)? {
                0 => break,
                n => crc = crc32c::crc32c_append(crc, &piece[..n]),
            }
        }
    }
    Ok(crc)
}

impl ClipLatents {
    /// The latents of the training clips and of the held-out ones; `writes` says whether they are written to the run's folder.
    ///
    /// # Errors
    /// If every clip is held out or skipped, the latents exceed `text.latents.cache_mb`, a clip cannot be made, or a file cannot
    /// be written.
    pub fn parts(
        config: &RunConfig,
        data: &Dataset<Clips>,
        vae: &Vae,
        device: &Device,
        writes: bool,
    ) -> Result<[Part<Self>; 2], TrainError> {
        let (text, run) = (&config.text, &config.run);
        let [channels, height, width] = vae.shape(config.data.size)?;
        let shape = [channels, config.data.window().frames, height, width];
        // The least that they need.
        let each = 4 * shape.iter().product::<usize>();
        let megabytes = data.len().saturating_mul(each).div_ceil(1 << 20);
        if megabytes > text.latents.cache_mb {
            let expected = format!("at least {megabytes}, for the latents of {} clips", data.len());
            return Err(TrainError::config("text.latents.cache_mb", text.latents.cache_mb, expected));
        }
        let (train, held_out) = data.split();
        if train.is_empty() {
            let expected = format!("a fraction that leaves some of the {} clips for training", data.len());
            return Err(TrainError::config("data.holdout", config.data.holdout, expected));
        }
        if writes {
            std::fs::create_dir_all(&run.out).map_err(|e| TrainError::io(&run.out, e))?;
        }
        let encoder = Encoder { config, vae, device, shape };
        let part = |clips: &Dataset<Clips>, file: &str| {
            encoder.part(clips, LatentFile { path: &run.out.join(file), writes })
        };
        let (train, held_out) = (part(&train, FILES[0])?, part(&held_out, FILES[1])?);
        if train.words.is_empty() {
            return Err(data.none_left().into());
        }
        Ok([train, held_out])
    }

    /// Channels, frames, height and width of a sample.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The window of clip `index` that begins at a fraction of where it may begin, `0..=1`.
    fn window(&self, index: usize, at: f64) -> Cow<'_, [f32]> {
        let [channels, frames, height, width] = self.shape;
        let (area, each) = (height * width, channels * height * width);
        let [start, end] = [self.starts[index], self.starts[index + 1]];
        let room = end - start - frames;
        let first = start + ((at * (room + 1) as f64) as usize).min(room);
        // From frames of channels to channels of frames.
        let plane = |(channel, frame): (usize, usize)| {
            let from = (first + frame) * each + channel * area;
            &self.values[from..from + area]
        };
        let planes = (0..channels).flat_map(|channel| (0..frames).map(move |frame| (channel, frame)));
        planes.flat_map(plane).copied().collect()
    }
}

impl Clean for ClipLatents {
    const NOUN: &str = "clips";

    /// Any window, each as often as another.
    fn draw(&self, index: usize, seed: u64, counter: u64) -> Cow<'_, [f32]> {
        self.window(index, uniform(seed, Purpose::Window, counter, 0))
    }

    /// The window in the middle.
    fn plain(&self, index: usize) -> Cow<'_, [f32]> {
        self.window(index, 0.5)
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}
