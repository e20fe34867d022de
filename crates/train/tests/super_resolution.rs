//! Runs of models that enlarge images, from the outside: the finished folder, its use, and rejected configurations.

#![allow(clippy::unwrap_used)]

use std::{num::NonZeroUsize, ops::ControlFlow, path::Path, sync::atomic::AtomicBool};

use tweedie_hub::{Enlarging, Model};
use tweedie_ops::Device;
use tweedie_pipe::{Image, Inputs, Pipeline, RecordedFile, Request};
use tweedie_train::{ConfigBuilder, RunConfig, TaskKind, TrainEvent, TrainLoop, task_of};

fn config(out: &Path, set: &[&str]) -> RunConfig {
    let fixed = [
        "run.steps=4",
        "run.batch=3",
        "run.checkpoint_every=2",
        "run.preview_every=4",
        "run.preview_images=2",
        "run.preview_steps=2",
        "run.validate_every=4",
        "run.validation_images=4",
        "run.log_every=1",
        "data.size=24",
        "data.emoji.groups=[\"Smileys & Emotion\"]",
        "super_resolution.factor=2",
        "super_resolution.crop=16",
        "model.base_channels=8",
        "model.multipliers=[1, 2]",
        "model.norm_groups=4",
    ];
    let builder = ConfigBuilder::preset("super-resolution").unwrap();
    let builder = builder.set(&format!("run.out={:?}", out.to_str().unwrap())).unwrap();
    fixed.iter().chain(set).fold(builder, |b, a| b.set(a).unwrap()).build().unwrap()
}

fn trained(out: &Path, set: &[&str]) -> Vec<TrainEvent> {
    TrainLoop::new(config(out, set)).unwrap().map(Result::unwrap).collect()
}

fn weights(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("model/unet/diffusion_pytorch_model.safetensors")).unwrap()
}

fn picture(width: usize, height: usize) -> Image {
    let pixels = (0..3 * width * height).map(|i| (i * 37 % 251) as u8).collect();
    Image { width, height, pixels }
}

fn made(pipeline: &Pipeline, request: &Request, small: &[Image]) -> Vec<Image> {
    let inputs = if small.is_empty() { Inputs::default() } else { Inputs::enlarging(small).unwrap() };
    let job = pipeline.prepare_with(request, inputs).unwrap();
    job.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(())).unwrap().images
}

#[test]
fn a_run_ends_in_a_model_that_enlarges_images_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let events = trained(&out, &[]);
    assert!(events.iter().any(|e| matches!(e, TrainEvent::Validation { loss, .. } if loss.is_finite())));
    // A row of the preview: small, by a filter, by the model, and the original.
    let sheet = image_size(&out.join("previews/step-000004.png"));
    assert!(sheet[0] > 4 * 24 && sheet[1] > 2 * 24, "{sheet:?}");

    let model = out.join("model");
    assert_eq!(task_of(&model).unwrap(), TaskKind::SuperResolution);
    let loaded = Model::load(&model, &Device::flex()).unwrap();
    let expected = Enlarging { factor: 2, noise_level: 20, most_noise: 300 };
    assert_eq!((loaded.kind.name, loaded.extras.enlarging), ("SuperResolutionPipeline", Some(expected)));

    let pipeline = Pipeline::of(loaded, &Device::flex());
    let small = [picture(7, 5), picture(5, 7), picture(7, 5)];
    let request = Request {
        count: NonZeroUsize::new(3).unwrap(),
        steps: NonZeroUsize::new(2),
        noise_level: Some(100),
        ..Request::default()
    };
    let images = made(&pipeline, &request, &[small[0].clone()]);
    assert!(images.iter().all(|image| (image.width, image.height) == (14, 10)));
    // Each has noise of its own, and does not depend on the others.
    assert!(images[0] != images[1] && images[1] != images[2]);
    let alone = Request { chunk: NonZeroUsize::new(1), ..request.clone() };
    assert!(made(&pipeline, &alone, &[small[0].clone()]) == images);
    let file = dir.path().join("small.png");
    small[0].save_png(&file).unwrap();
    let of_file = Request { image: Some(RecordedFile::of(&file).unwrap()), ..request.clone() };
    assert!(made(&pipeline, &of_file, &[]) == images);

    let error = |request: &Request, small: &[Image]| {
        let inputs = if small.is_empty() { Ok(Inputs::default()) } else { Inputs::enlarging(small) };
        let job = inputs.and_then(|inputs| pipeline.prepare_with(request, inputs));
        job.err().expect("an error").to_string()
    };
    let sized = |size: [usize; 2]| Request { size: Some(size.to_vec()), ..request.clone() };
    for (found, words) in [
        (error(&request, &[]), ["image", "expected one"]),
        (error(&request, &small), ["image", "of one size"]),
        (error(&sized([10, 12]), &small[..1]), ["size", "[10, 14]"]),
        (error(&Request { noise_level: Some(301), ..request.clone() }, &small[..1]), ["301", "300"]),
        (error(&Request { strength: Some(0.5), ..request.clone() }, &small[..1]), ["strength", "image"]),
        (error(&Request { guidance: Some(2.0), ..request.clone() }, &small[..1]), ["guidance", "null class"]),
    ] {
        assert!(words.iter().all(|word| found.contains(word)), "{found}");
    }
}

fn image_size(path: &Path) -> [usize; 2] {
    let facts = tweedie_data::image_facts(path).unwrap();
    [facts.width as usize, facts.height as usize]
}

#[test]
fn an_interrupted_run_ends_in_the_same_bits_and_a_model_can_be_trained_further() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, parts, more] = ["whole", "parts", "more"].map(|name| dir.path().join(name));
    trained(&whole, &[]);
    trained(&parts, &["run.steps=2"]);
    TrainLoop::resume_with(config(&parts, &[])).unwrap().for_each(|event| drop(event.unwrap()));
    assert!(weights(&whole) == weights(&parts));

    let builder = ConfigBuilder::preset("super-resolution").unwrap().init(&whole.join("model")).unwrap();
    let set = ["run.steps=1", "run.batch=2", "data.size=24", "run.preview_every=0", "run.validate_every=0"];
    let out = format!("run.out={:?}", more.to_str().unwrap());
    let config = set.iter().fold(builder.set(&out).unwrap(), |b, a| b.set(a).unwrap()).build().unwrap();
    assert_eq!((config.super_resolution.factor, config.super_resolution.crop), (2, 16));
    TrainLoop::new(config).unwrap().for_each(|event| drop(event.unwrap()));
    assert!(weights(&more) != weights(&whole));
}

#[test]
fn impossible_pairs_are_refused() {
    let build = |set: &str| {
        let builder = ConfigBuilder::preset("super-resolution").unwrap().set(set).and_then(|b| b.build());
        builder.unwrap_err().to_string()
    };
    for (set, words) in [
        ("super_resolution.factor=1", ["super_resolution.factor", "2 to 8"]),
        ("super_resolution.crop=130", ["super_resolution.crop", "128"]),
        ("super_resolution.crop=66", ["super_resolution.crop", "multiple of 4"]),
        ("super_resolution.noise=1001", ["super_resolution.noise", "1000"]),
        ("super_resolution.noise_level=301", ["super_resolution.noise_level", "300"]),
        ("super_resolution.steps=3", ["unknown", "steps"]),
    ] {
        let message = build(set);
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    let other = ConfigBuilder::preset("emoji").unwrap().set("super_resolution.factor=2").unwrap().build();
    assert!(other.unwrap_err().to_string().contains("[super_resolution]"));
}
