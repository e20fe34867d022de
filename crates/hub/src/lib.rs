//! Model files: weights, configurations, and their folders in the layout of Hugging Face's diffusers.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cache;
pub mod clip;
pub mod component;
pub mod encoder;
pub mod error;
pub mod files;
pub mod image_processor;
pub mod learned;
pub mod lora;
pub mod model;
pub mod model_dir;
pub mod model_index;
pub mod original;
pub mod scheduler_config;
pub mod tokenizer;
pub mod variants;
pub mod weights;

pub use clip::{Clip, ImageEncoder};
pub use component::{Component, ComponentDir};
pub use error::HubError;
pub use image_processor::ImageProcessor;
pub use learned::LearnedToken;
pub use lora::Lora;
pub use model::{
    Maps, Model, PIPELINES, PipelineKind, SmallImage, SmallMap, SoundText, Sounds, StableDiffusion, TextPart,
    Umt5, UnClip, UnClipParts,
};
pub use model_dir::{Enlarging, Extras, ModelDir, SamplingDefaults, Speech, Tuned, extras_in};
pub use original::{OriginalCheckpoint, Prediction};
pub use scheduler_config::{Recipe, Sampling, SchedulerConfig};
pub use tokenizer::{ClipTokenizer, RobertaTokenizer, UnigramTokenizer};
pub use weights::{Precision, SafetensorsFile};
