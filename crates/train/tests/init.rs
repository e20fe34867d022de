//! Runs that start from a trained model.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use tweedie_hub::SafetensorsFile;
use tweedie_models::{HostTensor, TensorSource};
use tweedie_train::{ConfigBuilder, TaskKind, TrainLoop, task_of};

/// A learning rate so small that no weight changes.
const STILL: &str = "learning_rate.peak=1e-20";
const GROUPS: &str = "data.emoji.groups=[\"Animals & Nature\", \"Food & Drink\"]";

/// Settings that `set` overrides.
const SHORT: [&str; 6] = [
    "run.steps=2",
    "run.batch=2",
    "run.checkpoint_every=1",
    "run.preview_every=0",
    "run.validate_every=0",
    "ema.kind=none",
];

fn built(builder: ConfigBuilder, out: &Path, set: &[&str]) -> Result<TrainLoop, String> {
    let out = format!("run.out={:?}", out.to_str().unwrap());
    let all = SHORT.iter().chain(set).copied().chain([out.as_str()]);
    let config = all.fold(builder, |b, a| b.set(a).unwrap()).build().map_err(|e| e.to_string())?;
    TrainLoop::new(config).map_err(|e| e.to_string())
}

fn train(builder: ConfigBuilder, out: &Path, set: &[&str]) {
    built(builder, out, set).unwrap().for_each(|event| drop(event.unwrap()));
}

fn preset(name: &str) -> ConfigBuilder {
    ConfigBuilder::preset(name).unwrap()
}

fn tensors(file: &Path) -> BTreeMap<String, HostTensor> {
    let file = SafetensorsFile::open(file).unwrap();
    file.names().into_iter().map(|name| (name.clone(), file.read(&name).unwrap())).collect()
}

fn unet(run: &Path) -> BTreeMap<String, HostTensor> {
    tensors(&run.join("model/unet/diffusion_pytorch_model.safetensors"))
}

fn names(run: &Path) -> Vec<String> {
    let text = fs::read_to_string(run.join("model/tweedie.json")).unwrap();
    serde_json::from_value(serde_json::from_str::<serde_json::Value>(&text).unwrap()["class_names"].take())
        .unwrap()
}

fn row(tensor: &HostTensor, row: usize) -> &[f32] {
    tensor.values.chunks(tensor.shape[1]).nth(row).unwrap()
}

#[test]
fn a_network_goes_on_with_its_classes_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let shape = ["data.size=16", "model.base_channels=8", "model.norm_groups=4", "model.head_channels=8"];
    let process = ["diffusion.schedule=linear", "diffusion.beta_end=0.03", "diffusion.parameterization=eps"];
    let set = [&shape[..], &process, &["run.seed=3", GROUPS]].concat();
    train(preset("tiny"), &first, &set);
    assert_eq!(task_of(&first).unwrap(), TaskKind::Diffusion);

    // Other sizes and schedules of the preset are replaced by the model's. Fewer classes, in another order, and new ones.
    let other = "data.emoji.groups=[\"Food & Drink\", \"Symbols\"]";
    let builder = preset("emoji").init(&first).unwrap();
    train(builder, &second, &[STILL, other]);
    let text = fs::read_to_string(second.join("model/scheduler/scheduler_config.json")).unwrap();
    assert_eq!(text, fs::read_to_string(first.join("model/scheduler/scheduler_config.json")).unwrap());

    let [mut before, mut after] = [&first, &second].map(|run| unet(run));
    let table = "class_embedding.weight";
    let [was, is] = [&mut before, &mut after].map(|tensors| tensors.remove(table).unwrap());
    assert_eq!(before, after);
    let [old, new] = [&first, &second].map(|run| names(run));
    let mut known = 0;
    for (i, name) in new.iter().enumerate() {
        match old.iter().position(|n| n == name) {
            Some(from) => {
                known += 1;
                assert_eq!(row(&is, i), row(&was, from), "{name}");
            }
            None => assert!(old.iter().enumerate().all(|(from, _)| row(&is, i) != row(&was, from)), "{name}"),
        }
    }
    assert!(known > 3 && known < new.len(), "{known} of {}", new.len());
    assert_eq!(row(&is, new.len()), row(&was, old.len()), "no class");
}

