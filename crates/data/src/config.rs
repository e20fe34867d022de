//! The `[data]` table of a configuration.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use tweedie_media::Rgb;

use crate::{ClipsConfig, DataError, MovingConfig, repaint::PAINTS};

/// Source and preparation of the images.
///
/// ```toml
/// source = "emoji"            # or { folder = "pictures" }, { parquet = "train.parquet" }, { packed = "train.npz" }
/// size = 32
/// background = "#ffffff"
/// holdout = 0.05
///
/// [emoji]
/// include_flags = true
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// The collection of images.
    pub source: Source,
    /// Width and height of the images in pixels, 1 to 4096.
    pub size: usize,
    /// Image channels: 3, or 1 for grey images. With 1, colour images are converted to grey.
    pub channels: usize,
    /// Colour behind transparent pixels and around padded images.
    pub background: Rgb,
    /// How images that are not square are made square.
    pub fit: Fit,
    /// Empty border on each side, as a fraction of the side, 0 up to 0.5.
    pub margin: f64,
    /// Fraction of the items held out from training, 0 up to 1. Which ones only depends on their names.
    pub holdout: f64,
    /// What to do with an image that cannot be decoded.
    pub on_error: OnError,
    /// Decoded images are kept in memory if all of them fit in this many MiB; otherwise they are decoded when needed.
    pub cache_mb: usize,
    /// Number of images that change places: 0 for all of them, which reads in any order. With Parquet files or archives larger
    /// than memory, a number such as 10000 reads them from front to back, one part after another in a new order each epoch.
    pub shuffle: usize,
    /// With `shuffle`, MiB for encoded images of Parquet files that are read ahead.
    pub buffer_mb: usize,
    /// Used with `source = "emoji"`.
    pub emoji: EmojiConfig,
    /// Used if the source is a folder.
    pub folder: FolderConfig,
    /// Used if the source is Parquet.
    pub parquet: ParquetConfig,
    /// Used with `source = "moving_emoji"`.
    #[serde(skip_serializing_if = "MovingConfig::is_default")]
    pub moving: MovingConfig,
    /// Used for clips if the source is a folder.
    #[serde(skip_serializing_if = "ClipsConfig::is_default")]
    pub clips: ClipsConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: Source::Emoji,
            size: 32,
            channels: 3,
            background: Rgb([255; 3]),
            fit: Fit::Crop,
            margin: 0.0,
            holdout: 0.05,
            on_error: OnError::Skip,
            cache_mb: 1024,
            shuffle: 0,
            buffer_mb: 1024,
            emoji: EmojiConfig::default(),
            folder: FolderConfig::default(),
            parquet: ParquetConfig::default(),
            moving: MovingConfig::default(),
            clips: ClipsConfig::default(),
        }
    }
}

impl DataConfig {
    /// Checks all values.
    ///
    /// # Errors
    /// [`DataError::Config`] naming the key and the allowed values.
    pub fn validate(&self) -> Result<(), DataError> {
        let wrong = |key, value: String, expected| Err(DataError::Config { key, value, expected });
        if !(1..=4096).contains(&self.size) {
            return wrong("data.size", self.size.to_string(), "1 to 4096 pixels");
        }
        if ![1, 3].contains(&self.channels) {
            return wrong("channels", self.channels.to_string(), "3, or 1 for grey images");
        }
        if !(0.0..0.5).contains(&self.margin) {
            return wrong("data.margin", self.margin.to_string(), "a fraction ≥ 0 and < 0.5");
        }
        if self.shuffle > 0 && matches!(self.source, Source::Emoji | Source::Folder(_)) {
            return wrong(
                "data.shuffle",
                self.shuffle.to_string(),
                "0, because this source can be read in any order",
            );
        }
        if !(0.0..1.0).contains(&self.holdout) {
            return wrong("data.holdout", self.holdout.to_string(), "a fraction ≥ 0 and < 1");
        }
        if self.emoji.repainted > PAINTS.len() {
            return wrong("emoji.repainted", self.emoji.repainted.to_string(), "0 to 8 colours");
        }
        self.moving.validate()?;
        self.clips.validate()
    }

    /// Number and rate of the frames of a clip that is a sample.
    pub fn window(&self) -> ClipsConfig {
        match self.source {
            Source::MovingEmoji => ClipsConfig { frames: self.moving.frames, fps: self.moving.fps },
            _ => self.clips.clone(),
        }
    }
}

