//! What the items of a collection are, and how they are decoded.

use std::path::Path;

use tweedie_media::{Audio, Image, Rgb, SOUND_ENDINGS, decode_sound};

use crate::{
    decode::{self, EXTENSIONS},
    guard::guarded,
    moving::Scene,
    resize::{Frame, Raster, fit},
};

/// The content of an item, as its collection stores it.
pub enum Content<'a> {
    /// The bytes of a file.
    Encoded(&'a [u8]),
    /// A file, or a folder that is one item, if [`Decode::opens_files`].
    File(&'a Path),
    /// A row of an array of images.
    Pixels(Raster),
    /// A clip that is drawn when it is needed.
    Moving(&'a Scene),
}

/// What the name of a file says of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// A description.
    pub caption: String,
    /// Its category, such as the speaker.
    pub kind: String,
    /// Whether the collection's own split keeps it for testing.
    pub held_out: bool,
}

/// How the items of a collection are decoded: one implementation for each medium.
pub trait Decode: Send + Sync + 'static {
    /// A decoded item.
    type Sample: Send + Sync + 'static;

    /// What items are called in messages, in the plural.
    fn noun(&self) -> &'static str;

    /// What one of them is called.
    fn one(&self) -> &'static str {
        self.noun().strip_suffix('s').unwrap_or(self.noun())
    }

    /// Extensions of their files, in lower case and without the dot.
    fn endings(&self) -> &'static [&'static str];

    /// Whether a file with another extension is one, judged by its content.
    fn recognizes(&self, path: &Path) -> bool;

    /// Whether it gets the path of a file instead of its bytes, which may be more than memory.
    fn opens_files(&self) -> bool {
        false
    }

    /// Whether a folder as a whole is an item.
    fn takes_folder(&self, _: &Path) -> bool {
        false
    }

    /// Decodes an item.
    ///
    /// # Errors
    /// Says why it cannot be decoded.
    fn decode(&self, content: Content<'_>) -> Result<Self::Sample, String>;

    /// What the names of all files of a folder say of their contents, if it is a collection that is known by them: its name, and
    /// a label for each stem. Files with captions of their own do not ask.
    fn told_by_names(&self, _: &[&str]) -> Option<(&'static str, Vec<Label>)> {
        None
    }

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
        match content {
            Content::Moving(scene) => Ok(scene.still(self.size, self.background)),
            other => Ok(fit(&raster(other)?, self)),
        }
    }

    fn bytes(&self) -> Option<usize> {
        Some(3 * self.size * self.size + 64)
    }
}

/// Side at which moving things are drawn where no size is asked for.
const DRAWN: usize = 64;

/// The image of an item, as it is.
pub(crate) fn raster(content: Content<'_>) -> Result<Raster, String> {
    match content {
        Content::Encoded(bytes) => decode::bytes(bytes),
        Content::File(path) => decode::file(path),
        Content::Pixels(raster) => Ok(raster),
        Content::Moving(scene) => Ok(Raster::opaque(&scene.still(DRAWN, Rgb([255; 3])))),
    }
}

/// Sounds of any rate and number of channels: WAV, FLAC, Ogg Vorbis, MP3 and AAC files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sounds;

impl Decode for Sounds {
    type Sample = Audio;

    fn noun(&self) -> &'static str {
        "sounds"
    }

    fn endings(&self) -> &'static [&'static str] {
        &SOUND_ENDINGS
    }

    fn recognizes(&self, _: &Path) -> bool {
        false
    }

    fn decode(&self, content: Content<'_>) -> Result<Audio, String> {
        let Content::Encoded(bytes) = content else {
            return Err("it is a picture, not a sound".into());
        };
        let decoded = guarded("the decoder failed", || decode_sound(bytes).map_err(|e| e.to_string()));
        let audio = decoded.map_err(|e| e.strip_prefix("the sound: ").unwrap_or(&e).to_owned())?;
        match (audio.is_empty(), audio.channels.iter().flatten().all(|v| v.is_finite())) {
            (true, _) => Err("the sound has no values".into()),
            (_, false) => Err("the sound has values that are not finite".into()),
            _ => Ok(audio),
        }
    }

    fn told_by_names(&self, stems: &[&str]) -> Option<(&'static str, Vec<Label>)> {
        let labels: Option<Vec<Label>> = stems.iter().map(|stem| spoken_digit(stem)).collect();
        Some(("Free Spoken Digit Dataset", labels.filter(|labels| !labels.is_empty())?))
    }

    fn bytes(&self) -> Option<usize> {
        None
    }
}

/// A name of the Free Spoken Digit Dataset, `7_jackson_32`: digit, speaker and number of the recording. Its documentation keeps
/// the numbers 0 to 4 for testing.
fn spoken_digit(stem: &str) -> Option<Label> {
    const DIGITS: [&str; 10] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let mut parts = stem.split('_');
    let (Some(digit), Some(speaker), Some(number), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let caption = DIGITS.get(digit.parse::<usize>().ok().filter(|_| digit.len() == 1)?)?;
    let named = !speaker.is_empty() && speaker.bytes().all(|b| b.is_ascii_lowercase());
    let number: usize = number.parse().ok().filter(|_| named)?;
    Some(Label { caption: (*caption).to_owned(), kind: speaker.to_owned(), held_out: number < 5 })
}
