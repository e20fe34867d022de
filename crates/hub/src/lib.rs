//! Model files: weights, configurations, and the folders that hold them, in the layout of Hugging
//! Face's diffusers.

pub mod error;
pub mod files;
mod map;
pub mod weights;

pub use error::HubError;
