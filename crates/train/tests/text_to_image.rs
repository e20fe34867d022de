//! Text-to-image runs from the outside: exact resume, the finished pipeline, and rejected configurations.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use tweedie_hub::{
    Model,
    weights::{self, Precision},
};
use tweedie_models::{AutoencoderKl, AutoencoderKlConfig, export, unet::SampleSize};
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

fn config(vae: &Path, out: &Path, set: &[&str]) -> RunConfig {
    let fixed = [
        "run.steps=6",
        "run.batch=4",
        "run.accumulation=2",
        "run.checkpoint_every=3",
        "run.preview_every=4",
        "run.preview_images=3",
        "run.preview_steps=3",
        "run.validate_every=3",
        "run.validation_images=6",
        "run.log_every=1",
        "data.size=16",
        "data.emoji.groups=[\"Smileys & Emotion\"]",
        "data.emoji.holdout_names=[\"green heart\", \"crying cat\"]",
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
        "text.latents.variants=2",
        "text.prompts=[\"red heart\", \"smiling cat\"]",
    ];
    let builder = ConfigBuilder::preset("text-to-image").unwrap();
    let builder = builder.set(&format!("text.vae={:?}", vae.to_str().unwrap())).unwrap();
    let builder = builder.set(&format!("run.out={:?}", out.to_str().unwrap())).unwrap();
    fixed.iter().chain(set).fold(builder, |b, a| b.set(a).unwrap()).build().unwrap()
}

fn finish(run: TrainLoop) -> Vec<TrainEvent> {
    run.map(Result::unwrap).collect()
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
    let validations = events.iter().filter(|e| matches!(e, TrainEvent::Validation { .. })).count();
    assert_eq!(validations, 2);
    let held = events.iter().find_map(|e| match e {
        TrainEvent::Started { held_out, .. } => Some(*held_out),
        _ => None,
    });
    assert_eq!(held, Some(2));

    let model = Model::load(&whole.join("model"), &Device::flex()).unwrap();
    assert_eq!(model.kind.name, "StableDiffusionPipeline");
    assert_eq!(model.network.spec().native, Some(vec![8, 8]));
    let text = &model.texts[0];
    assert_eq!(text.tokenizer.bound() as usize, text.encoder.config().vocab_size);
    assert!(text.tokenizer.encode("heart").len() <= 2, "captions teach the tokenizer their words");
    assert_eq!(model.extras.sampling.guidance, Some(4.0));

    // Stopped after the first checkpoint, then resumed: from the latents on disk, and without them.
    for (name, forget) in [("kept", false), ("forgotten", true)] {
        let out = dir.path().join(name);
        let mut run = TrainLoop::new(config(&vae, &out, &[])).unwrap();
        let stop = run.stop_handle();
        for event in &mut run {
            if let TrainEvent::Step(step) = event.unwrap()
                && step.step == 4
            {
                stop.request();
            }
        }
        drop(run);
        if forget {
            fs::remove_file(out.join("latents.safetensors")).unwrap();
        }
        finish(TrainLoop::resume(&out).unwrap());
        assert_eq!(weights_of(&out), weights_of(&whole), "{name}");
    }
    let other = dir.path().join("other");
    finish(TrainLoop::new(config(&vae, &other, &["run.seed=1"])).unwrap());
    assert_ne!(weights_of(&other), weights_of(&whole));
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let out = dir.path().join("out");
    let error = |builder: Result<ConfigBuilder, tweedie_train::TrainError>| {
        builder.and_then(ConfigBuilder::build).unwrap_err().to_string()
    };
    for (assignment, parts) in [
        ("text.vocabulary=100", &["text.vocabulary = 100", "514"][..]),
        ("text.tokens=2", &["text.tokens = 2", "3 to 1024"]),
        ("text.dropout=1.5", &["text.dropout = 1.5"]),
        ("text.vae=\"\"", &["text.vae"]),
        ("text.width=130", &["num_attention_heads", "130"]),
        ("text.captions.shuffle=3", &["captions.shuffle = 3"]),
        ("augment.edm.p=0.1", &["augment.edm.p = 0.1"]),
        ("diffusion.schedule=flow", &["diffusion"]),
        ("model.mid_attention=false", &["model.mid_attention"]),
        ("conditioning.label_dropout=0.5", &["conditioning", "text-to-image"]),
        ("text.latents.variants=0", &["text.latents.variants = 0"]),
    ] {
        let message = error(ConfigBuilder::preset("text-to-image").and_then(|b| b.set(assignment)));
        for part in parts {
            assert!(message.contains(part), "{assignment}: {message}");
        }
    }
    let message = error(ConfigBuilder::preset("emoji").and_then(|b| b.set("text.tokens=9")));
    assert!(message.contains("[text]"), "{message}");

    let open = |set: &[&str]| TrainLoop::new(config(&vae, &out, set)).err().unwrap().to_string();
    assert!(open(&["data.size=17"]).contains("data.size = 17: expected a multiple of 2"));
    assert!(open(&["text.latents.cache_mb=0"]).contains("text.latents.cache_mb = 0"));
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let missing = open(&[&format!("text.vae={:?}", empty.to_str().unwrap())]);
    assert!(missing.contains("text.vae") && missing.contains("AutoencoderKL"), "{missing}");
}

