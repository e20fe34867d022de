//! DALL·E 2 from nothing: CLIP, the prior, the enlarger and the decoder in runs of a few steps; exact resume of each; the finished
//! folder, and rejected configurations.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use tweedie_hub::{Clip, ComponentDir, Model, SafetensorsFile};
use tweedie_models::TensorSource;
use tweedie_ops::Device;
use tweedie_pipe::{Image, Inputs, Output, Pipeline, PipelineError, Request, interpolate::between};
use tweedie_train::{ConfigBuilder, RunConfig, TrainError, TrainEvent, TrainLoop};

const COMMON: [&str; 12] = [
    "run.steps=4",
    "run.batch=4",
    "run.accumulation=2",
    "run.checkpoint_every=2",
    "run.preview_every=4",
    "run.preview_images=16",
    "run.preview_steps=2",
    "run.validate_every=4",
    "run.validation_images=6",
    "run.log_every=1",
    "data.size=16",
    "data.emoji.groups=[\"Food & Drink\"]",
];
const CLIP: [&str; 9] = [
    "clip.patch=8",
    "clip.width=16",
    "clip.layers=1",
    "clip.heads=2",
    "text.vocabulary=600",
    "text.tokens=12",
    "text.width=24",
    "text.layers=1",
    "text.heads=2",
];
const PRIOR: [&str; 4] = ["prior.heads=2", "prior.head_width=8", "prior.layers=1", "text.latents.variants=2"];
const UNET: [&str; 4] =
    ["model.base_channels=8", "model.multipliers=[1, 2]", "model.norm_groups=4", "model.layers_per_block=1"];
const DECODER: [&str; 4] =
    ["model.attention_levels=[1]", "model.head_channels=8", "unclip.tokens=2", "unclip.width=12"];
const ENLARGER: [&str; 3] = ["data.size=32", "super_resolution.factor=2", "super_resolution.crop=16"];

fn builder(preset: &str, out: &Path, set: &[&[&str]]) -> Result<ConfigBuilder, TrainError> {
    let out = format!("run.out={:?}", out.to_str().unwrap());
    let all = COMMON.iter().chain(set.iter().copied().flatten()).copied().chain([&*out]);
    all.fold(ConfigBuilder::preset(preset), |builder, assignment| builder?.set(assignment))
}

fn config(preset: &str, out: &Path, set: &[&[&str]]) -> RunConfig {
    builder(preset, out, set).unwrap().build().unwrap()
}

fn key(name: &str, path: &Path) -> String {
    format!("unclip.{name}={:?}", path.to_str().unwrap())
}

