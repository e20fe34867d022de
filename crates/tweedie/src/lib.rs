//! Diffusion models in Rust: train, sample and evaluate them, with no Python.
//!
//! This crate gathers the project's crates under one name:
//!
//! | module | holds |
//! |---|---|
//! | [`core`] | noise levels, schedules, plans, solvers, the sampling loop: plain mathematics |
//! | [`ops`] | tensor operations and devices |
//! | [`models`] | the networks, with the tensor names of diffusers |
//! | [`hub`] | model folders, safetensors, scheduler configurations |
//! | [`data`] | data sets, decoding, augmentation |
//! | [`pipe`] | pipelines: from a request to pictures |
//! | [`train`] | losses, optimizer, exact checkpoints, the training loop |
//! | [`eval`] | measuring what a model learned |

pub use tweedie_core as core;
pub use tweedie_data as data;
pub use tweedie_eval as eval;
pub use tweedie_hub as hub;
pub use tweedie_models as models;
pub use tweedie_ops as ops;
pub use tweedie_pipe as pipe;
pub use tweedie_train as train;

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
