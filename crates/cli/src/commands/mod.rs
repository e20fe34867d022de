//! One file per subcommand.

mod answers;
mod bench;
mod compare;
mod completions;
mod convert;
mod data;
mod debug;
mod devices;
mod edit;
mod ema;
mod eval;
mod forward;
mod info;
mod interpolate;
mod models;
mod plan;
mod restore;
mod sample;
#[cfg(feature = "serve")]
mod serve;
mod train;
mod tune;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{team::Team, ui::Ui};

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Sample images with the built-in model or your own.
    Sample(Box<sample::Args>),
    /// Change a part of an image: fill a mask, extend the border, or follow the image with a lower strength.
    ///
    /// Every value outside the mask stays as it is, in 8 or 16 bits and with transparency.
    Edit(Box<edit::Args>),
    /// Restore an image: enlarge it, sharpen a blur, bring back colours, clean JPEG, remove scratches.
    ///
    /// The result agrees with the image: degraded again in the same way, it is the image.
    Restore(Box<restore::Args>),
    /// Train a model on the built-in emoji or your own images.
    Train(train::Args),
    /// Compute averaged weights of any length after training.
    Ema(ema::Args),
    /// Interpolate between seeds or images.
    ///
    /// Images are encoded as noise first.
    Interpolate(interpolate::Args),
    /// Learn a sampler with few evaluations for a model, and store it in the model folder.
    #[command(name = "tune-steps")]
    Tune(tune::Args),
    /// Evaluate a model: image quality, memorization, bits per dimension (--bound).
    Eval(eval::Args),
    /// Compare solvers: a grid of images, and the error and time of each.
    Compare(compare::Args),
    /// Benchmark this machine: kernels, forward passes, training steps, sampling, start-up, memory.
    Bench(bench::Args),
    /// Convert a single-file checkpoint to a diffusers folder, or merge LoRAs.
    Convert(convert::Args),
    /// Show what a model folder contains.
    Info(info::Args),
    /// Serve models over HTTP: a web page, and APIs for many clients at once.
    #[cfg(feature = "serve")]
    Serve(Box<serve::Args>),
    /// List the models that can be selected by name, and the folders that are searched.
    Models,
    /// Print the noise levels of a sampling run.
    Plan(plan::Args),
    /// Show how the forward process turns an image into noise.
    Forward(forward::Args),
    /// Show a data set: counts, classes, a grid of images.
    Data(data::Args),
    /// List the devices of this build.
    Devices,
    /// Print shell completions.
    Completions(completions::Args),
    /// Run one component on given tensors, to compare it with another implementation.
    #[command(subcommand)]
    Debug(debug::Command),
}

impl Command {
    /// Runs the command. An exit code other than 0 means that it was interrupted.
    pub fn run(self, ui: Ui, named: Option<&str>, team: &Team) -> anyhow::Result<ExitCode> {
        let device = named.unwrap_or("cpu");
        let shares = matches!(self, Self::Sample(_) | Self::Train(_) | Self::Eval(_));
        if team.is_shared() && !shares {
            anyhow::bail!(
                "this command runs in one process; mpirun and srun can only share train, sample and eval"
            );
        }
        match self {
            Self::Sample(args) => return sample::run(*args, ui, device, team),
            #[cfg(feature = "serve")]
            Self::Serve(args) => return serve::run(*args, ui, device),
            Self::Edit(args) => return edit::run(*args, ui, device),
            Self::Restore(args) => return restore::run(*args, ui, device),
            Self::Train(args) => return train::run(args, ui, named, team),
            Self::Interpolate(args) => return interpolate::run(args, ui, device),
            Self::Compare(args) => return compare::run(args, ui, device),
            Self::Tune(args) => return tune::run(args, ui, device),
            Self::Ema(args) => ema::run(args, ui, device)?,
            Self::Eval(args) => eval::run(args, ui, device, team)?,
            Self::Bench(args) => bench::run(args, ui, device)?,
            Self::Convert(args) => convert::run(args, ui)?,
            Self::Info(args) => info::run(args, ui)?,
            Self::Models => models::run(ui)?,
            Self::Plan(args) => plan::run(args, ui)?,
            Self::Forward(args) => forward::run(args, ui, device)?,
            Self::Data(args) => data::run(args, ui)?,
            Self::Devices => devices::run(ui)?,
            Self::Completions(args) => completions::run(args),
            Self::Debug(command) => debug::run(command, ui, device)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
