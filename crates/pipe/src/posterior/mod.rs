//! Samples given what is known of them, from any model and without training.

mod method;
mod replacement;

pub use method::{METHODS, Method};
pub(crate) use replacement::Replacement;
