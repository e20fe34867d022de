//! `tweedie debug`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use tweedie::{
    hub::{ModelDir, SafetensorsFile, weights},
    models::{Condition, HostTensor, Mode, Network, TensorSource},
    ops,
};

use crate::{tensors, ui::Ui};

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a model's network once on tensors named as diffusers names its arguments.
    Run(RunArgs),
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

/// What the network is told, by diffusers' names.
const INPUTS: [&str; 3] = ["sample", "timestep", "class_labels"];

pub fn run(command: Command, ui: Ui, device: &str) -> Result<()> {
    let Command::Run(args) = command;
    let device = ops::device(device)?;
    let network = ModelDir::open(&args.model)?.load_unet(&device)?;
    let inputs = SafetensorsFile::open(&args.inputs)?;
    let names = inputs.names();
    if let Some(unknown) = names.iter().find(|n| !INPUTS.contains(&n.as_str())) {
        anyhow::bail!("{}: unknown input `{unknown}`; expected {}", args.inputs.display(), INPUTS.join(", "));
    }
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

/// One value per row; a single one serves them all.
fn per_row(name: &str, tensor: HostTensor, rows: usize) -> Result<Vec<f32>> {
    match tensor.values.len() {
        1 => Ok(vec![tensor.values[0]; rows]),
        n if n == rows => Ok(tensor.values),
        n => anyhow::bail!("{name}: {n} values for a batch of {rows}; expected 1 or {rows}"),
    }
}
