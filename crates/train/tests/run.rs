//! Whole runs of a very small network.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use tweedie_hub::weights::SafetensorsFile;
use tweedie_models::{UNet2DConfig, UNet2DModel};
use tweedie_train::{
    ConfigBuilder, RunConfig, Step, TrainError, TrainEvent, TrainLoop, checkpoint, post_hoc,
};

/// Everything that draws random values is turned on.
const TOML: &str = r#"
    preset = "tiny"
    [run]
    steps = 6
    batch = 3
    accumulation = 2
    checkpoint_every = 3
    preview_every = 0
    validate_every = 0
    log_every = 2
    [data]
    size = 8
    [model]
    base_channels = 8
    norm_groups = 4
    head_channels = 8
    dropout = 0.1
    [augment]
    flip = 0.5
    [augment.edm]
    p = 0.5
    [ema]
    kind = "power"
    stds = [0.05, 0.1]
    [conditioning]
    label_dropout = 0.3
"#;

fn config(out: &Path, assignments: &[&str]) -> RunConfig {
    let mut builder = ConfigBuilder::text(TOML, "test").unwrap();
    for a in assignments {
        builder = builder.set(a).unwrap();
    }
    let mut config = builder.build().unwrap();
    config.run.out = out.into();
    config
}

fn run(train: TrainLoop) -> Result<Vec<TrainEvent>, TrainError> {
    train.collect()
}

fn steps(events: &[TrainEvent]) -> Vec<Step> {
    events.iter().filter_map(|e| if let TrainEvent::Step(s) = e { Some(*s) } else { None }).collect()
}

fn warnings(events: &[TrainEvent]) -> Vec<String> {
    events
        .iter()
        .filter_map(|e| if let TrainEvent::Warning(w) = e { Some(w.clone()) } else { None })
        .collect()
}

/// The bytes of all tensors in the checkpoint of `step`.
fn tensors(out: &Path, step: u64) -> BTreeMap<String, Vec<u8>> {
    let dir = out.join(format!("checkpoints/step-{step:06}"));
    ["model", "ema", "ema-1", "optimizer"]
        .map(|name| (name.to_owned(), fs::read(dir.join(format!("{name}.safetensors"))).unwrap()))
        .into()
}

fn losses(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("log.jsonl")).unwrap();
    let value = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
    text.lines().map(value).map(|v| format!("{} {} {}", v["step"], v["loss"], v["grad_norm"])).collect()
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let uninterrupted = run(TrainLoop::new(config(&whole, &[])).unwrap()).unwrap();

    let first = run(TrainLoop::new(config(&parts, &["run.steps=3"])).unwrap()).unwrap();
    // As if it had continued and been killed while writing.
    for name in ["log.jsonl", "tensorboard/events.out.tfevents.tweedie"] {
        let mut file = fs::OpenOptions::new().append(true).open(parts.join(name)).unwrap();
        std::io::Write::write_all(&mut file, b"{\"event\":\"step\",\"step\":4,\"lo").unwrap();
    }
    let rest = run(TrainLoop::resume_with(config(&parts, &[])).unwrap()).unwrap();

    let bits = |events: &[TrainEvent]| -> Vec<_> {
        steps(events).iter().map(|s| (s.step, s.images, s.loss.to_bits(), s.grad_norm.to_bits())).collect()
    };
    assert_eq!(bits(&uninterrupted), [bits(&first), bits(&rest)].concat());
    assert_eq!(bits(&uninterrupted).len(), 6);
    for step in [3, 6] {
        for (name, bytes) in tensors(&whole, step) {
            assert!(bytes == tensors(&parts, step)[&name], "{name} of step {step}");
        }
    }
    assert!(tensors(&whole, 3)["model"] != tensors(&whole, 6)["model"]);
    assert!(tensors(&whole, 6)["ema"] != tensors(&whole, 6)["ema-1"]);
    assert_eq!(losses(&whole), losses(&parts));
    let events = "tensorboard/events.out.tfevents.tweedie";
    assert_eq!(
        fs::metadata(whole.join(events)).unwrap().len(),
        fs::metadata(parts.join(events)).unwrap().len()
    );

    // Resuming a finished run changes nothing.
    let again = run(TrainLoop::resume(&parts).unwrap()).unwrap();
    assert!(steps(&again).is_empty() && matches!(again.last(), Some(TrainEvent::Finished(_))));
}

