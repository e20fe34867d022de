//! `tweedie debug`.

mod network;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use tweedie::{
    core::noise::{Noise, SeededNoise},
    hub::{SafetensorsFile, Sampling, SchedulerConfig, scheduler_config::Recipe, weights},
    models::{HostTensor, TensorSource},
};

use super::sample::check_place;
use crate::{model, tensors, ui::Ui};

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a network once on given tensors: a U-Net, a diffusion transformer, an autoencoder or a text encoder.
    ///
    /// Tensors are named like the arguments in diffusers.
    Run(RunArgs),
    /// Run a diffusers scheduler configuration on a tensor, with eps(x, t) = x·t/(t+1) as the network.
    ///
    /// The formula is used as the network's output for any `prediction_type`. Samples have the scale of diffusers'
    /// scheduler: row 0 is the input of its first `step`, row k the result of its k-th call.
    Trajectory(TrajectoryArgs),
}

#[derive(ClapArgs, Debug)]
pub struct RunArgs {
    /// Model folder, or folder with a single component.
    model: PathBuf,
    /// Safetensors file with the inputs. Denoising networks need `sample` [B, C, H, W] and `timestep` ([] or [B]), and
    /// depending on the network `class_labels` [B], `encoder_hidden_states` [B, T, width],
    /// `added_cond_kwargs.text_embeds` [B, width] and `added_cond_kwargs.time_ids` [B, n]. Autoencoders need `sample`,
    /// `latents` or both, text encoders `input_ids` [B, T].
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// File to write. It contains `sample`; for an autoencoder `latent_mean`, `latent_logvar` and `decoded` (of `latents`
    /// or else of the mean); for a text encoder `last_hidden_state`, `penultimate_hidden_state` and `pooler_output` or
    /// `text_embeds`.
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
}

#[derive(ClapArgs, Debug)]
pub struct TrajectoryArgs {
    /// Path of a `scheduler_config.json`.
    #[arg(long, value_name = "FILE")]
    scheduler_config: PathBuf,
    /// Number of steps, as in diffusers' `set_timesteps`.
    #[arg(long, value_name = "N")]
    steps: usize,
    /// Safetensors file with `sample` [B, ...] and, for stochastic schedulers, `noise` [K, B, ...], one standard normal per
    /// step. Without `noise` it is drawn from the seed.
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// File to write: `timesteps` [n], the timestep of each evaluation, and `trajectory` [n + 1, B, ...], the sample before
    /// each evaluation and at the end.
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// Start at this step of the schedule, as in diffusers' `set_begin_index`.
    #[arg(long, value_name = "K", default_value_t = 0)]
    begin: usize,
    /// `eta` of DDIM's and TCD's `step`.
    #[arg(long)]
    eta: Option<f64>,
    /// Logarithm of the shift, for schedulers with `use_dynamic_shifting`.
    #[arg(long, allow_negative_numbers = true)]
    mu: Option<f64>,
    /// Seed of the noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(command: Command, ui: Ui, device: &str) -> Result<()> {
    match command {
        Command::Run(args) => network::run(args, ui, device),
        Command::Trajectory(args) => run_trajectory(args, ui),
    }
}

/// The names of the file's tensors; unexpected ones are errors.
fn known(inputs: &SafetensorsFile, path: &Path, expected: &[&str]) -> Result<Vec<String>> {
    let names = inputs.names();
    match names.iter().find(|n| !expected.contains(&n.as_str())) {
        Some(unknown) => {
            Err(anyhow!("{}: unknown input `{unknown}`; expected {}", path.display(), expected.join(", ")))
        }
        None => Ok(names),
    }
}

