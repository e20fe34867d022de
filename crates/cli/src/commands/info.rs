//! `tweedie info`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args as ClapArgs;
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};
use tweedie::{
    hub::{ComponentDir, ModelDir, OriginalCheckpoint, SchedulerConfig, extras_in, files, model::kind_of},
    models::TensorSource,
};

use crate::{model, ui::Ui};

#[derive(ClapArgs, Debug)]
pub struct Args {
    /// Model folder in diffusers' layout, one of its components, a single-file checkpoint of Stable Diffusion, or a name of
    /// `tweedie models`.
    model: PathBuf,
    /// Also list every tensor.
    #[arg(long)]
    tensors: bool,
}

/// The information about a model.
struct Sheet {
    rows: Vec<(String, String)>,
    /// The same as JSON.
    value: Value,
    tensors: Vec<(String, Vec<usize>)>,
}

pub fn run(args: Args, ui: Ui) -> Result<()> {
    let path = &model::path(&args.model)?;
    let kind = if path.is_file() { None } else { kind_of(path)? };
    let sheet = if path.is_file() {
        in_one_file(path)?
    } else if kind.is_some_and(|kind| kind.network.1 != "UNet2DModel" || kind.autoencoder.is_some()) {
        pipeline(path)?
    } else if is_component(path)? {
        component(path)?
    } else {
        in_pixels(path)?
    };
    let mut text: Vec<_> = sheet.rows.iter().map(|(k, v)| format!("{k:<16} {v}")).collect();
    let mut value = sheet.value;
    value["model"] = json!(path);
    value["tensors"] = json!([]);
    if args.tensors {
        text.extend(sheet.tensors.iter().map(|(name, shape)| format!("  {name} {shape:?}")));
        let all = sheet.tensors.iter().map(|(name, shape)| json!({ "name": name, "shape": shape }));
        value["tensors"] = all.collect();
    }
    ui.result(&value, text.join("\n"));
    Ok(())
}

/// Names (with `prefix`) and shapes, and the number of parameters.
fn listed(source: &dyn TensorSource, prefix: &str) -> (Vec<(String, Vec<usize>)>, usize) {
    let mut names = source.names();
    names.sort();
    let tensors: Vec<_> = (names.into_iter())
        .map(|name| (format!("{prefix}{name}"), source.shape(&name).unwrap_or_default()))
        .collect();
    let parameters = tensors.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    (tensors, parameters)
}

fn network(class: &str, parameters: usize, tensors: usize) -> String {
    let memory = HumanBytes(4 * parameters as u64);
    format!("{class}, {parameters} parameters in {tensors} tensors, {memory} as f32")
}

fn row(name: &str, text: impl Into<String>) -> (String, String) {
    (name.into(), text.into())
}

fn scheduler_rows(scheduler: &SchedulerConfig) -> [(String, String); 2] {
    let predicts = format!("{:?}", scheduler.process().parameterization);
    [row("scheduler", scheduler.class_name()), row("predicts", predicts)]
}

/// A pipeline without latents, or its network.
fn in_pixels(dir: &Path) -> Result<Sheet> {
    let model = ModelDir::open(dir)?;
    let (tensors, parameters) = listed(&model.weights()?, "");
    let unet = &model.unet;
    let scheduler = model.scheduler.as_ref();
    let size = serde_json::to_value(unet.sample_size).unwrap_or_default();
    let mut rows = vec![
        row("folder", dir.display().to_string()),
        row("pipeline", model.pipeline.map_or("(a component)", |p| p.name())),
        row("network", network("UNet2DModel", parameters, tensors.len())),
        row("sample", format!("{size} pixels, {} channels in, {} out", unet.in_channels, unet.out_channels)),
        row("channels", format!("{:?}", unet.block_out_channels)),
        row("down blocks", format!("{:?}", unet.down_block_types)),
    ];
    match scheduler {
        Some(scheduler) => rows.extend(scheduler_rows(scheduler)),
        None => rows.push(row("scheduler", "none")),
    }
    let extras = &model.extras;
    if !extras.class_names.is_empty() {
        rows.push(row("classes", extras.class_names.join(", ")));
    }
    // The configuration is many lines of TOML; it is only shown with --json.
    let short = extras.training.iter().filter(|(_, value)| !value.is_object());
    rows.extend(short.map(|(key, value)| row("trained", format!("{key}: {value}"))));
    let value = json!({
        "pipeline": model.pipeline.map(|p| p.name()), "parameters": parameters, "config": unet,
        "scheduler": scheduler.map(|s| s.class_name()), "classes": extras.class_names,
        "training": extras.training,
    });
    Ok(Sheet { rows, value, tensors })
}

