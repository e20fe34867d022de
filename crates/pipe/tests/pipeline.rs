//! Runs from end to end: compared with diffusers' pipelines, image by image, and failures. The models were written by
//! diffusers for the tests of `tweedie-hub`.

#![allow(clippy::unwrap_used)]

use std::{
    num::NonZeroUsize,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use burn::tensor::Device;
use tweedie_core::spacing::Spacing;
use tweedie_data::Rgb;
use tweedie_hub::{Extras, ModelDir, SafetensorsFile, SchedulerConfig, model_dir};
use tweedie_models::{HostTensor, TensorSource, UNet2DModel, export};
use tweedie_ops::{Batch, SampleShape};
use tweedie_pipe::{
    Event, Inputs, NoiseOfRows, Output, Pipeline, PipelineError, Request,
    film::{Film, Show},
    study::Study,
};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/tests/golden")
}

/// The larger; a number that is not one wins.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

/// The device that is tested: that of the environment variable `TWEEDIE_TEST_DEVICE`, or the CPU.
fn device() -> Device {
    let name = std::env::var("TWEEDIE_TEST_DEVICE");
    tweedie_ops::device(name.as_deref().unwrap_or("cpu")).unwrap()
}

fn ddpm(scheduler: &str) -> Pipeline {
    let folder = ModelDir::open(&golden().join("ddpm")).unwrap();
    let scheduler = SchedulerConfig::from_json(scheduler, Path::new("test")).unwrap();
    Pipeline::of_network(folder.load_unet(&device()).unwrap(), scheduler, Extras::default(), &device())
}

fn classes() -> Pipeline {
    let folder = ModelDir::open(&golden().join("classes")).unwrap();
    let scheduler = r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}"#;
    let scheduler = SchedulerConfig::from_json(scheduler, Path::new("test")).unwrap();
    let class_names = ["one", "two", "three", "four"].map(String::from).to_vec();
    let extras = Extras { class_names, null_class: Some(4), ..Default::default() };
    Pipeline::of_network(folder.load_unet(&device()).unwrap(), scheduler, extras, &device())
}

fn request(count: usize, steps: usize) -> Request {
    Request {
        count: NonZeroUsize::new(count).unwrap(),
        steps: NonZeroUsize::new(steps),
        seed: 3,
        ..Default::default()
    }
}

