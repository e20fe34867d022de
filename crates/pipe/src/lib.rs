//! From a request to images and other media: guidance, clamping, the sampling run, and files.
//!
//! [`Pipeline`] is a model on a device. A [`Request`] says what to make and is stored in the files, so that they can be made
//! again. [`Pipeline::prepare`] checks it and encodes its prompts: the [`Job`] holds everything that sampling needs.
//! [`Job::run`] runs one job; [`together::Together`] drives several, which share calls of the network.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod a1111;
mod cascade;
pub mod clamp;
pub mod class;
mod coding;
pub mod comparison;
mod conditions;
mod continued;
mod control;
pub mod enlarging;
mod error;
mod file;
pub mod film;
pub mod flight;
pub mod forward;
pub mod guidance;
pub mod interpolate;
mod job;
pub mod known;
pub mod media;
mod memory;
mod one_or_many;
pub mod operators;
mod parts;
mod pipeline;
pub mod posterior;
mod prepare;
pub mod prompt;
mod refine;
mod request;
mod rows;
mod run;
mod speech;
mod squashed;
pub mod study;
pub mod together;
pub mod tune;
mod utterance;
mod weighting;

pub use class::{ClassSelector, Classes};
pub use control::Control;
pub use error::PipelineError;
pub use file::{EmbeddingFile, LoraFile, RecordedFile};
pub use job::{Job, NoiseOfRows, RowsDenoiser};
pub use media::{Media, Medium};
pub use pipeline::{Inputs, LoadOptions, Pipeline};
pub use refine::{Refinement, Section};
pub use request::Request;
pub use rows::row_seed;
pub use run::{Event, Output, Preview};
pub use tweedie_media::Image;
pub use utterance::Utterance;
pub use weighting::Weighting;
