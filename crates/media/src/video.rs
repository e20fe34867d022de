//! The in-memory video.

use std::path::Path;

use crate::{Animation, AnimationFormat, Image, MediaError, animation, ffmpeg, store, y4m};

/// Duration of a frame of a video whose model does not say it, in milliseconds.
pub const DEFAULT_DELAY: u16 = 125;

/// Largest width and height of files without a limit of their own.
const MOST: u32 = 1 << 14;

const EXPECTED: &str = "expected a file name with the extension .gif, .png, .webp, .y4m, .mp4, .webm or .mkv";

fn is_y4m(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("y4m"))
}

/// A sequence of images of the same size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Video {
    /// The images.
    pub frames: Vec<Image>,
    /// Duration of each frame in milliseconds.
    pub delay: u16,
}

impl Video {
    /// The video of values `[channels, frames, height, width]` in `[-1, 1]`, with 3 channels or 1 for grey.
    ///
    /// # Panics
    /// If the number of values does not match, or there are other channels.
    pub fn from_planes([channels, frames, height, width]: [usize; 4], values: &[f32], delay: u16) -> Self {
        assert!(channels == 1 || channels == 3, "{channels} channels, expected 1 or 3");
        assert_eq!(values.len(), channels * frames * height * width, "the values of a video");
        let area = height * width;
        let plane = |channel: usize, frame: usize| {
            let start = (channel % channels * frames + frame) * area;
            &values[start..start + area]
        };
        let image = |frame| Image::from_planes(width, height, &[0, 1, 2].map(|c| plane(c, frame)).concat());
        Self { frames: (0..frames).map(image).collect(), delay }
    }

    /// Checks before the work whether [`Self::write`] knows the extension of `path`, and has the programs that it needs.
    ///
    /// # Errors
    /// Says which extensions there are, or which program is missing.
    pub fn check(path: &Path) -> Result<(), MediaError> {
        match AnimationFormat::of(path).is_some() || is_y4m(path) || ffmpeg::container(path).is_some() {
            true => ffmpeg::check(path),
            false => Err(MediaError::format(path, EXPECTED)),
        }
    }

    /// Writes a file whose format the extension selects: a looping animation as `gif`, `png` or `apng`, or `webp`; `y4m`; with
    /// an installed `ffmpeg` AV1 in `mp4`, `webm` or `mkv`. A `text` is stored in all of them but `y4m`, which has no place
    /// for it.
    ///
    /// # Errors
    /// If the extension is another, there are no frames, they differ in size or are too large for the format, `ffmpeg` is
    /// needed and missing, or the file cannot be written.
    pub fn write(&self, path: &Path, text: Option<&str>) -> Result<(), MediaError> {
        if let Some(format) = AnimationFormat::of(path) {
            return animation::write_with_text(path, &self.animation(), format, text);
        }
        Self::check(path)?;
        let size = animation::size_of(path, &self.frames, MOST)?;
        let y4m = y4m::encode(&self.frames, size, self.delay);
        match is_y4m(path) {
            true => store(path, &y4m),
            false => store(path, &ffmpeg::encode(path, y4m, text)?),
        }
    }

    /// Encodes as animated PNG; errors name `path`.
    ///
    /// # Errors
    /// If there are no frames, or they differ in size.
    pub fn to_png(&self, path: &Path) -> Result<Vec<u8>, MediaError> {
        animation::encode(path, &self.animation(), AnimationFormat::Apng, None)
    }

    fn animation(&self) -> Animation<'_> {
        Animation { frames: &self.frames, delay: self.delay, last_delay: self.delay }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_from_every_channel() {
        // Two channels would be neither; values count up: channel, frame, row, column.
        let values: Vec<f32> = (0..12).map(|i| i as f32 / 127.5 - 1.0).collect();
        let video = Video::from_planes([3, 2, 1, 2], &values, 40);
        assert_eq!(video.frames.len(), 2);
        assert_eq!(video.frames[0].pixels, [0, 4, 8, 1, 5, 9]);
        assert_eq!(video.frames[1].pixels, [2, 6, 10, 3, 7, 11]);
        let grey = Video::from_planes([1, 3, 2, 2], &values, 40);
        assert_eq!(grey.frames[2].pixels, [8, 8, 8, 9, 9, 9, 10, 10, 10, 11, 11, 11]);
    }

    #[test]
    fn the_extension_selects_the_format() {
        let dir = tempfile::tempdir().unwrap();
        let video = Video { frames: vec![Image::filled(2, 2, crate::Rgb([1, 2, 3])); 2], delay: 40 };
        for (name, start) in [("a.gif", &b"GIF89a"[..]), ("a.png", b"\x89PNG"), ("a.webp", b"RIFF")] {
            let path = dir.path().join(name);
            video.write(&path, Some("text")).unwrap();
            assert!(std::fs::read(&path).unwrap().starts_with(start), "{name}");
        }
        for name in ["a.png", "a.gif", "a.webp"] {
            assert_eq!(crate::read_text(&dir.path().join(name)).unwrap().as_deref(), Some("text"), "{name}");
        }
        let error = video.write(&dir.path().join("a.avi"), None).unwrap_err().to_string();
        assert!(error.contains("a.avi: expected") && error.contains(".gif"), "{error}");
    }
}