#[test]
fn a_damaged_checkpoint_is_skipped_for_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(TrainLoop::new(config(&out, &["run.checkpoint_every=2"])).unwrap()).unwrap();
    let whole = tensors(&out, 6);

    let damaged = out.join("checkpoints/step-000006/optimizer.safetensors");
    let length = fs::metadata(&damaged).unwrap().len();
    fs::OpenOptions::new().write(true).open(&damaged).unwrap().set_len(length - 10).unwrap();
    fs::remove_file(out.join("checkpoints/step-000004/state.json")).unwrap();

    let events = run(TrainLoop::resume(&out).unwrap()).unwrap();
    let warnings = warnings(&events);
    assert!(warnings[0].contains("step-000006") && warnings[0].contains("optimizer.safetensors is damaged"));
    assert!(warnings[1].contains("step-000004/state.json"), "{warnings:?}");
    assert_eq!(steps(&events).len(), 4);
    assert!(tensors(&out, 6) == whole);
    // What was damaged is still there, by another name.
    let kept = out.join("checkpoints/damaged-step-000006/optimizer.safetensors");
    assert_eq!(fs::metadata(kept).unwrap().len(), length - 10);
}

/// Everything in a folder by relative path.
fn everything(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Rewrites a `state.json`.
fn rewrite(out: &Path, step: u64, from: &str, to: &str) {
    let path = out.join(format!("checkpoints/step-{step:06}/state.json"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn checkpoints_that_cannot_be_read_are_never_trained_over() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(TrainLoop::new(config(&out, &["run.checkpoint_every=3"])).unwrap()).unwrap();
    let refused = |words: &[&str]| {
        let before = everything(&out);
        let error = TrainLoop::resume(&out).err().unwrap().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{error}"));
        assert!(everything(&out) == before);
    };
    // The last is another version's: the one before it would lose three steps.
    rewrite(&out, 6, "\"format\": 1", "\"format\": 2");
    refused(&["step-000006", "format 2, expected 1"]);
    rewrite(&out, 3, "\"format\": 1", "\"format\": 2");
    refused(&["step-000006", "format 2, expected 1"]);
    // All of them are damaged.
    for step in [3, 6] {
        rewrite(&out, step, "\"format\": 2", "\"format\": 1");
        rewrite(&out, step, "\"images\": ", "\"images\": 1");
    }
    refused(&["no checkpoint", "nothing was changed", "step-000003", "step-000006", "checksum"]);
    // Without its configuration it is no place for a new run either.
    fs::remove_file(out.join("config.toml")).unwrap();
    let error = TrainLoop::new(config(&out, &[])).err().unwrap().to_string();
    assert!(error.contains("contains checkpoints of a run"), "{error}");
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    let error = TrainLoop::new(config(&out, &[])).err().unwrap().to_string();
    assert!(error.contains("contains the log of a run"), "{error}");
}

#[test]
fn numbers_that_no_run_has_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(TrainLoop::new(config(&out, &["run.steps=1"])).unwrap()).unwrap();
    let path = out.join("checkpoints/step-000001/state.json");
    let whole = fs::read_to_string(&path).unwrap();
    let state: serde_json::Value = serde_json::from_str(&whole).unwrap();
    for (key, value) in [
        ("elapsed_s", "-1"),
        ("elapsed_s", "1e300"),
        ("step", "18446744073709551615"),
        ("images", "9223372036854775807"),
        ("step", "-1"),
        ("format", "1e99"),
    ] {
        let mut changed = state.clone();
        changed[key] = serde_json::from_str(value).unwrap();
        fs::write(&path, changed.to_string()).unwrap();
        let error = TrainLoop::resume(&out).err().unwrap().to_string();
        assert!(error.contains(key) || error.contains("line 1"), "{key}: {error}");
        assert!(error.contains("state.json"), "{error}");
    }
    // One bit of any value.
    fs::write(&path, whole.replace("\"beta2\": 0.99", "\"beta2\": 0.98")).unwrap();
    assert!(TrainLoop::resume(&out).err().unwrap().to_string().contains("checksum"));
    fs::write(&path, whole).unwrap();
    TrainLoop::resume(&out).unwrap();
}

#[test]
fn a_run_that_cannot_begin_removes_nothing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let first = TrainLoop::new(config(&out, &["run.steps=2"])).unwrap();
    // Both what finds the run at once and what fails after it has begun.
    assert!(TrainLoop::new(config(&out, &[])).is_err());
    assert!(TrainLoop::new(config(&out, &["data.source={ folder = \"none\" }"])).is_err());
    run(first).unwrap();
    assert!(out.join("model/model_index.json").exists());
    // In a folder that was there before, only what it made itself.
    let mine = dir.path().join("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("notes.txt"), "mine").unwrap();
    assert!(TrainLoop::new(config(&mine, &["data.source={ folder = \"none\" }"])).is_err());
    assert_eq!(fs::read(mine.join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn what_killed_processes_left_does_not_stop_a_run_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(TrainLoop::new(config(&out, &["run.steps=3"])).unwrap()).unwrap();
    let pid = std::process::id();
    for file in [format!(".config.toml.{pid}-0.tmp"), ".tweedie-1-abcdefghijkl.tmp".to_owned()] {
        fs::write(out.join(file), "half").unwrap();
    }
    for folder in
        [".model.77-3.tmp", "snapshots/.step-000006.8-0.tmp", "checkpoints/.tweedie-9-ABCDEFGHIJKL.tmp"]
    {
        fs::create_dir_all(out.join(folder).join("unet")).unwrap();
    }
    run(TrainLoop::resume_with(config(&out, &[])).unwrap()).unwrap();
    let left: Vec<_> = everything(&out).into_keys().filter(|name| name.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!out.join(".model.77-3.tmp").exists() && !out.join("snapshots/.step-000006.8-0.tmp").exists());
}

#[test]
fn a_file_where_a_checkpoint_belongs_is_told_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    run(TrainLoop::new(config(&out, &["run.steps=3"])).unwrap()).unwrap();
    fs::write(out.join("checkpoints/step-000100"), "").unwrap();
    let error = TrainLoop::resume(&out).err().unwrap().to_string();
    assert!(error.contains("step-000100: this is a file, expected a folder"), "{error}");
}

#[test]
fn a_run_leaves_a_model_that_loads_and_the_last_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let set = [
        "run.checkpoint_every=1",
        "run.keep_last=2",
        "run.preview_every=3",
        "run.preview_images=5",
        "run.validate_every=2",
        "run.log_every=1",
        "run.validation_images=7",
    ];
    let events = run(TrainLoop::new(config(&out, &set)).unwrap()).unwrap();
    let kept: Vec<_> = checkpoint::list(&out.join("checkpoints")).unwrap().into_iter().map(|c| c.0).collect();
    assert_eq!(kept, [5, 6]);

    let names: Vec<_> = events
        .iter()
        .map(|e| match e {
            TrainEvent::Started { .. } => "started".to_owned(),
            TrainEvent::Step(s) => format!("step {}", s.step),
            TrainEvent::Validation { step, loss, ema_loss, .. } => {
                assert!(loss.is_finite() && ema_loss.unwrap().is_finite());
                format!("validation {step}")
            }
            TrainEvent::Preview { step, samples, path } => {
                assert!(samples.len() == 5 && path.exists());
                format!("preview {step}")
            }
            TrainEvent::Checkpointed { step, .. } => format!("checkpoint {step}"),
            TrainEvent::Warning(w) => w.clone(),
            TrainEvent::Finished(_) => "finished".to_owned(),
        })
        .collect();
    assert_eq!(
        names[..9].join(", "),
        "started, step 1, checkpoint 1, step 2, validation 2, checkpoint 2, step 3, preview 3, checkpoint 3"
    );
    assert_eq!(
        names[names.len() - 5..].join(", "),
        "step 6, validation 6, preview 6, checkpoint 6, finished"
    );
    assert_eq!(losses(&out).len(), 6 + 3);
    for file in
        ["loss.png", "previews/step-000006.png", "config.toml", "tensorboard/events.out.tfevents.tweedie"]
    {
        assert!(out.join(file).exists(), "{file}");
    }

    // The exported network is the first average.
    let model = out.join("model");
    let unet = UNet2DConfig::from_json(&fs::read_to_string(model.join("unet/config.json")).unwrap()).unwrap();
    let file = SafetensorsFile::open(&model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let loaded = UNet2DModel::load(&unet, &file, &tweedie_ops::device("cpu").unwrap()).unwrap();
    let ema = SafetensorsFile::open(&out.join("checkpoints/step-000006/ema.safetensors")).unwrap();
    for (name, tensor) in tweedie_models::export(&loaded) {
        use tweedie_models::TensorSource as _;
        assert_eq!(ema.read(&format!("unet.{name}")).unwrap(), tensor, "{name}");
    }
}

#[test]
fn a_stop_request_saves_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let mut train = TrainLoop::new(config(&out, &["run.steps=1000", "run.checkpoint_every=0"])).unwrap();
    let stop = train.stop_handle();
    let mut last = None;
    for event in &mut train {
        if matches!(&event, Ok(TrainEvent::Step(s)) if s.step == 2) {
            stop.request();
        }
        last = Some(event.unwrap());
    }
    let Some(TrainEvent::Finished(summary)) = last else { panic!("{last:?}") };
    assert!(summary.stopped && summary.step == 2);
    drop(train);
    assert_eq!(TrainLoop::resume(&out).unwrap().step(), 2);
}

#[test]
fn an_exploding_run_stops_and_names_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let set = ["learning_rate.peak=1e30", "learning_rate.warmup=0", "run.checkpoint_every=1"];
    let mut train = TrainLoop::new(config(&out, &set)).unwrap();
    let error = train.find_map(Result::err).unwrap().to_string();
    assert!(error.starts_with("step 2: ") && error.contains("is not finite"), "{error}");
    assert!(error.contains("checkpoints/step-000001"), "{error}");
    assert!(train.next().is_none());
}

#[test]
fn what_cannot_be_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let error = |r: Result<TrainLoop, TrainError>| r.err().unwrap().to_string();
    assert!(error(TrainLoop::resume(&out)).contains("config.toml"));

    run(TrainLoop::new(config(&out, &["run.steps=1"])).unwrap()).unwrap();
    assert!(error(TrainLoop::new(config(&out, &[]))).contains("already contains a run"));
    let changed = error(TrainLoop::resume_with(config(&out, &["run.seed=5", "optimizer.beta1=0.8"])));
    assert!(changed.contains("optimizer.beta1 (0.8 instead of 0.9), run.seed (5 instead of 0)"), "{changed}");

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let unwritable = error(TrainLoop::new(config(&file.join("run"), &[])));
    assert!(unwritable.contains("file/run"), "{unwritable}");
    let device = error(TrainLoop::new(config(&dir.path().join("b"), &["run.device=abacus"])));
    assert!(device.contains("abacus") && device.contains("cpu"), "{device}");
    let missing = "data.source={ folder = \"no/such/folder\" }";
    assert!(error(TrainLoop::new(config(&dir.path().join("c"), &[missing]))).contains("no/such/folder"));
    assert!(!dir.path().join("c").exists() && !dir.path().join("b").exists());
}

