//! Reads clips: GIF, animated PNG and WebP, YUV4MPEG2, folders of numbered frames, and what an installed `ffmpeg` reads.
//!
//! Frames are read one after another, so that the end of a long film needs no more memory than a short one.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufReader, Cursor, Read},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use image::{
    AnimationDecoder, ImageDecoder, Limits, RgbaImage,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
};
use tweedie_media::{FfmpegReader, Image, Video, Y4mReader};
use tweedie_system::files;

use crate::{DataError, Rgb, decode, guard::guarded};

/// Most pixels of all frames that are kept: 768 MiB.
const MOST_PIXELS: usize = 1 << 28;
/// Largest encoded animation, and memory of its decoder.
const MOST_BYTES: u64 = 512 << 20;
/// Milliseconds per frame where a file does not say it.
const DELAY: f64 = 125.0;

/// Which frames of a clip are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// This many from the beginning.
    First(usize),
    /// This many at the end.
    Last(usize),
}

/// A clip that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The frames that are kept, all of one size.
    pub video: Video,
    /// What else is to be said: transparency that became white, durations that differ.
    pub remarks: Vec<String>,
}

/// A frame as it comes.
pub(crate) struct Still {
    pub image: Image,
    /// Its duration in milliseconds.
    pub delay: f64,
    /// Whether it has transparent parts, which have the colour of the paper now.
    pub transparent: bool,
}

/// Takes one frame after another, until it breaks.
pub(crate) type Take<'a> = dyn FnMut(Still) -> Result<ControlFlow<()>, String> + 'a;

/// The frames that are kept, with their durations in milliseconds.
struct Kept {
    part: Part,
    frames: VecDeque<Image>,
    delays: Vec<f64>,
    transparent: bool,
}

