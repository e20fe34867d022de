//! One file per subcommand.

mod bench;
mod compare;
mod completions;
mod convert;
mod data;
mod debug;
mod devices;
mod ema;
mod eval;
mod forward;
mod info;
mod interpolate;
mod plan;
mod sample;
mod train;
mod tune;

use std::process::ExitCode;

use clap::Subcommand;

use crate::ui::Ui;

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make pictures from noise, with the built-in model or your own.
    Sample(Box<sample::Args>),
    /// Train a model on the built-in emoji or your own pictures.
    Train(train::Args),
    /// Average a run's weights over any length, after training.
    Ema(ema::Args),
    /// Go from one picture to another through noise; pictures of yours are encoded to noise first.
    ///
    /// For models that diffuse the pixels themselves, not latents.
    Interpolate(interpolate::Args),
    /// Learn a sampler of few evaluations for a model, and keep it beside the model.
    ///
    /// For models that diffuse the pixels themselves, not latents.
    #[command(name = "tune-steps")]
    Tune(tune::Args),
    /// Measure a model: quality of its pictures, memorisation, bits per dimension (--bound).
    Eval(eval::Args),
    /// Set solvers side by side: one sheet of pictures, the error of each, and its time.
    ///
    /// For models that diffuse the pixels themselves, not latents.
    Compare(compare::Args),
    /// Measure this machine: kernels, forward passes, training steps, sampling, start-up, memory.
    Bench(bench::Args),
    /// Write a model in one file, or with low-rank changes, as a folder of diffusers.
    Convert(convert::Args),
    /// Show what a model folder holds.
    Info(info::Args),
    /// Print the noise levels that a sampling run would visit.
    Plan(plan::Args),
    /// Draw how the forward process turns your picture into noise.
    Forward(forward::Args),
    /// Show a data set: counts, classes, a sheet of pictures.
    Data(data::Args),
    /// List the devices of this build.
    Devices,
    /// Print shell completions.
    Completions(completions::Args),
    /// Run one component on given tensors, to hold it against a peer.
    #[command(subcommand)]
    Debug(debug::Command),
}

impl Command {
    /// Runs the command; an exit code other than 0 means that it was interrupted.
    pub fn run(self, ui: Ui, named: Option<&str>) -> anyhow::Result<ExitCode> {
        let device = named.unwrap_or("cpu");
        match self {
            Self::Sample(args) => return sample::run(*args, ui, device),
            Self::Train(args) => return train::run(args, ui, named),
            Self::Interpolate(args) => return interpolate::run(args, ui, device),
            Self::Compare(args) => return compare::run(args, ui, device),
            Self::Tune(args) => return tune::run(args, ui, device),
            Self::Ema(args) => ema::run(args, ui, device)?,
            Self::Eval(args) => eval::run(args, ui, device)?,
            Self::Bench(args) => bench::run(args, ui, device)?,
            Self::Convert(args) => convert::run(args, ui)?,
            Self::Info(args) => info::run(args, ui)?,
            Self::Plan(args) => plan::run(args, ui)?,
            Self::Forward(args) => forward::run(args, ui)?,
            Self::Data(args) => data::run(args, ui)?,
            Self::Devices => devices::run(ui)?,
            Self::Completions(args) => completions::run(args),
            Self::Debug(command) => debug::run(command, ui, device)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
