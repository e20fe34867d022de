//! Data sets of images, sounds and clips: sources, decoding, order and augmentation. This crate does not depend on models.
//!
//! - [`Dataset`]: the built-in emoji, a folder of images, Parquet files, archives or arrays, decoded to square images of
//!   one size.
//! - [`Order`]: the endless shuffled stream of indices, a pure function of the seed and the position.
//! - [`CaptionConfig`]: from [`Words`] to a text, a pure function of the seed and the position.
//! - [`augment()`]: from an [`Image`] to a training sample, a pure function of the seed and the position.
//! - [`Stream`]: all of these together; a training run resumes from one integer.
//!
//! ```
//! use tweedie_data::{DataConfig, Dataset};
//!
//! let emoji = Dataset::open(&DataConfig { size: 16, ..DataConfig::default() })?;
//! let first = emoji.get(0)?;
//! assert_eq!(first.words.caption.as_deref(), Some("grinning face"));
//! assert_eq!((first.sample.width, first.sample.height), (16, 16));
//! # Ok::<(), tweedie_data::DataError>(())
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod augment;
mod budget;
mod buffer;
mod caption;
pub mod clip;
mod color;
mod config;
mod dataset;
mod decode;
mod edm;
mod emoji;
mod emoji_subgroups;
mod error;
mod film;
mod folder;
mod form;
mod guard;
pub mod moving;
mod order;
mod packed;
mod parquet;
mod repaint;
mod resize;
mod source;
mod stream;
mod warp;

pub use crate::{
    augment::{AugmentConfig, augment},
    buffer::BufferUse,
    caption::{CaptionConfig, NoCaption, Words},
    color::JitterConfig,
    config::{DataConfig, EmojiClasses, EmojiConfig, Fit, FolderConfig, OnError, ParquetConfig, Source},
    dataset::{
        Dataset, ImageFacts, Item, SoundSurvey, Survey, counted_endings, fitted, image_facts, open_image,
        open_picture, open_sized, survey, survey_sounds,
    },
    edm::{EDM_LABELS, EdmConfig},
    emoji::ATTRIBUTION as EMOJI_ATTRIBUTION,
    error::{DataError, Skipped},
    film::{Clips, ClipsConfig, Film, FilmFacts},
    form::{Content, Decode, Label, Sounds},
    guard::is_guarded,
    moving::MovingConfig,
    order::Order,
    packed::is_packed,
    resize::{Frame, Raster},
    stream::{Batch, Stream},
    warp::Padding,
};
pub use tweedie_media::{Audio, Depth, Image, MediaError, Picture, Rgb, Video, grid};