#[test]
fn a_run_that_began_from_a_model_resumes_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let [first, whole, parts] = ["first", "whole", "parts"].map(|name| dir.path().join(name));
    let small =
        ["data.size=8", "model.base_channels=8", "model.norm_groups=4", "model.head_channels=8", GROUPS];
    train(preset("tiny"), &first, &[&small[..], &["run.seed=3"]].concat());
    let begun = || preset("tiny").set(GROUPS).unwrap().init(&first).unwrap();
    train(begun(), &whole, &[]);
    train(begun(), &parts, &["run.steps=1"]);
    fs::remove_dir_all(&first).unwrap();

    let file = fs::read_to_string(parts.join("config.toml")).unwrap();
    let config =
        ConfigBuilder::text(&file, "config.toml").unwrap().set("run.steps=2").unwrap().build().unwrap();
    TrainLoop::resume_with(config).unwrap().for_each(|event| drop(event.unwrap()));
    assert_eq!(unet(&parts), unet(&whole));
}

#[test]
fn other_networks_are_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let small =
        ["data.size=8", "model.base_channels=8", "model.norm_groups=4", "model.head_channels=8", GROUPS];
    train(preset("tiny"), &first, &small);
    let init = format!("run.init={:?}", first.to_str().unwrap());
    let refused =
        |set: &[&str]| built(preset("tiny"), &second, &[&small[..], &[&init], set].concat()).err().unwrap();

    let message = refused(&["model.norm_groups=2"]);
    assert!(
        message.starts_with("model.norm_num_groups = 2: expected 4, as in the initial model"),
        "{message}"
    );
    let message = refused(&["run.init=/nowhere"]);
    assert!(message.contains("/nowhere"), "{message}");
    let message = refused(&["data.size=7"]);
    assert!(message.starts_with("data.size = 7: expected a multiple of 2"), "{message}");
    let message = preset("vae").init(&first).unwrap_err().to_string();
    assert!(message.ends_with("a model for task = vae; this one is for task = diffusion"), "{message}");
    assert!(!second.exists());
}

#[test]
fn autoencoders_and_text_models_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let [vae, vae2, text, text2] = ["vae", "vae2", "text", "text2"].map(|name| dir.path().join(name));
    let faces = "data.emoji.groups=[\"Smileys & Emotion\"]";
    let small =
        ["data.size=16", "vae.channels=[8, 16]", "vae.norm_groups=4", "vae.adversarial.weight=0.0", faces];
    train(preset("vae"), &vae, &[&small[..], &["run.seed=3"]].concat());
    assert_eq!(task_of(&vae).unwrap(), TaskKind::Vae);
    let weights = "model/diffusion_pytorch_model.safetensors";
    train(preset("vae").init(&vae).unwrap(), &vae2, &[STILL, faces, "vae.adversarial.weight=0.0"]);
    assert_eq!(tensors(&vae.join(weights)), tensors(&vae2.join(weights)));

    let place = format!("text.vae={:?}", vae.to_str().unwrap());
    let small = [
        "data.size=16",
        "model.base_channels=8",
        "model.multipliers=[1, 2]",
        "model.attention_levels=[1]",
        "model.head_channels=8",
        "model.norm_groups=4",
        "text.vocabulary=600",
        "text.tokens=12",
        "text.width=16",
        "text.layers=2",
        "text.heads=2",
        "text.latents.variants=1",
        faces,
        &place,
    ];
    train(preset("text-to-image"), &text, &[&small[..], &["run.seed=3"]].concat());
    assert_eq!(task_of(&text).unwrap(), TaskKind::TextToImage);
    // Other texts: the tokenizer is still the model's, also after an interruption.
    let other = "data.emoji.groups=[\"Food & Drink\"]";
    let variants = "text.latents.variants=1";
    train(preset("text-to-image").init(&text).unwrap(), &text2, &[STILL, other, variants, "run.steps=1"]);
    let parts = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"];
    let same = |a: &Path, b: &Path| {
        parts.iter().all(|part| tensors(&a.join("model").join(part)) == tensors(&b.join("model").join(part)))
    };
    assert!(same(&text, &text2));
    let file = fs::read_to_string(text2.join("config.toml")).unwrap();
    let config = ConfigBuilder::text(&file, "config.toml").unwrap().set("run.steps=2").unwrap();
    // Only its autoencoder is read again.
    fs::remove_dir_all(text.join("model/tokenizer")).unwrap();
    TrainLoop::resume_with(config.build().unwrap()).unwrap().for_each(|event| drop(event.unwrap()));
    assert!(same(&text, &text2));
    let vocabulary = |run: &Path| fs::read_to_string(run.join("model/tokenizer/vocab.json")).unwrap();
    assert!(vocabulary(&text2).contains("smiling"));
}
