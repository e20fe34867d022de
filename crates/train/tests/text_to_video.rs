//! Text-to-video runs from the outside: exact resume, the finished pipeline, and rejected configurations.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tweedie_hub::{
    Model, SafetensorsFile,
    weights::{self, Precision},
};
use tweedie_models::{AutoencoderKl, AutoencoderKlConfig, TensorSource, export, unet::SampleSize};
use tweedie_ops::Device;
use tweedie_train::{ConfigBuilder, RunConfig, TrainEvent, TrainLoop};

/// An untrained autoencoder.
fn vae(dir: &Path) -> PathBuf {
    let config = AutoencoderKlConfig {
        block_out_channels: vec![8, 8],
        down_block_types: vec![tweedie_models::vae::EncoderBlockType::DownEncoderBlock2D; 2],
        up_block_types: vec![tweedie_models::vae::DecoderBlockType::UpDecoderBlock2D; 2],
        norm_num_groups: 4,
        sample_size: SampleSize::Square(16),
        scaling_factor: 0.7,
        ..AutoencoderKlConfig::default()
    };
    let vae = AutoencoderKl::new(&config, 5, &Device::flex()).unwrap();
    let dir = dir.join("vae");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), config.to_json()).unwrap();
    let file = dir.join("diffusion_pytorch_model.safetensors");
    weights::write(&file, &export(&vae), Precision::F32, &BTreeMap::new()).unwrap();
    dir
}

fn builder(vae: &Path, out: &Path, set: &[&str]) -> ConfigBuilder {
    let fixed = [
        "run.steps=4",
        "run.batch=2",
        "run.accumulation=2",
        "run.checkpoint_every=2",
        "run.preview_every=4",
        "run.preview_images=2",
        "run.preview_steps=3",
        "run.validate_every=2",
        "run.validation_images=4",
        "data.size=16",
        "data.moving.clips=24",
        "data.moving.frames=4",
        "data.moving.things=[\"cat\", \"star\"]",
        "model.base_channels=8",
        "model.multipliers=[1, 2]",
        "model.attention_levels=[1]",
        "model.norm_groups=4",
        "text.width=16",
        "text.heads=2",
    ];
    let builder = ConfigBuilder::preset("text-to-video").unwrap();
    let builder = builder.set(&format!("text.vae={:?}", vae.to_str().unwrap())).unwrap();
    let builder = builder.set(&format!("run.out={:?}", out.to_str().unwrap())).unwrap();
    fixed.iter().chain(set).fold(builder, |b, a| b.set(a).unwrap())
}

fn config(vae: &Path, out: &Path, set: &[&str]) -> RunConfig {
    builder(vae, out, set).build().unwrap()
}

fn finish(run: TrainLoop) -> Vec<TrainEvent> {
    run.map(Result::unwrap).collect()
}