impl Kept {
    fn take(&mut self, still: Still) -> Result<ControlFlow<()>, String> {
        let area = still.image.width * still.image.height;
        self.frames.push_back(still.image);
        self.delays.push(still.delay);
        self.transparent |= still.transparent;
        match self.part {
            Part::First(n) if self.frames.len() >= n => return Ok(ControlFlow::Break(())),
            Part::Last(n) if self.frames.len() > n => drop(self.frames.pop_front()),
            _ => {}
        }
        if self.frames.len().saturating_mul(area) > MOST_PIXELS {
            let most = MOST_PIXELS / area;
            return Err(format!(
                "more than {most} frames of this size do not fit in the limit of {} MiB; cut the clip first",
                (3 * MOST_PIXELS) >> 20
            ));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn finish(self) -> Result<Clip, String> {
        let Some(first) = self.delays.first().copied() else { return Err("there are no frames".into()) };
        let mean = self.delays.iter().sum::<f64>() / self.delays.len() as f64;
        let mut remarks = Vec::new();
        if self.delays.iter().any(|delay| (delay - first).abs() > 1.0) {
            remarks.push(format!(
                "its frames have different durations; each is taken to last {mean:.0} ms, their mean"
            ));
        }
        if self.transparent {
            remarks.push("its transparent parts are taken to be white".into());
        }
        let delay = mean.round().clamp(1.0, 65535.0) as u16;
        Ok(Clip { video: Video { frames: self.frames.into(), delay }, remarks })
    }
}

/// Reads a file or a folder of numbered frames. Its content decides the format, not its name.
///
/// # Errors
/// If it is missing, damaged, holds no frames, frames of different sizes or too many, or needs `ffmpeg` and that is not
/// installed.
pub fn read(path: &Path, part: Part) -> Result<Clip, DataError> {
    let corrupt = |reason: String| DataError::Clip { path: path.into(), reason };
    if part == Part::First(0) || part == Part::Last(0) {
        return Err(corrupt("none of its frames is asked for".into()));
    }
    let mut kept = Kept { part, frames: VecDeque::new(), delays: Vec::new(), transparent: false };
    let last = if let Part::Last(n) = part { n } else { usize::MAX };
    each(path, last, Rgb([255; 3]), &mut |still| kept.take(still))?;
    kept.finish().map_err(corrupt)
}

/// Passes the frames of a file or of a folder of numbered frames to `take`, in order and all of one size, on `paper`. Only the
/// `last` of a folder are read; files have no other way to their end than through all frames.
///
/// # Errors
/// Those of [`read`], except for too many frames, and those of `take`.
pub(crate) fn each(path: &Path, last: usize, paper: Rgb, take: &mut Take<'_>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let corrupt = |reason: String| DataError::Clip { path: path.into(), reason };
    let mut size = None;
    let take: &mut Take<'_> = &mut |still| {
        let (width, height) = (still.image.width, still.image.height);
        if width == 0 || height == 0 {
            return Err(format!("a frame of {width}×{height} pixels"));
        }
        let (w, h) = *size.get_or_insert((width, height));
        if (w, h) != (width, height) {
            return Err(format!("frames have different sizes, {w}×{h} and {width}×{height} pixels"));
        }
        take(Still { delay: if still.delay > 0.0 { still.delay } else { DELAY }, ..still })
    };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return folder(path, last, paper, take);
    }
    let mut start = Vec::new();
    files::open(path).and_then(|file| file.take(32).read_to_end(&mut start)).map_err(io)?;
    let opaque = |image, delay| Still { image, delay, transparent: false };
    if start.starts_with(b"YUV4MPEG2") {
        let file = File::open(path).map_err(io)?;
        let mut reader = Y4mReader::new(BufReader::new(file)).map_err(corrupt)?;
        let delay = reader.delay();
        while let Some(frame) = reader.frame().map_err(corrupt)? {
            if take(opaque(frame, delay)).map_err(corrupt)?.is_break() {
                break;
            }
        }
        Ok(())
    } else if is_animation(&start) {
        let bytes = files::read(path, MOST_BYTES).map_err(io)?;
        guarded("the decoder failed", || animation(&bytes, paper, take)).map_err(corrupt)
    } else if decode::is_image(path) {
        Err(corrupt(SINGLE.into()))
    } else {
        let reason = |e: tweedie_media::MediaError| match e {
            tweedie_media::MediaError::Format { reason, .. } => corrupt(reason),
            other => corrupt(other.to_string()),
        };
        let mut reader = FfmpegReader::open(path).map_err(reason)?;
        let delay = reader.delay();
        while let Some(frame) = reader.frame().map_err(reason)? {
            if take(opaque(frame, delay)).map_err(corrupt)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

const SINGLE: &str = "it is a single image, not a clip";

/// Whether a file is an image that stands still, judged by its beginning.
pub(crate) fn is_still(path: &Path) -> bool {
    let mut start = Vec::new();
    let file = || files::open(path);
    if !decode::is_image(path) || file().and_then(|f| f.take(32).read_to_end(&mut start)).is_err() {
        return false;
    }
    match (&start[..], file()) {
        ([b'G', b'I', b'F', ..], _) => false,
        // The flag of animations in the header of files with more than one chunk.
        ([b'R', b'I', b'F', b'F', ..], _) => {
            !(start.get(12..16) == Some(b"VP8X") && start.get(20).is_some_and(|flags| flags & 2 != 0))
        }
        ([0x89, b'P', b'N', b'G', ..], Ok(file)) => {
            let mut limits = Limits::default();
            limits.max_alloc = Some(MOST_BYTES);
            let decoder = PngDecoder::with_limits(BufReader::new(file), limits);
            decoder.is_ok_and(|decoder| decoder.is_apng().is_ok_and(|moves| !moves))
        }
        _ => true,
    }
}

fn is_animation(start: &[u8]) -> bool {
    let webp = start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP");
    start.starts_with(b"GIF8") || webp || start.starts_with(b"\x89PNG")
}

/// Whether an animation has its end. Decoders take a file that was cut off for a shorter one.
fn is_whole(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"GIF8") {
        return bytes.iter().rev().find(|byte| **byte != 0) == Some(&0x3b);
    }
    if bytes.starts_with(b"RIFF") {
        let said = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
        return said.is_some_and(|length| bytes.len() >= 8 + length as usize);
    }
    // The last chunk: its name and its checksum.
    bytes.windows(8).rev().take(64).any(|end| end == b"IEND\xaeB`\x82")
}

/// The frames of a GIF, an animated PNG or an animated WebP.
fn animation(bytes: &[u8], paper: Rgb, take: &mut Take<'_>) -> Result<(), String> {
    if !is_whole(bytes) {
        return Err("truncated: its end is missing".into());
    }
    let text = |e: image::ImageError| e.to_string();
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    let frames = if bytes.starts_with(b"GIF8") {
        let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(text)?;
        decoder.set_limits(limits).map_err(text)?;
        decoder.into_frames()
    } else if bytes.starts_with(b"RIFF") {
        let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(text)?;
        decoder.set_limits(limits).map_err(text)?;
        if !decoder.has_animation() {
            return Err(SINGLE.into());
        }
        decoder.into_frames()
    } else {
        let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(text)?;
        if !decoder.is_apng().map_err(text)? {
            return Err(SINGLE.into());
        }
        decoder.apng().map_err(text)?.into_frames()
    };
    for frame in frames {
        let frame = frame.map_err(text)?;
        let (over, under) = frame.delay().numer_denom_ms();
        let delay = f64::from(over) / f64::from(under.max(1));
        let (image, transparent) = on(paper, frame.buffer());
        if take(Still { image, delay, transparent })?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The picture on `paper`, and whether any of the paper shows.
fn on(paper: Rgb, frame: &RgbaImage) -> (Image, bool) {
    let mut transparent = false;
    let mix = |p: &[u8]| {
        let alpha = u32::from(p[3]);
        transparent |= alpha < 255;
        let part = |c: usize| u32::from(p[c]) * alpha + u32::from(paper.0[c]) * (255 - alpha);
        [0, 1, 2].map(|c| ((part(c) + 127) / 255) as u8)
    };
    let pixels: Vec<u8> = frame.as_raw().chunks_exact(4).flat_map(mix).collect();
    (Image { width: frame.width() as usize, height: frame.height() as usize, pixels }, transparent)
}

/// The last number in the name of a file.
fn number(file: &Path) -> Option<u128> {
    let stem = file.file_stem()?.to_string_lossy();
    stem.rsplit(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty())?.parse().ok()
}

/// The images in a folder.
fn images(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        let ending = file.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
        if ending.is_some_and(|ending| decode::EXTENSIONS.contains(&&*ending)) {
            all.push(file);
        }
    }
    all.sort();
    Ok(all)
}

/// Whether a folder is one clip: its images have numbers in their names, and the first stands still.
pub(crate) fn is_frames(folder: &Path) -> bool {
    let Ok(all) = images(folder) else { return false };
    all.iter().all(|file| number(file).is_some()) && all.first().is_some_and(|file| is_still(file))
}

/// The files of a clip: itself, or the images in a folder.
pub(crate) fn parts(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.is_dir() { images(path) } else { Ok(vec![path.into()]) }
}

/// The `last` images in a folder, in the order of the last number in their names.
fn folder(path: &Path, last: usize, paper: Rgb, take: &mut Take<'_>) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: path.into(), source };
    let corrupt = |reason: String| DataError::Clip { path: path.into(), reason };
    let mut all: Vec<(u128, PathBuf)> = Vec::new();
    for file in images(path).map_err(io)? {
        match number(&file) {
            Some(number) => all.push((number, file)),
            None => return Err(corrupt(format!("the image {} has no number in its name", file.display()))),
        }
    }
    all.sort();
    if let Some(pair) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let (a, b) = (pair[0].1.display(), pair[1].1.display());
        return Err(corrupt(format!("{a} and {b} have the same number")));
    }
    all.drain(..all.len().saturating_sub(last));
    for (_, file) in all {
        let raster = decode::file(&file).map_err(|reason| DataError::Corrupt {
            what: "image",
            path: file.clone(),
            reason,
        })?;
        let (image, transparent) = (raster.on(paper), !raster.is_opaque());
        if take(Still { image, delay: DELAY, transparent }).map_err(corrupt)?.is_break() {
            break;
        }
    }
    Ok(())
}
