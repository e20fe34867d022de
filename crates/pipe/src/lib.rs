//! From a request to images: guidance, clamping, the sampling run, and image files.
//!
//! [`Pipeline`] is a model folder on a device. A [`Request`] says what to make and is stored in the image files, so that
//! they can be made again.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod clamp;
pub mod class;
mod denoiser;
mod error;
pub mod film;
pub mod forward;
pub mod guidance;
pub mod interpolate;
pub mod latent;
pub mod media;
mod memory;
mod one_or_many;
mod pipeline;
mod request;
mod rows;
pub mod study;
pub mod tune;
mod watch;

pub use class::{ClassSelector, Classes};
pub use error::PipelineError;
pub use latent::{LatentPipeline, LatentPlan};
pub use pipeline::{Event, NoiseOfRows, Output, Pipeline, Preview};
pub use request::{Request, Resolved};
pub use rows::row_seed;
pub use tweedie_data::Image;
pub use watch::{Cancellable, Finite};
