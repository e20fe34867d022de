//! Media in memory and their files: images, audio and video. This crate does not depend on models.
//!
//! Every file is written completely or not at all.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod animation;
mod audio;
mod canny;
mod color;
mod enlarge;
mod error;
mod ffmpeg;
mod grid;
mod image;
mod picture;
mod planes;
mod png;
mod similarity;
mod video;
mod webp;
mod y4m;

use std::{io::Read, path::Path};

use tweedie_system::files;

pub use crate::{
    animation::{Animation, AnimationFormat, write_animation},
    audio::{
        Audio, Complex32, Cosines, DEFAULT_RATE, Frames, Leveled, MelFilters, MelScale, Recording,
        SOUND_ENDINGS, Stft, WavFormat, decode_sound, level, loudness, pcm16, read_sound, read_wav_text,
        resampled, sounding, sounding_in, spectrogram, wav_start, write_wav,
    },
    color::Rgb,
    enlarge::enlarge,
    error::MediaError,
    ffmpeg::FfmpegReader,
    grid::grid,
    image::Image,
    picture::{Depth, Picture},
    planes::write_png_planes,
    png::{read_png_keyword, read_png_text, write_png},
    similarity::{psnr, ssim},
    video::{DEFAULT_DELAY, Video},
    y4m::Y4mReader,
};

/// Largest animation in which a text is looked for.
const MOST_BYTES: u64 = 1 << 30;

/// Reads the text that was stored in a PNG, an animated PNG, a GIF, a WebP, a WAV or a FLAC file.
///
/// # Errors
/// If the file is none of these, or is corrupt.
pub fn read_text(path: &Path) -> Result<Option<String>, MediaError> {
    let read = |source| MediaError::Read { path: path.into(), source };
    let mut start = Vec::new();
    files::open(path).and_then(|file| file.take(12).read_to_end(&mut start)).map_err(read)?;
    let whole = || files::read(path, MOST_BYTES).map_err(read);
    match start.get(..4) {
        Some(b"GIF8") => Ok(animation::gif_text(&whole()?)),
        Some(b"RIFF") if start.ends_with(b"WEBP") => Ok(webp::webp_text(&whole()?)),
        Some(b"RIFF") => read_wav_text(path),
        Some(b"fLaC") => Ok(audio::flac_text(&whole()?)),
        _ => read_png_text(path),
    }
}

fn store(path: &Path, bytes: &[u8]) -> Result<(), MediaError> {
    files::write(path, bytes).map_err(|source| MediaError::Write { path: path.into(), source })
}

/// Width and height, if `image` is not empty and has the right number of values.
fn size(path: &Path, image: &Image, most: u32) -> Result<(u32, u32), MediaError> {
    let side = |n: usize| u32::try_from(n).ok().filter(|n| (1..=most).contains(n));
    let whole = image.pixels.len() == 3 * image.width * image.height;
    match (side(image.width), side(image.height)) {
        (Some(width), Some(height)) if whole => Ok((width, height)),
        _ => {
            let (w, h, n) = (image.width, image.height, image.pixels.len());
            Err(MediaError::format(
                path,
                format!("{w}×{h} pixels with {n} values: expected sides from 1 to {most}"),
            ))
        }
    }
}