/// The history of losses is part of the state: without it the times would differ.
#[test]
fn a_run_whose_times_follow_the_losses_resumes_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let set = |steps: &'static str| {
        [
            steps,
            "diffusion.train_steps=4",
            "diffusion.schedule=squared-cosine",
            "diffusion.variance=fixed-large",
            "loss.objective=vlb",
            "loss.times=loss-second-moment",
            "run.checkpoint_every=10",
            "run.keep_last=9",
        ]
    };
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    run(TrainLoop::new(config(&whole, &set("run.steps=14"))).unwrap()).unwrap();
    run(TrainLoop::new(config(&parts, &set("run.steps=10"))).unwrap()).unwrap();
    let history = SafetensorsFile::open(&parts.join("checkpoints/step-000010/times.safetensors")).unwrap();
    let counts = tweedie_models::TensorSource::read(&history, "counts").unwrap();
    assert_eq!(counts.values, [10.0; 4], "times follow the losses from here on");
    run(TrainLoop::resume_with(config(&parts, &set("run.steps=14"))).unwrap()).unwrap();
    assert_eq!(losses(&whole), losses(&parts));
    assert_eq!(tensors(&whole, 14), tensors(&parts, 14));
}

#[test]
fn a_learned_variance_trains_and_averages_of_any_length_come_after() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let set = [
        "run.steps=7",
        "diffusion.variance=learned-range",
        "loss.objective=hybrid",
        "ema.snapshot_every=2",
        "run.validate_every=3",
        "run.preview_every=7",
        "run.preview_images=2",
    ];
    let events = run(TrainLoop::new(config(&out, &set)).unwrap()).unwrap();
    assert!(steps(&events).iter().all(|s| s.loss.is_finite()));
    let config = UNet2DConfig::from_json(&fs::read_to_string(out.join("model/unet/config.json")).unwrap());
    assert_eq!(config.unwrap().out_channels, 6);
    let scheduler = fs::read_to_string(out.join("model/scheduler/scheduler_config.json")).unwrap();
    assert!(scheduler.contains("\"learned_range\""), "{scheduler}");

    let kept: Vec<_> = checkpoint::list(&out.join("snapshots")).unwrap().into_iter().map(|c| c.0).collect();
    assert_eq!(kept, [2, 4, 6, 7]);
    // The average from snapshots matches the one that was tracked.
    let made = post_hoc::reconstruct(&out, 0.1, None).unwrap();
    assert_eq!((made.step, made.images, made.snapshots), (7, 42, 8));
    assert!(made.fit.error < 1e-6, "{:?}", made.fit);
    let tracked = SafetensorsFile::open(&out.join("checkpoints/step-000007/ema-1.safetensors")).unwrap();
    for (name, tensor) in &made.tensors {
        let expected = tweedie_models::TensorSource::read(&tracked, name).unwrap();
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(tensor.values.iter().zip(&expected.values).all(near), "{name}");
    }
    let folder = dir.path().join("long");
    post_hoc::reconstruct(&out, 0.2, Some(6)).unwrap().export(&folder).unwrap();
    let file = SafetensorsFile::open(&folder.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(tweedie_models::TensorSource::names(&file).len() + 1, made.tensors.len());

    let error = |r: Result<post_hoc::Reconstruction, TrainError>| r.err().unwrap().to_string();
    assert!(error(post_hoc::reconstruct(&out, 0.3, None)).contains("std = 0.3"));
    assert!(error(post_hoc::reconstruct(&out, 0.1, Some(5))).contains("2, 4, 6, 7"));
    assert!(error(post_hoc::reconstruct(dir.path(), 0.1, None)).contains("ema.snapshot_every"));
}