fn run_trajectory(args: TrajectoryArgs, ui: Ui) -> Result<()> {
    check_place(&args.outputs)?;
    let mut scheduler = SchedulerConfig::load(&args.scheduler_config)?;
    model::tell_passed_over(&scheduler, ui);
    if let Some(mu) = args.mu {
        scheduler = scheduler.with_mu(mu)?;
    }
    let ask = Sampling { eta: args.eta, ..Sampling::steps(args.steps) };
    let mut recipe = scheduler.resolve_with(&ask)?;
    if args.begin > 0 {
        recipe = recipe.begun_at(args.begin).map_err(|e| anyhow!("--{e}"))?;
    }
    let inputs = SafetensorsFile::open(&args.inputs)?;
    let names = known(&inputs, &args.inputs, &["sample", "noise"])?;
    let sample = tensors::read(&inputs, "sample")?;
    ensure!(!sample.values.is_empty(), "sample: the shape {:?} is empty", sample.shape);
    let noise = match names.iter().any(|n| n == "noise") {
        true => Some(tensors::read(&inputs, "noise")?),
        false => None,
    };
    if let Some(noise) = &noise {
        let fits = noise.shape.split_first().is_some_and(|(_, rest)| rest == sample.shape);
        let (found, of) = (&noise.shape, &sample.shape);
        ensure!(fits, "noise: has shape {found:?}, expected [steps, ...] of the sample's {of:?}");
    }
    let (times, rows) = trace(&recipe, &sample, noise.as_ref(), args.seed)?;

    let shape = [&[rows.len()], &sample.shape[..]].concat();
    let values: Vec<f32> = rows.iter().flatten().map(|&v| v as f32).collect();
    // Reports the first row that is not finite.
    let broken = values.iter().position(|v| !v.is_finite()).map(|at| at / sample.values.len().max(1));
    let timesteps = times.iter().map(|&t| t as f32).collect();
    let named = [
        ("timesteps".to_owned(), HostTensor { shape: vec![times.len()], values: timesteps }),
        ("trajectory".to_owned(), HostTensor { shape: shape.clone(), values }),
    ]
    .into();
    weights::write(&args.outputs, &named, weights::Precision::F32, &Default::default())?;
    if let Some(row) = broken {
        bail!(
            "row {row} of the trajectory has values that are not finite; all rows were written to {}",
            args.outputs.display()
        );
    }
    ui.result(
        &json!({ "outputs": args.outputs, "scheduler": scheduler.class_name(), "timesteps": times,
            "trajectory": shape }),
        format!("wrote trajectory {shape:?} of {} to {}", scheduler.class_name(), args.outputs.display()),
    );
    Ok(())
}

/// Runs each row of the batch separately, as thresholding requires, and joins times and samples.
fn trace(
    recipe: &Recipe,
    sample: &HostTensor,
    noise: Option<&HostTensor>,
    seed: u64,
) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
    let all = sample.values.len();
    let rows = if sample.shape.len() > 1 { sample.shape[0] } else { 1 };
    let size = all / rows;
    let formula = |x: &[f64], t: f64| -> Vec<f64> { x.iter().map(|x| x * (t / (t + 1.0))).collect() };
    let (mut times, mut out) = (Vec::new(), Vec::new());
    for start in (0..all).step_by(size) {
        let part = |values: &[f32]| -> Option<Vec<f64>> {
            Some(values.get(start..start + size)?.iter().map(|&v| f64::from(v)).collect())
        };
        let mut draws = |draw: usize| match noise {
            Some(noise) => part(noise.values.get(draw * all..)?),
            None => {
                let whole = SeededNoise(seed).normal(&vec![0.0; all], draw as u64);
                whole.get(start..start + size).map(<[f64]>::to_vec)
            }
        };
        let x = part(&sample.values).unwrap_or_default();
        let trace = recipe.trace(&x, &formula, &mut draws).map_err(|e| anyhow!("{e}"))?;
        times = trace.times;
        out.resize(trace.rows.len(), Vec::with_capacity(all));
        out.iter_mut().zip(trace.rows).for_each(|(whole, row): (&mut Vec<f64>, _)| whole.extend(row));
    }
    Ok((times, out))
}