/// Whether a folder contains a single network other than `UNet2DModel`.
fn is_component(dir: &Path) -> Result<bool> {
    Ok(dir.join("config.json").exists() && ComponentDir::open(dir)?.class() != "UNet2DModel")
}

fn component(dir: &Path) -> Result<Sheet> {
    let component = ComponentDir::open(dir)?;
    let (tensors, parameters) = listed(&component.weights()?, "");
    let rows = vec![
        row("folder", dir.display().to_string()),
        row("network", network(component.class(), parameters, tensors.len())),
    ];
    let config: Value = serde_json::from_str(component.config())?;
    let value = json!({ "class": component.class(), "parameters": parameters, "config": config });
    Ok(Sheet { rows, value, tensors })
}

/// A latent pipeline with its components.
fn pipeline(dir: &Path) -> Result<Sheet> {
    let entries: Map<String, Value> = files::read_json(&dir.join("model_index.json"))?;
    let class = entries.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    let mut rows = vec![row("folder", dir.display().to_string()), row("pipeline", class)];
    let (mut all, mut components) = (Vec::new(), Map::new());
    for (name, entry) in entries.iter().filter(|(name, _)| !name.starts_with('_')) {
        let Some(class) = entry.get(1).and_then(Value::as_str) else { continue };
        let folder = dir.join(name);
        if folder.join("config.json").exists() && ComponentDir::open(&folder).is_ok() {
            let (tensors, parameters) = listed(&ComponentDir::open(&folder)?.weights()?, &format!("{name}."));
            rows.push(row(name, network(class, parameters, tensors.len())));
            components.insert(name.clone(), json!({ "class": class, "parameters": parameters }));
            all.extend(tensors);
        } else if name == "scheduler" {
            let scheduler = SchedulerConfig::load(&folder.join("scheduler_config.json"))?;
            rows.extend(scheduler_rows(&scheduler));
            components.insert(name.clone(), json!({ "class": class }));
        } else {
            rows.push(row(name, class));
            components.insert(name.clone(), json!({ "class": class }));
        }
    }
    let mut value = json!({ "pipeline": class, "components": components });
    if let Some(speech) = extras_in(dir)?.speech {
        rows.extend((!speech.voices.is_empty()).then(|| row("voices", speech.voices.join(", "))));
        let words = if speech.words.is_empty() { "sentences".to_owned() } else { speech.words.join(", ") };
        rows.push(row("says", words));
        value["speech"] = json!(speech);
    }
    Ok(Sheet { rows, value, tensors: all })
}

/// A single-file checkpoint of Stable Diffusion.
fn in_one_file(path: &Path) -> Result<Sheet> {
    let checkpoint = OriginalCheckpoint::open(path, None)?;
    let family = format!("{:?}", checkpoint.family());
    let mut rows = vec![
        row("file", path.display().to_string()),
        row("pipeline", format!("{family}, single-file checkpoint")),
    ];
    rows.extend(checkpoint.remarks().iter().map(|remark| row("note", remark)));
    let (mut all, mut components) = (Vec::new(), Map::new());
    for name in checkpoint.components() {
        let (described, part) = checkpoint.component(name)?;
        let (tensors, parameters) = listed(&part, &format!("{name}."));
        rows.push(row(name, network(described.class(), parameters, tensors.len())));
        components.insert((*name).into(), json!({ "class": described.class(), "parameters": parameters }));
        all.extend(tensors);
    }
    let scheduler = checkpoint.scheduler()?;
    rows.extend(scheduler_rows(&scheduler));
    Ok(Sheet { rows, value: json!({ "pipeline": family, "components": components }), tensors: all })
}
