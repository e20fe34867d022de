//! Images within files.

use crate::{
    form::Content,
    packed::members::{Files, Member},
    resize::Raster,
};

/// An image, as a stretch of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(super) file: usize,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) form: Form,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// An image file; of so many bytes once inflated, if it is deflated.
    File { inflated: Option<u64> },
    /// Bytes of pixels.
    Pixels(Pixels),
}

/// The layout of pixels, one byte per value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    pub width: usize,
    pub height: usize,
    /// 1 for grey, 3, or 4 with transparency.
    pub channels: usize,
    /// One channel after the other, instead of pixel after pixel.
    pub planar: bool,
}

impl Pixels {
    /// Bytes of an image, as far as there can be so many.
    pub fn bytes(&self) -> Result<u64, String> {
        let Self { width, height, channels, .. } = *self;
        if width == 0 || height == 0 || width > 32_768 || height > 32_768 {
            return Err(format!(
                "its header gives images of {width}×{height} pixels, expected 1 to 32768 a side"
            ));
        }
        Ok(width as u64 * height as u64 * channels as u64)
    }

    fn raster(&self, bytes: &[u8]) -> Raster {
        let area = self.width * self.height;
        let value = |at: usize, channel: usize| match self.planar {
            true => bytes[channel * area + at],
            false => bytes[at * self.channels + channel],
        };
        let pixel = |at: usize| match self.channels {
            1 => [value(at, 0), value(at, 0), value(at, 0), 255],
            3 => [value(at, 0), value(at, 1), value(at, 2), 255],
            _ => [value(at, 0), value(at, 1), value(at, 2), value(at, 3)],
        };
        Raster {
            width: self.width,
            height: self.height,
            rgba: (0..area).flat_map(pixel).collect(),
            _lent: None,
        }
    }
}

impl Stretch {
    /// A member that is an image file.
    pub(super) fn file(member: &Member) -> Self {
        let Member { file, start, len, inflated, .. } = *member;
        Self { file, start, len, form: Form::File { inflated } }
    }

    /// The file, and the part of it: as long as disks read at once without losing time to seeking.
    pub(crate) fn run(&self) -> [usize; 2] {
        const BYTES: u64 = 16 << 20;
        [self.file, (self.start / BYTES) as usize]
    }

    /// Applies `decode` to the content.
    pub(crate) fn decode<T>(
        &self,
        files: &Files,
        decode: impl FnOnce(Content<'_>) -> Result<T, String>,
    ) -> Result<T, String> {
        let bytes = files.read(self.file, self.start, self.len)?;
        match self.form {
            Form::Pixels(pixels) => decode(Content::Pixels(pixels.raster(&bytes))),
            Form::File { inflated: None } => decode(Content::Encoded(&bytes)),
            Form::File { inflated: Some(len) } => {
                decode(Content::Encoded(&super::members::inflate(&bytes, len)?))
            }
        }
    }
}

/// `count` images in a row, called by their number.
pub(super) fn row(
    name: &str,
    file: usize,
    [start, step]: [u64; 2],
    count: usize,
    pixels: Pixels,
) -> Result<Vec<(String, Stretch)>, String> {
    let len = pixels.bytes()?;
    let stretch =
        |i: usize| Stretch { file, start: start + i as u64 * step, len, form: Form::Pixels(pixels) };
    Ok((0..count).map(|i| (format!("{name}#{i}"), stretch(i))).collect())
}