fn weights(out: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    let mut folders = vec![out.join("model")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "safetensors") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A whole run, and one that is stopped and resumed, which end in the same bits.
fn trained(dir: &Path, preset: &str, set: &[&[&str]]) -> (PathBuf, Vec<TrainEvent>) {
    let (whole, parts) = (dir.join(preset), dir.join(format!("{preset}-parts")));
    let events = TrainLoop::new(config(preset, &whole, set)).unwrap().map(Result::unwrap).collect();
    let mut run = TrainLoop::new(config(preset, &parts, set)).unwrap();
    let stop = run.stop_handle();
    for event in &mut run {
        if let TrainEvent::Step(step) = event.unwrap()
            && step.step == 3
        {
            stop.request();
        }
    }
    drop(run);
    TrainLoop::resume(&parts).unwrap().for_each(|event| drop(event.unwrap()));
    assert!(weights(&whole) == weights(&parts), "{preset}");
    (whole, events)
}

fn picture(width: usize, height: usize, by: usize) -> Image {
    let pixels = (0..3 * width * height).map(|i| (i * by % 251) as u8).collect();
    Image { width, height, pixels }
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn made(pipeline: &Pipeline, request: &Request, inputs: Inputs) -> Result<Output, PipelineError> {
    pipeline.prepare_with(request, inputs)?.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(()))
}

#[test]
fn four_runs_end_in_one_folder() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (clip, events) = trained(dir, "clip", &[&CLIP]);
    let figures = events.iter().find_map(|event| match event {
        TrainEvent::Validation { figures, .. } => Some(figures.clone()),
        _ => None,
    });
    let names: Vec<String> = figures.unwrap().into_iter().map(|figure| figure.name).collect();
    assert_eq!(names, ["pairs", "text_top1", "text_top5", "image_top1", "image_top5"]);
    let sheet = image_size(&clip.join("previews/step-000004.png"));
    assert!(sheet[0] > 6 * 16 && sheet[1] > 2 * 16, "{sheet:?}");
    let opened = Clip::open(&clip.join("model"), &Device::flex()).unwrap();
    assert_eq!(opened.text.encoder.config().projection_dim, 24);
    assert_eq!(opened.images.processor.crop, [16, 16]);

    let of_clip = key("clip", &clip);
    let (prior, _) = trained(dir, "prior", &[&PRIOR, &[&of_clip]]);
    statistics_are_those_of_the_embeddings(&prior);
    let (enlarger, _) = trained(dir, "enlarger", &[&UNET, &ENLARGER]);
    let stages = [of_clip.clone(), key("prior", &prior), key("enlarger", &enlarger)];
    let stages = stages.each_ref().map(String::as_str);
    let (whole, _) = trained(dir, "decoder", &[&UNET, &DECODER, &stages]);

    let model = Model::load(&whole.join("model"), &Device::flex()).unwrap();
    assert_eq!(model.kind.name, "UnCLIPPipeline");
    assert!(model.reads_texts() && model.reads_image());
    assert_eq!(model.unclip.as_ref().unwrap().prior.as_ref().unwrap().extras.sampling.guidance, Some(2.0));
    let pipeline = Pipeline::of(model, &Device::flex());
    assert_eq!((pipeline.native_size(), pipeline.result_size()), (Some(vec![16; 2]), Some(vec![32; 2])));

    let request =
        Request { count: count(2), steps: Some(count(2)), prior_steps: Some(count(2)), ..Request::default() };
    let of_text = Request { prompts: vec!["red apple".into()], ..request.clone() };
    let images = made(&pipeline, &of_text, Inputs::default()).unwrap().images;
    assert_eq!((images.len(), images[0].width), (2, 32));
    let image = picture(20, 30, 37);
    let varied = |request: &Request| {
        let inputs = Inputs { image: Some(image.clone()), ..Inputs::default() };
        made(&pipeline, request, inputs)
    };
    let of_image = Request { prior_steps: None, ..request };
    let variations = varied(&of_image).unwrap().images;
    assert_eq!(variations.len(), 2);
    // An image and its embedding are the same condition.
    let embeddings = Some(pipeline.embedding(&image).unwrap());
    let inputs = Inputs { embeddings, ..Inputs::default() };
    assert_eq!(made(&pipeline, &of_image, inputs).unwrap().images, variations);
    for (request, field) in [
        (Request { prompts: vec!["apple".into()], ..of_image.clone() }, "prompt"),
        (Request { prior_guidance: Some(2.0), ..of_image.clone() }, "prior_guidance"),
    ] {
        let error = varied(&request).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }

    // From one image to another, all from the noise of the first variation.
    let ends = [&image, &picture(16, 16, 101)];
    let never = AtomicBool::new(false);
    let way =
        between(&pipeline, &of_image, ends, count(3), &never, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((way.len(), way[0].width), (3, 32));
    let first = &varied(&of_image).unwrap().images[0];
    let off = way[0].pixels.iter().zip(&first.pixels).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off.is_some_and(|off| off <= 1), "{off:?}");
    assert!(way[0] != way[1] && way[1] != way[2]);

    // Without prior and enlarger: variations of the decoder's size.
    let alone = dir.join("alone");
    let run = TrainLoop::new(config("decoder", &alone, &[&UNET, &DECODER, &[&of_clip]])).unwrap();
    run.for_each(|event| drop(event.unwrap()));
    let model = Model::load(&alone.join("model"), &Device::flex()).unwrap();
    assert_eq!((model.kind.name, model.reads_texts()), ("UnCLIPImageVariationPipeline", false));
    let pipeline = Pipeline::of(model, &Device::flex());
    let inputs = Inputs { image: Some(image.clone()), ..Inputs::default() };
    assert_eq!(made(&pipeline, &of_image, inputs).unwrap().images[0].width, 16);
    for (request, part) in [(&of_text, "prior"), (&of_image, "expected one")] {
        let error = made(&pipeline, request, Inputs::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    rejected(dir, &clip, &enlarger);
}

/// Those in the prior are the mean and the deviation of the embeddings that the run keeps.
fn statistics_are_those_of_the_embeddings(prior: &Path) {
    let weights = ComponentDir::open(&prior.join("model")).unwrap().weights().unwrap();
    let found = tweedie_hub::model::statistics(&weights).unwrap();
    let kept = SafetensorsFile::open(&prior.join("latents.safetensors")).unwrap().read("mean").unwrap();
    assert_eq!(kept.shape[1..], [24, 1, 1]);
    let rows = kept.shape[0] as f64;
    let mean = |of: &dyn Fn(f64) -> f64, i: usize| {
        kept.values.iter().skip(i).step_by(24).map(|v| of(f64::from(*v))).sum::<f64>() / rows
    };
    for i in 0..24 {
        let center = mean(&|v| v, i);
        let std = mean(&|v| (v - center).powi(2), i).sqrt();
        for (found, expected) in [(found[0][i], center), (found[1][i], std)] {
            assert!((f64::from(found) - expected).abs() < 1e-6 * center.abs().max(std), "{found} {expected}");
        }
    }
}

/// What does not fit is named before the training.
fn rejected(dir: &Path, clip: &Path, enlarger: &Path) {
    let out = dir.join("rejected");
    let of_clip = key("clip", clip);
    let error = |preset: &str, set: &[&[&str]]| {
        let config = builder(preset, &out, set).and_then(ConfigBuilder::build);
        config.and_then(TrainLoop::new).err().unwrap().to_string()
    };
    let decoder = [&UNET[..], &DECODER, &[&*of_clip]];
    let no_clip = key("clip", &dir.join("nothing"));
    let told = dir.join("told");
    let run =
        TrainLoop::new(config("enlarger", &told, &[&UNET, &ENLARGER, &["super_resolution.blind=false"]]));
    run.unwrap().for_each(|event| drop(event.unwrap()));
    let (told, wrong_prior) = (key("enlarger", &told), key("prior", enlarger));
    for (preset, set, parts) in [
        ("clip", vec![&CLIP[..], &["clip.patch=5"]], &["clip.patch = 5", "data.size = 16"][..]),
        ("clip", vec![&CLIP[..], &["run.batch=1"]], &["run.batch = 1", "at least 2"]),
        ("clip", vec![&CLIP[..], &["text.dropout=0.3"]], &["text.dropout = 0.3", "clip"]),
        ("clip", vec![&CLIP[..], &["clip.temperature=0"]], &["clip.temperature = 0"]),
        ("prior", vec![&PRIOR[..], &[&*no_clip]], &["unclip.clip", "image_encoder"]),
        ("prior", vec![&PRIOR[..], &[&*of_clip, "text.width=16"]], &["text.width = 16", "unclip.clip"]),
        ("prior", vec![&PRIOR[..], &[&*of_clip, "unclip.tokens=3"]], &["unclip", "decoder"]),
        (
            "prior",
            vec![&PRIOR[..], &[&*of_clip, "diffusion.parameterization=v"]],
            &["parameterization = v", "x0 or eps"],
        ),
        (
            "decoder",
            [&decoder[..], &[&["diffusion.variance=fixed-small"][..]]].concat(),
            &["diffusion.variance", "learned-range"],
        ),
        (
            "decoder",
            [&decoder[..], &[&["text.prompts=[\"a\"]"][..]]].concat(),
            &["text.prompts", "variations"],
        ),
        ("decoder", [&decoder[..], &[&[&*told][..]]].concat(), &["unclip.enlarger", "blind"]),
        ("decoder", [&decoder[..], &[&[&*wrong_prior][..]]].concat(), &["unclip.prior"]),
    ] {
        let message = error(preset, &set);
        for part in parts {
            assert!(message.contains(part), "{preset} {part}: {message}");
        }
    }
    // A prior of another CLIP.
    let other = dir.join("other");
    let run = TrainLoop::new(config("clip", &other, &[&CLIP, &["run.seed=1"]])).unwrap();
    run.for_each(|event| drop(event.unwrap()));
    let (of_other, prior) = (key("clip", &other), key("prior", &dir.join("prior")));
    let message = error("decoder", &[&UNET, &DECODER, &[&of_other, &prior]]);
    assert!(message.contains("unclip.prior") && message.contains("another"), "{message}");
}

fn image_size(path: &Path) -> [usize; 2] {
    let facts = tweedie_data::image_facts(path).unwrap();
    [facts.width, facts.height]
}
