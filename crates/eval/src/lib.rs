//! Evaluation of models.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bound;
pub mod clips;
pub mod compare;
pub mod enlarging;
pub mod extract;
pub mod metrics;
pub mod neighbours;
pub mod quality;
pub mod recognizer;
pub mod report;
pub mod sweep;
