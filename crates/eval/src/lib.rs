//! Measuring what a model learned.

pub mod neighbours;
