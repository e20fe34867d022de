//! Text-to-video runs from the outside: exact resume, the finished pipeline, and rejected configurations.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use tweedie_data::{Image, Rgb, Video};
use tweedie_hub::{
    Model, SafetensorsFile,
    weights::{self, Precision},
};
use tweedie_models::{AutoencoderKl, AutoencoderKlConfig, TensorSource, export, unet::SampleSize};
use tweedie_ops::Device;
use tweedie_system::ranks::Threads;
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

/// Eight clips of a patch that moves, a short one and a broken one.
fn folder(root: &Path) {
    fs::create_dir_all(root).unwrap();
    for (i, ending) in ["gif", "webp", "png", "y4m"].repeat(2).into_iter().enumerate() {
        let frame = |f: usize| {
            let mut image = Image::filled(20, 16, Rgb([200, 30 * i as u8, 90]));
            let at = 3 * (f % 16 * 20 + (f + i) % 20);
            image.pixels[at..at + 3].fill(0);
            image
        };
        let frames = (0..6 + 3 * i).map(frame).collect();
        Video { frames, delay: 125 }.write(&root.join(format!("{i}.{ending}")), None).unwrap();
        fs::write(root.join(format!("{i}.txt")), format!("a patch moves by {i}")).unwrap();
    }
    Video { frames: vec![Image::filled(20, 16, Rgb([0; 3])); 3], delay: 120 }
        .write(&root.join("short.gif"), None)
        .unwrap();
    fs::write(root.join("broken.gif"), "GIF89a").unwrap();
}

#[test]
fn clips_of_a_folder_are_learned_and_a_run_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (vae, clips) = (vae(dir.path()), dir.path().join("clips"));
    folder(&clips);
    let source = format!("data.source={{ folder = {:?} }}", clips.to_str().unwrap());
    let set = [&*source, "data.clips.frames=4", "data.holdout=0.2", "text.captions.missing=\"class\""];
    let whole = dir.path().join("whole");
    let events = finish(TrainLoop::new(config(&vae, &whole, &set)).unwrap());
    let sizes = events.iter().find_map(|e| match e {
        TrainEvent::Started { held_out, images, .. } => Some((*images, *held_out)),
        _ => None,
    });
    assert_eq!(sizes, Some((7, 1)));
    let told = |events: &[TrainEvent]| -> String {
        let texts = events.iter().filter_map(|e| match e {
            TrainEvent::Warning(text) => Some(text.clone()),
            _ => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    };
    let text = told(&events);
    assert!(text.contains("short.gif: it has 3 frames at 8 per second, fewer than a sample of 4"), "{text}");
    assert!(text.contains("broken.gif: truncated"), "{text}");
    let model = Model::load(&whole.join("model"), &Device::flex()).unwrap();
    assert_eq!(model.extras.sampling.fps, Some(8));

    // Stopped and resumed, from the latents on disk and without them; on two ranks.
    for (name, forget) in [("kept", false), ("forgotten", true)] {
        let out = dir.path().join(name);
        let mut run = TrainLoop::new(config(&vae, &out, &set)).unwrap();
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
        let text = told(&finish(TrainLoop::resume(&out).unwrap()));
        assert!(text.contains("short.gif") && !text.contains("changed since"), "{text}");
        assert!(weights_of(&out) == weights_of(&whole), "{name}");
    }
    let out = dir.path().join("ranks");
    let shared = config(&vae, &out, &set);
    std::thread::scope(|scope| {
        for ranks in Threads::all(2) {
            let shared = shared.clone();
            scope.spawn(move || finish(TrainLoop::new_on(shared, Arc::new(ranks)).unwrap()));
        }
    });
    assert!(weights_of(&out) == weights_of(&whole), "two ranks");

    // Other contents are noticed, and nothing to learn is an error.
    film_of(&clips.join("0.gif"));
    let text = told(&finish(TrainLoop::resume(&dir.path().join("kept")).unwrap()));
    assert!(text.contains("the clips or the autoencoder changed since the last checkpoint"), "{text}");
    let long = [&set[..], &["data.clips.frames=400"]].concat();
    let error = TrainLoop::new(config(&vae, &dir.path().join("long"), &long)).err().unwrap().to_string();
    assert!(error.contains("no clips in") && error.contains("none of the"), "{error}");
    let small = [&set[..], &["text.latents.cache_mb=0"]].concat();
    let error = TrainLoop::new(config(&vae, &dir.path().join("small"), &small)).err().unwrap().to_string();
    assert!(error.contains("text.latents.cache_mb = 0"), "{error}");
}

/// Another clip in place of one.
fn film_of(path: &Path) {
    Video { frames: vec![Image::filled(20, 16, Rgb([7; 3])); 9], delay: 125 }.write(path, None).unwrap();
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
        ("data.source=\"emoji\"", "a folder of clips (--data DIR), or \"moving_emoji\""),
        ("augment.flip=0.5", "no table [augment]"),
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
