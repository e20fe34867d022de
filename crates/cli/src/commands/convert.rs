//! `tweedie convert`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::{
    hub::{Precision, files, model_index},
    pipe::LoadOptions,
};

use crate::{model, ui::Ui};

/// Storage format of values.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Stored {
    F32,
    F16,
    Bf16,
}

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Single-file checkpoint of Stable Diffusion 1.x, 2.x or XL, or model folder.
    #[arg(short, long, value_name = "PATH")]
    model: PathBuf,
    /// Folder of CLIP's tokenizer, for a single-file checkpoint [default: the checkpoint's folder].
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// What the network of a single-file checkpoint predicts [default: `eps`, or `v` for Stable Diffusion 2.x].
    #[arg(long, value_name = "KIND")]
    prediction: Option<model::Prediction>,
    /// Variant of the weights in a folder, for example `fp16` [default: no variant, or else fp32, fp16 or bf16].
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// LoRA to merge into the weights, with an optional scale; may be repeated.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Folder of a motion adapter, which makes a model of clips (an AnimateDiffPipeline) of a StableDiffusionPipeline.
    #[arg(long, value_name = "DIR")]
    motion_adapter: Option<PathBuf>,
    /// Folder to write in diffusers' layout. An existing pipeline there is replaced.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Storage format of the weights.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Stored,
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let (path, out) = (&model::path(&args.model)?, &args.out);
    if let (Ok(a), Ok(b)) = (path.canonicalize(), out.canonicalize()) {
        ensure!(
            !a.starts_with(&b),
            "--out {}: this folder contains the model itself; choose another folder",
            out.display()
        );
    }
    files::check_dir(out, model_index::FILE)?;
    let device = tweedie::ops::device("cpu")?;
    let loras = args.lora.iter().map(|text| model::lora(text, &[])).collect::<Result<Vec<_>>>()?;
    let (tokenizer, variant) = (args.tokenizer.as_deref(), args.variant.as_deref());
    let motion_adapter = args.motion_adapter.as_deref();
    let prediction = args.prediction.map(Into::into);
    let options = LoadOptions {
        variant,
        loras: &loras,
        tokenizer,
        prediction,
        motion_adapter,
        ..LoadOptions::default()
    };
    let pipeline = model::pipeline_with(Some(path), &options, &device, ui)?;
    let model = pipeline.model();
    let precision = match args.precision {
        Stored::F32 => Precision::F32,
        Stored::F16 => Precision::F16,
        Stored::Bf16 => Precision::BF16,
    };
    model.save(out, precision)?;
    let class = model.kind.name;
    ui.result(
        &json!({ "event": "finished", "model": path, "out": out, "pipeline": class, "precision": precision,
            "loras": args.lora, "motion_adapter": args.motion_adapter }),
        format!("wrote {class} to {}", out.display()),
    );
    Ok(())
}