/// Runs of different lengths are the same run only if their learning rates are.
const DECAY: &[&str] = &["learning_rate.decay_steps=6"];

#[test]
fn damaged_caches_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    finish(TrainLoop::new(config(&vae, &whole, DECAY)).unwrap());
    finish(TrainLoop::new(config(&vae, &parts, &["run.steps=3", "learning_rate.decay_steps=6"])).unwrap());
    for cache in ["latents.safetensors", "latents-held-out.safetensors"] {
        let path = parts.join(cache);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        let last = bytes.len() - 3;
        bytes[last] ^= 0x40;
        fs::write(&path, bytes).unwrap();
        drop(TrainLoop::resume_with(config(&vae, &parts, DECAY)).unwrap());
        assert!(fs::read(&path).unwrap() == good, "{cache}");
    }
    finish(TrainLoop::resume_with(config(&vae, &parts, DECAY)).unwrap());
    assert!(weights_of(&whole) == weights_of(&parts));
}

#[test]
fn another_autoencoder_is_told_when_a_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let out = dir.path().join("run");
    finish(TrainLoop::new(config(&vae, &out, &["run.steps=3", "learning_rate.decay_steps=6"])).unwrap());
    let file = vae.join("diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x20;
    fs::write(&file, bytes).unwrap();
    let mut run = TrainLoop::resume_with(config(&vae, &out, DECAY)).unwrap();
    let told = |e: &Result<TrainEvent, _>| matches!(e, Ok(TrainEvent::Warning(w)) if w.contains("autoencoder changed"));
    assert!(run.any(|e| told(&e)));
}

/// Activations of 16 bits change the weights a little, and leave a whole model.
#[test]
fn networks_are_trained_in_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let (single, half) = (dir.path().join("f32"), dir.path().join("bf16"));
    finish(TrainLoop::new(config(&vae, &single, &[])).unwrap());
    finish(TrainLoop::new(config(&vae, &half, &["run.precision=bf16"])).unwrap());
    assert_ne!(weights_of(&half), weights_of(&single));
    Model::load(&half.join("model"), &Device::flex()).unwrap();
}

/// Learned variances and times that follow the losses, as for images; a resumed run has the same bits.
#[test]
fn variances_and_times_are_learned() {
    let dir = tempfile::tempdir().unwrap();
    let vae = vae(dir.path());
    let set = [
        "diffusion.schedule=squared-cosine",
        "diffusion.train_steps=20",
        "diffusion.variance=learned-range",
        "loss.objective=hybrid",
        "loss.times=loss-second-moment",
    ];
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    finish(TrainLoop::new(config(&vae, &whole, &set)).unwrap());
    let model = Model::load(&whole.join("model"), &Device::flex()).unwrap();
    let spec = model.network.spec();
    assert_eq!(spec.outputs, 2 * spec.inputs);
    let mut run = TrainLoop::new(config(&vae, &parts, &set)).unwrap();
    let stop = run.stop_handle();
    for event in &mut run {
        if let TrainEvent::Step(step) = event.unwrap()
            && step.step == 4
        {
            stop.request();
        }
    }
    drop(run);
    finish(TrainLoop::resume(&parts).unwrap());
    assert_eq!(weights_of(&parts), weights_of(&whole));
}
