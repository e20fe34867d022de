//! `tweedie convert`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args as ClapArgs;
use serde_json::json;
use tweedie::hub::{Precision, files, latent_dir, model_index};

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
    /// Single-file checkpoint of Stable Diffusion 1.x, 2.x or XL, or folder of a latent model.
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
    /// Folder to write in diffusers' layout. An existing pipeline there is replaced.
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    /// Storage format of the weights.
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    precision: Stored,
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let (path, out) = (&args.model, &args.out);
    path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
    if let (Ok(a), Ok(b)) = (path.canonicalize(), out.canonicalize()) {
        ensure!(
            !a.starts_with(&b),
            "--out {}: this folder contains the model itself; choose another folder",
            out.display()
        );
    }
    files::check_dir(out, model_index::FILE)?;
    ensure!(
        path.is_file() || latent_dir::class_of(path)?.is_some(),
        "{}: not a latent model; expected a single-file checkpoint, or a folder with a `model_index.json` of Stable Diffusion, \
         Stable Diffusion XL, DiT or LDM",
        path.display()
    );
    let device = tweedie::ops::device("cpu")?;
    let loras = args.lora.iter().map(|text| model::lora(text)).collect::<Result<Vec<_>>>()?;
    let (tokenizer, variant) = (args.tokenizer.as_deref(), args.variant.as_deref());
    let model = model::latent(path, tokenizer, args.prediction, variant, &loras, &device, ui)?;
    let precision = match args.precision {
        Stored::F32 => Precision::F32,
        Stored::F16 => Precision::F16,
        Stored::Bf16 => Precision::BF16,
    };
    model.save(out, precision)?;
    let class = model.class.name();
    ui.result(
        &json!({ "event": "finished", "model": path, "out": out, "pipeline": class, "precision": precision,
            "loras": args.lora }),
        format!("wrote {class} to {}", out.display()),
    );
    Ok(())
}
