//! Measuring what a model learned.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bound;
pub mod metrics;
pub mod neighbours;