fn run(pipeline: &Pipeline, request: &Request) -> Output {
    pipeline.run(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The noise of `make.py`.
struct Waves;

fn wave(draw: u64, n: usize) -> Vec<f32> {
    let value = |i: usize| (1.3 * (12.9898 * (i + 1) as f64 + 78.233 * (draw as f64 + 1.0)).sin()) as f32;
    (0..n).map(value).collect()
}

impl NoiseOfRows for Waves {
    fn normal(&self, rows: Range<usize>, shape: &SampleShape, draw: u64, device: &Device) -> Batch {
        let values = wave(draw, rows.end * shape.len()).split_off(rows.start * shape.len());
        Batch::from_host(values, rows.len(), shape, device)
    }
}

#[test]
fn pipelines_answer_as_in_diffusers() {
    let expected = SafetensorsFile::open(&golden().join("ddpm_answers.safetensors")).unwrap();
    let ddpm_large = r#"{"_class_name": "DDPMScheduler", "variance_type": "fixed_large",
        "timestep_spacing": "trailing"}"#;
    let threshold = r#"{"_class_name": "DDIMScheduler", "thresholding": true, "sample_max_value": 1.5,
        "clip_sample": false}"#;
    for (name, scheduler, eta) in [
        ("ddpm", r#"{"_class_name": "DDPMScheduler"}"#, None),
        ("ddpm_large_trailing", ddpm_large, None),
        ("ddim", r#"{"_class_name": "DDIMScheduler"}"#, None),
        ("ddim_eta", r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}"#, Some(0.6)),
        ("ddim_threshold", threshold, None),
    ] {
        let request = Request { eta, ..request(2, 10) };
        // The peer's first draw is the initial noise: its number is -1.
        let first: Vec<f32> = (0..2 * 192).map(|i| (1.3 * (12.9898 * (i + 1) as f64).sin()) as f32).collect();
        let noise = HostTensor { shape: vec![2, 3, 8, 8], values: first };
        let go_on = &mut |_: Event<'_>| ControlFlow::Continue(());
        let pipeline = ddpm(scheduler);
        let never = AtomicBool::new(false);
        let inputs = Inputs { noise: Some(noise), draws: Some(Arc::new(Waves)), ..Inputs::default() };
        let job = pipeline.prepare_with(&request, inputs).unwrap();
        let found = job.run(&never, go_on).unwrap().tensors;
        let expected = expected.read(name).unwrap();
        assert_eq!(found.shape, expected.shape);
        let n = found.values.len() as f64;
        let rms = (expected.values.iter().map(|v| f64::from(v * v)).sum::<f64>() / n).sqrt();
        let pairs = found.values.iter().zip(&expected.values);
        let worst = pairs.map(|(f, e)| f64::from((f - e).abs())).fold(0.0, larger) / rms;
        // `trailing` starts at t = 999, where 1/alpha = 157 multiplies the network's rounding errors.
        let tolerance = if name == "ddpm_large_trailing" { 2e-3 } else { 1e-3 };
        assert!(worst < tolerance, "{name}: {worst}");
    }
}

/// The same image, whatever else is made with it.
fn assert_rows_agree(one: &Output, row: usize, many: &Output, label: &str) {
    let n = one.tensors.values.len();
    let found = &many.tensors.values[row * n..(row + 1) * n];
    let worst = one.tensors.values.iter().zip(found).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, larger);
    assert_eq!(worst, 0.0, "{label}: row {row} differs by {worst}");
}

#[test]
fn a_picture_is_the_same_in_every_batch() {
    let pipeline = ddpm(r#"{"_class_name": "DDPMScheduler"}"#);
    let one = run(&pipeline, &request(1, 4));
    let all = run(&pipeline, &request(16, 4));
    assert_rows_agree(&one, 0, &all, "1 against 16");
    for chunk in [1, 3, 5] {
        let chunked = Request { chunk: NonZeroUsize::new(chunk), ..request(16, 4) };
        assert_eq!(run(&pipeline, &chunked).tensors, all.tensors, "chunks of {chunk}");
    }
}

#[test]
fn guided_pictures_are_the_same_in_every_batch() {
    let pipeline = classes();
    let guided = |count, chunk| Request {
        guidance: Some(3.0),
        classes: Some(vec!["Two".parse().unwrap(), "0".parse().unwrap()]),
        chunk: NonZeroUsize::new(chunk),
        ..request(count, 4)
    };
    let one = run(&pipeline, &guided(1, 16));
    let all = run(&pipeline, &guided(5, 4));
    assert_eq!(all.classes, Some(vec![1, 0, 1, 0, 1]));
    assert_rows_agree(&one, 0, &all, "guided");
}

#[test]
fn guidance_acts_where_it_should() {
    let pipeline = classes();
    let with = |guidance: f64, interval| Request {
        guidance: Some(guidance),
        guidance_interval: interval,
        classes: Some(vec!["two".parse().unwrap()]),
        ..request(1, 4)
    };
    let plain = run(&pipeline, &Request { classes: with(1.0, None).classes, ..request(1, 4) });
    assert_eq!(run(&pipeline, &with(1.0, None)).tensors, plain.tensors);
    assert_ne!(run(&pipeline, &with(3.0, None)).tensors, plain.tensors);
    assert_eq!(run(&pipeline, &with(3.0, Some([1e6, 1e7]))).tensors, plain.tensors);
    // Up to 1 is none.
    for guidance in [0.0, 0.5] {
        assert_eq!(run(&pipeline, &with(guidance, None)).tensors, plain.tensors, "{guidance}");
    }
    // With CFG++ 0 is the answer for no class.
    let cfgpp = |request: Request| Request { solver: Some("cfgpp".into()), ..request };
    let none = Request { classes: Some(vec!["4".parse().unwrap()]), ..request(1, 4) };
    let [unguided, none] = [with(0.0, None), none].map(|request| run(&pipeline, &cfgpp(request)).tensors);
    assert_eq!(unguided, none);
    assert_ne!(run(&pipeline, &cfgpp(with(0.6, None))).tensors, none);
    let error = pipeline.prepare(&with(1.0, Some([0.0, 1.0]))).err().unwrap().to_string();
    assert!(error.contains("`guidance_interval`") && error.contains("without guidance"), "{error}");
}

#[test]
fn seeds_and_settings_matter() {
    let pipeline = ddpm(r#"{"_class_name": "DDPMScheduler"}"#);
    let base = run(&pipeline, &request(2, 3));
    assert_eq!(run(&pipeline, &request(2, 3)).tensors, base.tensors);
    assert_ne!(run(&pipeline, &Request { seed: 4, ..request(2, 3) }).tensors, base.tensors);
    // This network does not predict a variance.
    let learned = Request { solver: Some("ddpm-learned".into()), ..request(1, 3) };
    let error = pipeline.prepare(&learned).err().unwrap().to_string();
    assert!(error.contains("`solver`") && error.contains("variance"), "{error}");
    for solver in tweedie_core::solver::SOLVERS.iter().filter(|s| s.name != "ddpm-learned") {
        for spacing in [None, Some(Spacing::Karras { rho: 7.0 })] {
            let solver = Some(solver.name.to_string());
            let output = run(&pipeline, &Request { solver, spacing, ..request(1, 3) });
            assert!(output.tensors.values.iter().all(|v| v.is_finite()));
        }
    }
    let small = run(&pipeline, &Request { size: Some(vec![4, 16]), ..request(1, 2) });
    assert_eq!((small.images[0].height, small.images[0].width), (4, 16));
}

#[test]
fn shifts_follow_the_size_or_the_request() {
    let dynamic = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}"#;
    let pipeline = ddpm(dynamic);
    let second = |request: &Request| pipeline.prepare(request).unwrap().recipe().plan.moves[0].to().sigma;
    let of = |size: usize, mu| Request { size: Some(vec![size; 2]), mu, ..request(1, 3) };
    assert!(second(&of(32, None)) > second(&of(16, None)));
    assert!(second(&of(16, Some(1.0))) > second(&of(32, None)));
    // 256 tokens: base_shift.
    assert_eq!(second(&of(32, None)), second(&of(32, Some(0.5))));
    assert!(run(&pipeline, &request(1, 2)).tensors.values.iter().all(|v| v.is_finite()));
    // Studies of solvers have the same levels.
    let never = AtomicBool::new(false);
    let study = Study::new(&pipeline, &of(32, None), &never).unwrap();
    let studied = study.job().recipe_with(study.job().sampling()).unwrap().plan.moves;
    assert_eq!(studied, pipeline.prepare(&of(32, None)).unwrap().recipe().plan.moves);
    let fixed = ddpm(r#"{"_class_name": "DDPMScheduler"}"#);
    let error = fixed.prepare(&of(16, Some(0.5))).err().unwrap().to_string();
    assert!(error.contains("`mu`") && error.contains("use_dynamic_shifting"), "{error}");
}

#[test]
fn steps_that_a_solver_cannot_follow_are_told() {
    let cosine = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}"#;
    let remark = |schedule: &str, solver: &str, spacing: Option<Spacing>| {
        let asked = Request { solver: Some(solver.into()), spacing, ..request(1, 10) };
        ddpm(schedule).prepare(&asked).unwrap().remark()
    };
    let far = Some(Spacing::Trailing);
    assert!(remark(cosine, "heun", far).unwrap().contains("`heun` starts at sigma/alpha = "));
    assert_eq!(remark(cosine, "heun", Some(Spacing::Karras { rho: 7.0 })), None);
    assert_eq!(remark(cosine, "euler", far), None);
    assert_eq!(remark(r#"{"_class_name": "DDIMScheduler"}"#, "heun", far), None);
}

#[test]
fn events_count_and_show() {
    let pipeline = ddpm(r#"{"_class_name": "DDPMScheduler"}"#);
    let request = Request { chunk: NonZeroUsize::new(2), ..request(3, 5) };
    let mut film = Film::new(3, Show::Clean);
    let mut seen = Vec::new();
    let output = pipeline.run(&request, &mut |event| {
        let Event::Step { index, of, evals, step, .. } = &event else { panic!("a step") };
        assert_eq!((*of, *evals), (10, *index));
        seen.push((*index, *step));
        film.see(&event, 5, &mut |preview, show| preview.images(show, None)).unwrap();
        ControlFlow::Continue(())
    });
    let output = output.unwrap();
    assert_eq!((seen.first(), seen.last(), seen.len()), (Some(&(1, 1)), Some(&(10, 5)), 10));
    let strip = film.strip(1, Rgb([0; 3]));
    assert_eq!((strip.width, strip.height), (3 * 9 + 1, 3 * 9 + 1));
    let frames = film.frames(3, 0, Rgb([0; 3]));
    assert_eq!((frames.len(), frames[0].width), (3, 24));
    // The last step goes to a clean sample, so its prediction is the result.
    let last = frames.last().unwrap();
    assert_eq!(last.pixels[..8 * 3], output.images[0].pixels[..8 * 3]);
}

#[test]
fn runs_can_be_stopped() {
    let pipeline = ddpm(r#"{"_class_name": "DDPMScheduler"}"#);
    let mut steps = 0;
    let broken = pipeline.run(&request(1, 5), &mut |_| {
        steps += 1;
        if steps == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(broken, Err(PipelineError::Cancelled)));
    assert_eq!(steps, 2);
    let flag = AtomicBool::new(false);
    let stopped = pipeline.prepare(&request(1, 5)).unwrap().run(&flag, &mut |_| {
        flag.store(true, Ordering::Relaxed);
        ControlFlow::Continue(())
    });
    assert!(matches!(stopped, Err(PipelineError::Cancelled)));
}

#[test]
fn numbers_that_are_not_finite_stop_the_run_and_name_the_step() {
    let folder = ModelDir::open(&golden().join("ddpm")).unwrap();
    let mut weights = export(&folder.load_unet(&device()).unwrap());
    weights.get_mut("conv_out.bias").unwrap().values[0] = f32::NAN;
    let unet = UNet2DModel::load(&folder.unet, &weights, &device()).unwrap();
    let pipeline = Pipeline::of_network(unet, folder.scheduler.unwrap(), Extras::default(), &device());
    let failed = pipeline.run(&request(1, 5), &mut |_| ControlFlow::Continue(()));
    let text = failed.unwrap_err().to_string();
    assert!(text.contains("step 1 of 5") && text.contains("not finite"), "{text}");
}

#[test]
fn requests_that_do_not_suit_are_errors_naming_the_field() {
    let pipeline = ddpm(r#"{"_class_name": "DDPMScheduler"}"#);
    let error = |request: Request| {
        pipeline.run(&request, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    let class = Some(vec!["0".parse().unwrap()]);
    assert!(error(Request { classes: class, ..request(1, 2) }).contains("`classes`"));
    assert!(error(Request { guidance: Some(2.0), ..request(1, 2) }).contains("`guidance`"));
    assert!(error(Request { size: Some(vec![7, 8]), ..request(1, 2) }).contains("`size`"));
    assert!(error(Request { size: Some(vec![0, 8]), ..request(1, 2) }).contains("`size`"));
    assert!(error(Request { size: Some(vec![usize::MAX, 8]), ..request(1, 2) }).contains("`size`"));
    assert!(error(Request { eta: Some(-0.5), ..request(1, 2) }).contains("eta"));
    assert!(error(request(1, 2000)).contains("2000"));
    let noise = HostTensor { shape: vec![1, 3, 4, 4], values: vec![0.0; 48] };
    let inputs = Inputs { noise: Some(noise), ..Inputs::default() };
    let failed = pipeline.prepare_with(&request(1, 2), inputs);
    assert!(failed.err().unwrap().to_string().contains("`noise`"));
}

#[test]
fn models_without_a_scheduler_say_so() {
    let error = Pipeline::load(&golden().join("classes"), &device()).err().unwrap().to_string();
    assert!(error.contains("scheduler_config.json"), "{error}");
    Pipeline::load(&golden().join("ddpm"), &device()).unwrap();
}

/// Networks for flows and for EDM's preconditioning are sampled from folders written here.
#[test]
fn every_kind_of_trained_model_is_sampled_from_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let unet = ModelDir::open(&golden().join("ddpm")).unwrap().load_unet(&device()).unwrap();
    for (name, scheduler) in [
        ("flow", SchedulerConfig::flow(1000, 2.0).unwrap()),
        ("edm", SchedulerConfig::edm(0.002, 80.0, 0.5).unwrap()),
    ] {
        let path = dir.path().join(name);
        model_dir::save(&path, &unet, &scheduler, &Extras::default(), Default::default()).unwrap();
        let pipeline = Pipeline::load(&path, &device()).unwrap();
        for solver in [None, Some("heun"), Some("dpmpp-2m"), Some("ddpm")] {
            let request = Request { solver: solver.map(String::from), ..request(2, 4) };
            let output = run(&pipeline, &request);
            assert!(output.tensors.values.iter().all(|v| v.is_finite()), "{name} {solver:?}");
        }
    }
}

/// The defaults of a request for a model with classes, of which one means "no class".
#[test]
fn requests_are_checked_against_the_model() {
    let pipeline = classes();
    let prepare = |json: &str| -> Result<_, String> {
        let request: Request = serde_json::from_str(json).map_err(|e| e.to_string())?;
        pipeline.prepare(&request).map_err(|e| e.to_string())
    };
    let chosen = |json| prepare(json).unwrap().classes().unwrap().to_vec();
    assert_eq!(chosen(r#"{"count": 5}"#), [0, 1, 2, 3, 0]);
    assert_eq!(chosen(r#"{"count": 3, "classes": ["two", 4]}"#), [1, 4, 1]);
    assert_eq!(prepare(r#"{"guidance": 0.5}"#).unwrap().scale_for("ddim"), 1.0);
    for (json, words) in [
        (r#"{"classes": ["cow"]}"#, ["`classes`", "one, two, three"]),
        (r#"{"classes": [9]}"#, ["`classes`", "0 to 4"]),
        (r#"{"classes": []}"#, ["`classes`", "at least one"]),
        (r#"{"guidance": -1}"#, ["`guidance`", "≥ 0"]),
        (r#"{"guidance": 2, "guidance_interval": [2, 1]}"#, ["`guidance_interval`", "from < to"]),
        (r#"{"count": 1000000}"#, ["`count`", "at most"]),
        (r#"{"count": 0}"#, ["0", "nonzero"]),
        (r#"{"size": [1000000, 1000000]}"#, ["`size`", "at most"]),
        (r#"{"size": [8]}"#, ["`size`", "expected 2 numbers"]),
        (r#"{"stepps": 3}"#, ["stepps", "steps"]),
        (r#"{"prompt": 3}"#, ["a text or", "a list of texts"]),
    ] {
        let error = prepare(json).err().unwrap();
        assert!(words.iter().all(|w| error.contains(w)), "{json}: {error}");
    }
}

/// An image is a sample of a model in pixels: with no noise it comes back.
#[test]
fn models_in_pixels_start_from_an_image() {
    let pipeline =
        ddpm(r#"{"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "clip_sample": false}"#);
    let mut image = tweedie_data::Image::filled(8, 8, Rgb([200, 40, 90]));
    image.pixels[0] = 7;
    let run = |strength: f64| {
        let request = Request { strength: Some(strength), ..request(2, 100) };
        let inputs = Inputs { image: Some(image.clone()), ..Inputs::default() };
        let job = pipeline.prepare_with(&request, inputs).unwrap();
        job.run(&AtomicBool::new(false), &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let off = |output: &Output| {
        let x0 = image.to_planes();
        let each = output.tensors.values.chunks(x0.len());
        each.map(|row| row.iter().zip(&x0).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / 192.0)
            .fold(0.0, f32::max)
    };
    let (little, much) = (run(0.01), run(0.9));
    assert_eq!(little.evals, 1);
    assert!(off(&little) < 0.05 && off(&much) > 10.0 * off(&little), "{} {}", off(&little), off(&much));
    let request = Request { strength: Some(0.5), ..request(1, 4) };
    let wrong = Inputs { image: Some(tweedie_data::Image::filled(4, 8, Rgb([0; 3]))), ..Inputs::default() };
    let error = pipeline.prepare_with(&request, wrong).err().unwrap().to_string();
    assert!(error.contains("`image`") && error.contains("8×4 pixels, expected 8×8"), "{error}");
}
