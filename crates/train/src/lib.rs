//! Trains diffusion models: a [`RunConfig`] in, a [`TrainLoop`] to iterate over, a diffusers folder out.
//!
//! Equal configurations give equal bits on the same machine, whether a run was interrupted or not. Weights, their averages,
//! the optimizer's running means and the step are the whole state; all randomness is a pure function of the seed and the
//! step.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod autoencoder;
mod batches;
pub mod checkpoint;
mod clip;
mod config;
mod diffusion;
mod dry_run;
pub mod ema;
mod error;
mod event;
mod export;
mod gradients;
mod importance;
mod init;
mod keys;
mod learning_rate;
mod lock;
mod log;
mod loss;
mod model;
mod objective;
pub mod optim;
mod plot;
pub mod post_hoc;
mod prefetch;
mod preview;
mod run;
mod share;
mod sound;
mod source;
mod super_resolution;
mod task;
mod tensorboard;
mod text;
mod time_sampler;
mod unclip;
mod video;
mod wave;

pub use autoencoder::{AdversarialConfig, Reconstruction, VaeConfig};
pub use checkpoint::{Checkpoint, State};
pub use clip::ClipConfig;
pub use config::{Choice, Conditioning, ConfigBuilder, PRESETS, Preset, Run, RunConfig, Suited, preset};
pub use diffusion::{DiffusionConfig, Output, Process};
pub use dry_run::{DryRun, Memory, dry_run};
pub use ema::{EmaConfig, EmaKind};
pub use error::TrainError;
pub use event::{Figure, Step, Summary, TrainEvent};
pub use init::task_of;
pub use learning_rate::{Decay, LearningRateConfig};
pub use loss::{LossConfig, Weighting, WeightingKind};
pub use model::{CompactUNet, ModelConfig};
pub use objective::ObjectiveKind;
pub use optim::OptimizerConfig;
pub use run::{StopHandle, TrainLoop};
pub use sound::SoundConfig;
pub use task::TaskKind;
pub use text::{LatentConfig, TextConfig};
pub use time_sampler::{Draw, TimeSampler, TimeSampling};
pub use unclip::{PriorTable, UnClipConfig};
pub use wave::WaveConfig;
