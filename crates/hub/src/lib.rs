//! Model files: weights, configurations, and the folders that hold them, in the layout of Hugging
//! Face's diffusers.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod error;
pub mod files;
pub mod model_dir;
pub mod model_index;
pub mod scheduler_config;
pub mod weights;

pub use error::HubError;
pub use model_dir::{Extras, ModelDir, SamplingDefaults, Tuned};
pub use scheduler_config::{Recipe, Sampling, SchedulerConfig};
pub use weights::{Precision, SafetensorsFile};