/// A collection of images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The built-in Twemoji artwork. Classes are the emoji's subgroups, captions their names.
    #[default]
    Emoji,
    /// Clips of emoji that move by known laws. As images, one frame of each.
    MovingEmoji,
    /// A folder of png, jpeg, gif, bmp, webp and tiff files, at any depth.
    Folder(PathBuf),
    /// A Parquet file with encoded images in the format of Hugging Face datasets, or a folder of such files.
    Parquet(PathBuf),
    /// A data set as it is downloaded: a zip or tar archive of images (gzipped or not), a folder of tar archives (as of
    /// WebDataset, with `.txt`, `.cls` or `.json` beside each image), or arrays in IDX, CIFAR's
    /// binary batches, NPY or NPZ, in one file, an archive or a folder. Its contents decide which.
    Packed(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Emoji => f.write_str("emoji"),
            Self::MovingEmoji => f.write_str("moving-emoji"),
            Self::Folder(path) | Self::Parquet(path) | Self::Packed(path) => path.display().fmt(f),
        }
    }
}

/// Which emoji are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmojiConfig {
    /// The meaning of the classes.
    pub classes: EmojiClasses,
    /// Include the five skin tones (and mixed pairs) besides the default yellow.
    pub include_skin_tones: bool,
    /// Include the group Flags.
    pub include_flags: bool,
    /// Include keycaps, in the group Symbols.
    pub include_keycaps: bool,
    /// Names of emoji that are held out from training, besides the fraction `holdout`.
    pub holdout_names: Vec<String>,
    /// Only use these groups, for example `"Food & Drink"` (or `"Flags"`); all if empty.
    pub groups: Vec<String>,
    /// Number of copies of each emoji in other colours, which their captions name: `blue cat face`. Which of the eight
    /// colours only depends on the emoji's name, so that captions with its other colours stay unseen. 0 to 8.
    #[serde(skip_serializing_if = "is_zero")]
    pub repainted: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Unicode's two classifications of emoji.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmojiClasses {
    /// Nine groups, for example `Animals & Nature`.
    Group,
    /// About a hundred subgroups of those, for example `animal-bird`.
    #[default]
    Subgroup,
}

/// How a folder is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FolderConfig {
    /// Whether first-level subfolders are classes, in sorted order; of an archive, too.
    pub classes: bool,
    /// A captions file, relative to the folder: JSON lines `{"file_name": ..., "text": ...}`, a `.csv` with these columns, or a
    /// `.txt` (also `.txt.gz`) with lines `name: text`, of which the names have no extension.
    /// By default `metadata.csv`, `metadata.jsonl` and `captions.jsonl` are used if they exist, otherwise a `.txt` beside
    /// each image.
    pub captions: Option<PathBuf>,
}

impl Default for FolderConfig {
    fn default() -> Self {
        Self { classes: true, captions: None }
    }
}

/// The columns of a Parquet file. By default the usual names are used; a given column must exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ParquetConfig {
    /// Encoded images: a struct with the field `bytes`, or plain binary. Usually `image` or `img`.
    pub image: Option<String>,
    /// Integer classes. Usually `label`.
    pub label: Option<String>,
    /// Captions. Usually `text` or `caption`.
    pub text: Option<String>,
}

/// How rectangles are made square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Crop to the largest central square.
    #[default]
    Crop,
    /// Pad the whole image with background, centred.
    Pad,
    /// Stretch the whole image.
    Stretch,
}

/// What to do with an image that cannot be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Skip it, and list it in [`Dataset::skipped`](crate::Dataset::skipped).
    #[default]
    Skip,
    /// Fail.
    Fail,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_round_trip_and_sources() {
        let config = DataConfig { source: Source::Folder("a/b".into()), ..DataConfig::default() };
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<DataConfig>(&text).unwrap(), config);
        let read = |text| toml::from_str::<DataConfig>(text);
        assert_eq!(read("source = \"emoji\"").unwrap(), DataConfig::default());
        let parquet = read("source = { parquet = \"x.parquet\" }\nbackground = \"#102030\"").unwrap();
        assert_eq!(parquet.source, Source::Parquet("x.parquet".into()));
        assert_eq!(parquet.background, Rgb([16, 32, 48]));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        let error = |text| toml::from_str::<DataConfig>(text).unwrap_err().to_string();
        assert!(error("sizes = 3").contains("sizes"));
        assert!(error("[emoji]\nflags = true").contains("flags"));
        assert!(error("background = \"white\"").contains("invalid colour `white`"));
        assert!(error("source = { folders = \"x\" }").contains("folders"));
        let config = DataConfig { holdout: f64::NAN, ..DataConfig::default() };
        assert!(config.validate().unwrap_err().to_string().starts_with("data.holdout = NaN"));
    }
}