/// All tensors, by file and name.
fn tensors_of(out: &Path) -> BTreeMap<String, Vec<f32>> {
    let files = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"];
    let tensors = |file: &str| {
        let found = SafetensorsFile::open(&out.join("model").join(file)).unwrap();
        let tensor = |name: String| (format!("{file} {name}"), found.read(&name).unwrap().values);
        found.names().into_iter().map(tensor).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(tensors).collect()
}

/// The names of tensors that differ by more than a step of the smallest learning rate.
fn changed(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (tensors_of(a), tensors_of(b));
    assert!(a.keys().eq(b.keys()));
    let far = |(name, values): &(&String, &Vec<f32>)| {
        values.iter().zip(&b[*name]).any(|(x, y)| (x - y).abs() > 1e-15)
    };
    a.iter().filter(far).map(|(name, _)| name.clone()).collect()
}

fn weights_of(out: &Path) -> Vec<Vec<u8>> {
    let files = ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"];
    files.iter().map(|file| fs::read(out.join("model").join(file)).unwrap()).collect()
}

#[test]
fn a_run_ends_in_a_pipeline_and_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let whole = dir.path().join("whole");
    let events = finish(TrainLoop::new(config(&vae, &whole, &[])).unwrap());
    let held = events.iter().find_map(|e| match e {
        TrainEvent::Started { held_out, images, .. } => Some((*images, *held_out)),
        _ => None,
    });
    // One motion in eight.
    assert_eq!(held, Some((21, 3)));
    // A sheet of four frames for each of two clips, and the animation.
    assert!(whole.join("previews/step-000004.webp").exists());
    let sheet = events.iter().find_map(|e| match e {
        TrainEvent::Preview { samples, .. } => Some(samples.len()),
        _ => None,
    });
    assert_eq!(sheet, Some(8));

    let model = Model::load(&whole.join("model"), &Device::flex()).unwrap();
    assert_eq!(model.kind.name, "TextToVideoSDPipeline");
    assert_eq!(model.network.spec().native, Some(vec![16, 8, 8]));
    assert_eq!((model.extras.sampling.guidance, model.extras.sampling.fps), (Some(3.0), Some(8)));

    // Stopped after the first checkpoint, then resumed: from the latents on disk, and without them.
    for (name, forget) in [("kept", false), ("forgotten", true)] {
        let out = dir.path().join(name);
        let mut run = TrainLoop::new(config(&vae, &out, &[])).unwrap();
        let stop = run.stop_handle();
        for event in &mut run {
            if let TrainEvent::Step(step) = event.unwrap()
                && step.step == 3
            {
                stop.request();
            }
        }
        drop(run);
        if forget {
            fs::remove_file(out.join("latents.safetensors")).unwrap();
        }
        finish(TrainLoop::resume(&out).unwrap());
        assert!(weights_of(&out) == weights_of(&whole), "{name}");
    }
    let other = dir.path().join("other");
    finish(TrainLoop::new(config(&vae, &other, &["run.seed=1"])).unwrap());
    assert_ne!(weights_of(&other), weights_of(&whole));
}

/// As training first on single frames, then on clips.
#[test]
fn a_run_starts_from_another_and_then_no_longer_needs_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let [frames, clips] = ["frames", "clips"].map(|name| dir.path().join(name));
    finish(TrainLoop::new(config(&vae, &frames, &["data.moving.frames=1"])).unwrap());
    let init = || builder(&vae, &clips, &["learning_rate.peak=1e-20", "run.steps=2"]).init(&frames).unwrap();
    let from = format!("run.init={:?}", frames.to_str().unwrap());
    let wrong = builder(&vae, &clips, &[&from, "model.base_channels=16"]).build().and_then(TrainLoop::new);
    let error = wrong.err().map_or_else(String::new, |e| e.to_string());
    assert!(error.contains("[16,32]: expected [8,16], as in the initial model"), "{error}");
    // Other words: the tokenizer is still that of the first run.
    let others = init().set("data.moving.things=[\"pig\", \"bus\"]").unwrap().build().unwrap();
    finish(TrainLoop::new(others.clone()).unwrap());
    assert_eq!(changed(&clips, &frames), [""; 0]);
    let vocabulary = |run: &Path| fs::read_to_string(run.join("model/tokenizer/vocab.json")).unwrap();
    assert_eq!(vocabulary(&clips), vocabulary(&frames));
    fs::remove_dir_all(frames.join("model/tokenizer")).unwrap();
    let mut longer = others;
    longer.run.steps = Some(4);
    finish(TrainLoop::resume_with(longer).unwrap());
    assert_eq!(changed(&clips, &frames), [""; 0]);
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let out = dir.path().join("out");
    for (assignment, part) in [
        ("data.source=\"emoji\"", "\"moving_emoji\", the only source of clips"),
        ("data.moving.frames=0", "data.moving.frames = 0"),
        ("data.moving.things=[\"cow\"]", "data.moving.things"),
        ("data.size=15", "a multiple of 2"),
        ("model.head_channels=7", "attention_head_dim"),
        ("model.scale_shift=true", "model.scale_shift"),
        ("text.latents.cache_mb=0", "text.latents.cache_mb = 0"),
    ] {
        let built = builder(&vae, &out, &[assignment]).build().and_then(TrainLoop::new);
        let error = built.err().map_or_else(String::new, |e| e.to_string());
        assert!(error.contains(part), "{assignment}: {error}");
    }
}
