//! `tweedie info`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args as ClapArgs;
use indicatif::HumanBytes;
use serde_json::json;
use tweedie::{hub::ModelDir, models::TensorSource};

use crate::ui::Ui;

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// A model folder as diffusers lays it out, or one of its components.
    model: PathBuf,
    /// Also list every tensor.
    #[arg(long)]
    tensors: bool,
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let model = ModelDir::open(&args.model)?;
    let weights = model.weights()?;
    let mut names = weights.names();
    names.sort();
    let mut parameters = 0;
    let mut tensors = Vec::new();
    for name in &names {
        let shape = weights.shape(name).unwrap_or_default();
        parameters += shape.iter().product::<usize>();
        tensors.push(json!({ "name": name, "shape": shape }));
    }
    let unet = &model.unet;
    let scheduler = model.scheduler.as_ref();
    let mut rows = vec![
        ("folder", args.model.display().to_string()),
        ("pipeline", model.pipeline.map_or("(a component)".into(), |p| p.name().into())),
        ("network", format!("UNet2DModel, {parameters} parameters in {} tensors", names.len())),
        ("memory", format!("{} as f32", HumanBytes(4 * parameters as u64))),
        ("sample", sample_size(unet)),
        ("channels", format!("{:?}", unet.block_out_channels)),
        ("down blocks", format!("{:?}", unet.down_block_types)),
        ("scheduler", scheduler.map_or("none".into(), |s| s.class_name().into())),
    ];
    if let Some(s) = scheduler {
        rows.push(("predicts", format!("{:?}", s.process().parameterization)));
    }
    let extras = &model.extras;
    if !extras.class_names.is_empty() {
        rows.push(("classes", extras.class_names.join(", ")));
    }
    for (key, value) in &extras.training {
        rows.push(("trained", format!("{key}: {value}")));
    }
    let mut text: Vec<_> = rows.iter().map(|(k, v)| format!("{k:<12} {v}")).collect();
    if args.tensors {
        text.extend(names.iter().map(|n| format!("  {n} {:?}", weights.shape(n).unwrap_or_default())));
    }
    let value = json!({
        "model": args.model, "pipeline": model.pipeline.map(|p| p.name()), "parameters": parameters,
        "config": unet, "scheduler": scheduler.map(|s| s.class_name()), "classes": extras.class_names,
        "training": extras.training, "tensors": if args.tensors { tensors } else { Vec::new() },
    });
    ui.result(&value, text.join("\n"));
    Ok(())
}

fn sample_size(unet: &tweedie::models::UNet2DConfig) -> String {
    let size = serde_json::to_value(unet.sample_size).unwrap_or_default();
    format!("{size} pixels, {} channels in, {} out", unet.in_channels, unet.out_channels)
}
