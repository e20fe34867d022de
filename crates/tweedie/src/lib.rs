//! Train, sample and evaluate diffusion models.
//!
//! This crate re-exports the project's crates:
//!
//! | module | contents |
//! |---|---|
//! | [`core`] | noise levels, schedules, plans, solvers, the sampling loop: mathematics without tensors |
//! | [`ops`] | tensor operations and devices |
//! | [`models`] | networks with diffusers' tensor names |
//! | [`hub`] | model folders, safetensors, scheduler configurations |
//! | [`media`] | images, audio and video, and their files |
//! | [`data`] | data sets, decoding, augmentation |
//! | [`pipe`] | pipelines: from a request to images |
//! | [`train`] | losses, optimizer, checkpoints, the training loop |
//! | [`eval`] | evaluation of models |
//! | [`builtin`] | the model that is part of the binary |
//! | [`library`] | models by name |
//! | `mpi` | several processes under `mpirun`, with the feature `mpi` |

pub mod builtin;
pub mod library;
#[cfg(feature = "mpi")]
pub mod mpi;

pub use tweedie_core as core;
pub use tweedie_data as data;
pub use tweedie_eval as eval;
pub use tweedie_hub as hub;
pub use tweedie_media as media;
pub use tweedie_models as models;
pub use tweedie_ops as ops;
pub use tweedie_pipe as pipe;
pub use tweedie_train as train;

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
