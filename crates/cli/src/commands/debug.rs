//! `tweedie debug`.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use tweedie::{
    core::noise::{Noise, SeededNoise},
    hub::{ModelDir, SafetensorsFile, Sampling, SchedulerConfig, scheduler_config::Recipe, weights},
    models::{Condition, HostTensor, Mode, Network, TensorSource},
    ops,
};

use crate::{tensors, ui::Ui};

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a model's network once on tensors named as diffusers names its arguments.
    Run(RunArgs),
    /// Run a diffusers scheduler configuration on a tensor, with eps(x, t) = x·t/(t+1) for a network.
    ///
    /// The formula stands for the network's output whatever `prediction_type` says that is. Samples are those
    /// of diffusers' scheduler, in its own scale: row 0 is what its first `step` is given, row k what its k-th
    /// call returns.
    Trajectory(TrajectoryArgs),
}

#[derive(ClapArgs, Debug)]
pub struct RunArgs {
    /// A model folder, or a folder with a single component.
    model: PathBuf,
    /// A safetensors file with `sample` [B, C, H, W], `timestep` ([] or [B]) and, for networks with
    /// classes, `class_labels` [B].
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// The file to write; it will hold `sample`.
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
}

#[derive(ClapArgs, Debug)]
pub struct TrajectoryArgs {
    /// A `scheduler_config.json`.
    #[arg(long, value_name = "FILE")]
    scheduler_config: PathBuf,
    /// Steps, as passed to diffusers' `set_timesteps`.
    #[arg(long, value_name = "N")]
    steps: usize,
    /// A safetensors file with `sample` [B, ...] and, for stochastic schedulers, `noise` [K, B, ...]: the
    /// standard normal of each step. Without it noise is drawn from the seed.
    #[arg(long, value_name = "FILE")]
    inputs: PathBuf,
    /// The file to write: `timesteps` [n], what the network is told at each evaluation, and `trajectory`
    /// [n + 1, B, ...], the sample before each evaluation and at the end.
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// Begin at this step of the schedule, as diffusers' `set_begin_index`.
    #[arg(long, value_name = "K", default_value_t = 0)]
    begin: usize,
    /// `eta` of DDIM's and TCD's `step`.
    #[arg(long)]
    eta: Option<f64>,
    /// The shift's exponent for schedulers with `use_dynamic_shifting`.
    #[arg(long, allow_negative_numbers = true)]
    mu: Option<f64>,
    /// Of the noise.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What the network is told, by diffusers' names.
const INPUTS: [&str; 3] = ["sample", "timestep", "class_labels"];

pub fn run(command: Command, ui: Ui, device: &str) -> Result<()> {
    match command {
        Command::Run(args) => run_network(args, ui, device),
        Command::Trajectory(args) => run_trajectory(args, ui),
    }
}

fn run_network(args: RunArgs, ui: Ui, device: &str) -> Result<()> {
    let device = ops::device(device)?;
    let network = ModelDir::open(&args.model)?.load_unet(&device)?;
    let inputs = SafetensorsFile::open(&args.inputs)?;
    let names = known(&inputs, &args.inputs, &INPUTS)?;
    let sample = tensors::read(&inputs, "sample")?;
    let [b, c, h, w] = sample.shape[..] else {
        anyhow::bail!("sample: has shape {:?}, expected [B, C, H, W]", sample.shape)
    };
    let times = per_row("timestep", tensors::read(&inputs, "timestep")?, b)?;
    let mut condition = Condition::default();
    if names.iter().any(|n| n == "class_labels") {
        let labels = per_row("class_labels", tensors::read(&inputs, "class_labels")?, b)?;
        let whole = labels.iter().all(|v| v.fract() == 0.0 && *v >= 0.0);
        ensure!(whole, "class_labels: expected whole numbers, at least 0; got {labels:?}");
        condition = Condition::classes(labels.iter().map(|v| *v as usize).collect());
    }
    network.check([b, c, h, w], &times, &condition)?;
    let x = ops::from_host(sample.values, [b, c, h, w], &device);
    let y = network.forward(x, &times, &condition, Mode::Eval);
    let shape = y.dims().to_vec();
    let out = HostTensor { shape: shape.clone(), values: ops::to_host(y) };
    let named = [("sample".to_owned(), out)].into();
    weights::write(&args.outputs, &named, weights::Precision::F32, &Default::default())?;
    ui.result(
        &json!({ "outputs": args.outputs, "sample": shape }),
        format!("sample {shape:?} in {}", args.outputs.display()),
    );
    Ok(())
}

/// The names of the file's tensors, all of which must be expected.
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
    let mut scheduler = SchedulerConfig::load(&args.scheduler_config)?;
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
    ensure!(!sample.values.is_empty(), "sample: has shape {:?}, which is empty", sample.shape);
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
    let values: Vec<f32> = rows.into_iter().flatten().map(|v| v as f32).collect();
    let timesteps = times.iter().map(|&t| t as f32).collect();
    let named = [
        ("timesteps".to_owned(), HostTensor { shape: vec![times.len()], values: timesteps }),
        ("trajectory".to_owned(), HostTensor { shape: shape.clone(), values }),
    ]
    .into();
    weights::write(&args.outputs, &named, weights::Precision::F32, &Default::default())?;
    ui.result(
        &json!({ "outputs": args.outputs, "scheduler": scheduler.class_name(), "timesteps": times,
            "trajectory": shape }),
        format!("trajectory {shape:?} of {} in {}", scheduler.class_name(), args.outputs.display()),
    );
    Ok(())
}

/// Each row of the batch by itself, as a threshold sees it; their times, and their samples side by side.
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

/// One value per row; a single one serves them all.
fn per_row(name: &str, tensor: HostTensor, rows: usize) -> Result<Vec<f32>> {
    match tensor.values.len() {
        1 => Ok(vec![tensor.values[0]; rows]),
        n if n == rows => Ok(tensor.values),
        n => anyhow::bail!("{name}: {n} values for a batch of {rows}; expected 1 or {rows}"),
    }
}
