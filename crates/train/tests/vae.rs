//! Autoencoder runs from the outside: exact resume with a discriminator, the finished folder, and rejected configurations.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use tweedie_hub::{Component, ComponentDir, Extras};
use tweedie_ops::Device;
use tweedie_train::{ConfigBuilder, RunConfig, TrainEvent, TrainLoop};

fn config(out: &Path, set: &[&str]) -> RunConfig {
    let fixed = [
        "run.steps=6",
        "run.batch=4",
        "run.accumulation=2",
        "run.checkpoint_every=3",
        "run.preview_every=4",
        "run.preview_images=10",
        "run.validate_every=3",
        "run.validation_images=6",
        "run.log_every=1",
        "data.size=16",
        "data.emoji.groups=[\"Smileys & Emotion\"]",
        "vae.channels=[8, 16]",
        "vae.norm_groups=4",
        "vae.adversarial.start=2",
        "vae.adversarial.channels=8",
        "vae.adversarial.layers=1",
    ];
    let builder = ConfigBuilder::preset("vae").unwrap();
    let builder = builder.set(&format!("run.out={:?}", out.to_str().unwrap())).unwrap();
    fixed.iter().chain(set).fold(builder, |b, a| b.set(a).unwrap()).build().unwrap()
}

fn finish(run: TrainLoop) -> Vec<TrainEvent> {
    run.map(Result::unwrap).collect()
}

fn files(out: &Path) -> [Vec<u8>; 2] {
    let last = out.join("checkpoints/step-000006");
    let model = fs::read(out.join("model/diffusion_pytorch_model.safetensors")).unwrap();
    [model, fs::read(last.join("discriminator-optimizer.safetensors")).unwrap()]
}

#[test]
fn a_run_ends_in_an_autoencoder_and_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let events = finish(TrainLoop::new(config(&whole, &[])).unwrap());
    let figures = events.iter().filter_map(|e| match e {
        TrainEvent::Validation { figures, ema_loss: Some(_), .. } => Some(figures),
        _ => None,
    });
    for figures in figures {
        let names: Vec<_> = figures.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["psnr", "ssim", "perceptual", "kl_0", "kl_1", "kl_2", "kl_3"]);
        assert!(figures.iter().all(|f| f.value.is_finite()));
    }
    let log = fs::read_to_string(whole.join("log.jsonl")).unwrap();
    let of_step = |step: usize| log.lines().find(|l| l.contains(&format!("\"step\":{step},"))).unwrap();
    assert!(!of_step(2).contains("discriminator") && of_step(3).contains("adversarial_weight"));

    let model = whole.join("model");
    let loaded = ComponentDir::open(&model).unwrap().load(&Device::flex()).unwrap();
    let Component::Codec(codec) = loaded else { panic!("another network") };
    let extras: Extras = serde_json::from_slice(&fs::read(model.join("tweedie.json")).unwrap()).unwrap();
    let list = |key: &str| -> Vec<f64> {
        let latents = &extras.training["latents"][key];
        latents.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    // All channels together have variance 1 after scaling.
    let (mean, std) = (list("mean"), list("std"));
    let all = mean.iter().sum::<f64>() / 4.0;
    let variance = mean.iter().zip(&std).map(|(m, s)| s * s + m * m).sum::<f64>() / 4.0 - all * all;
    assert!((codec.spec().scale[0] * variance.sqrt() - 1.0).abs() < 1e-9);

    let half = dir.path().join("half");
    let mut run = TrainLoop::new(config(&half, &[])).unwrap();
    let stop = run.stop_handle();
    for event in &mut run {
        if let TrainEvent::Step(step) = event.unwrap()
            && step.step == 4
        {
            stop.request();
        }
    }
    drop(run);
    finish(TrainLoop::resume(&half).unwrap());
    assert!(files(&half) == files(&whole), "a resumed run differs");
    let other = dir.path().join("other");
    finish(TrainLoop::new(config(&other, &["vae.adversarial.weight=0.2"])).unwrap());
    assert_ne!(files(&other)[0], files(&whole)[0]);
}

#[test]
fn losses_and_their_gradients_fall() {
    let dir = tempfile::tempdir().unwrap();
    for (name, set) in [
        ("squares", &["vae.reconstruction=l2", "vae.perceptual=0", "vae.adversarial.weight=0"][..]),
        ("perceptual", &["vae.adversarial.weight=0", "vae.perceptual=1"]),
        (
            "plain",
            &["vae.adversarial.adaptive=false", "vae.adversarial.weight=0.01", "vae.mid_attention=false"],
        ),
    ] {
        let long = ["run.steps=40", "run.accumulation=1", "run.preview_every=0", "learning_rate.warmup=5"];
        let set: Vec<_> = long.iter().chain(set).copied().collect();
        let events = finish(TrainLoop::new(config(&dir.path().join(name), &set)).unwrap());
        let losses: Vec<f64> = events
            .iter()
            .filter_map(|e| match e {
                TrainEvent::Validation { loss, .. } => Some(*loss),
                _ => None,
            })
            .collect();
        assert!(losses[losses.len() - 1] < 0.9 * losses[0], "{name}: {losses:?}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (assignment, parts) in [
        ("vae.perceptual=-1", &["vae.perceptual = -1", "≥ 0"][..]),
        ("vae.adversarial.channels=12", &["vae.adversarial.channels = 12", "multiple of 8"]),
        ("vae.adversarial.layers=9", &["vae.adversarial.layers = 9"]),
        ("vae.norm_groups=7", &["norm_num_groups", "7"]),
        ("vae.channels=[]", &["block_out_channels"]),
        ("data.size=66", &["data.size = 66", "multiple of 4"]),
        ("run.precision=bf16", &["run.precision = bf16"]),
        ("text.tokens=9", &["[text]", "vae"]),
        ("vae.unknown=1", &["unknown"]),
    ] {
        let builder = ConfigBuilder::preset("vae").and_then(|b| b.set(assignment));
        let message = builder.and_then(ConfigBuilder::build).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{assignment}: {message}");
        }
    }
    let message = ConfigBuilder::preset("emoji").unwrap().set("vae.kl=1").unwrap().build().unwrap_err();
    assert!(message.to_string().contains("[vae]"), "{message}");
    // A file that does not contain weights.
    let file = dir.path().join("lpips.safetensors");
    let set = format!("vae.perceptual_weights={:?}", file.to_str().unwrap());
    let open = || TrainLoop::new(config(&dir.path().join("run"), &[&set])).err().unwrap().to_string();
    assert!(open().contains("lpips.safetensors"));
    fs::write(&file, b"not weights").unwrap();
    assert!(open().contains("lpips.safetensors"));
    assert!(!dir.path().join("run").join("config.toml").exists());
}
