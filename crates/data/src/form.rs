//! What the items of a collection are, and how they are decoded.

use std::path::Path;

use tweedie_media::{Audio, Image, MediaError, decode_wav};

use crate::{
    decode::{self, EXTENSIONS},
    resize::{Frame, Raster, fit},
};

/// The content of an item, as its collection stores it.
pub enum Content<'a> {
    /// The bytes of a file.
    Encoded(&'a [u8]),
    /// A row of an array of images.
    Pixels(Raster),
}

/// How the items of a collection are decoded: one implementation for each medium.
pub trait Decode: Send + Sync + 'static {
    /// A decoded item.
    type Sample: Send + Sync + 'static;

    /// What items are called in messages, in the plural.
    fn noun(&self) -> &'static str;

    /// Extensions of their files, in lower case and without the dot.
    fn endings(&self) -> &'static [&'static str];

    /// Whether a file with another extension is one, judged by its content.
    fn recognizes(&self, path: &Path) -> bool;

    /// Decodes an item.
    ///
    /// # Errors
    /// Says why it cannot be decoded.
    fn decode(&self, content: Content<'_>) -> Result<Self::Sample, String>;

    /// Memory of a decoded item in bytes, if all have the same; otherwise items are decoded whenever they are needed.
    fn bytes(&self) -> Option<usize>;
}

/// Images, brought to squares of one size.
impl Decode for Frame {
    type Sample = Image;

    fn noun(&self) -> &'static str {
        "images"
    }

    fn endings(&self) -> &'static [&'static str] {
        &EXTENSIONS
    }

    fn recognizes(&self, path: &Path) -> bool {
        decode::is_image(path)
    }

    fn decode(&self, content: Content<'_>) -> Result<Image, String> {
        Ok(fit(&raster(content)?, self))
    }

    fn bytes(&self) -> Option<usize> {
        Some(3 * self.size * self.size + 64)
    }
}

/// The image of an item, as it is.
pub(crate) fn raster(content: Content<'_>) -> Result<Raster, String> {
    match content {
        Content::Encoded(bytes) => decode::bytes(bytes),
        Content::Pixels(raster) => Ok(raster),
    }
}

/// Sounds of any length, rate and number of channels: WAV files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sounds;

impl Decode for Sounds {
    type Sample = Audio;

    fn noun(&self) -> &'static str {
        "sounds"
    }

    fn endings(&self) -> &'static [&'static str] {
        &["wav"]
    }

    fn recognizes(&self, _: &Path) -> bool {
        false
    }

    fn decode(&self, content: Content<'_>) -> Result<Audio, String> {
        let Content::Encoded(bytes) = content else {
            return Err("it is an array of pixels, not a sound".into());
        };
        let audio = decode_wav(bytes).map_err(|e| match e {
            MediaError::Format { reason, .. } => reason,
            other => other.to_string(),
        })?;
        match (audio.is_empty(), audio.channels.iter().flatten().all(|v| v.is_finite())) {
            (true, _) => Err("the sound has no values".into()),
            (_, false) => Err("the sound has values that are not finite".into()),
            _ => Ok(audio),
        }
    }

    fn bytes(&self) -> Option<usize> {
        None
    }
}
