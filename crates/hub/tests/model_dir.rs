//! Model folders: written by diffusers (see `golden/make.py`), written here, and damaged.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::{DType, Device, Tensor, TensorData};
use tweedie_hub::{Extras, HubError, ModelDir, Precision, SafetensorsFile, SamplingDefaults, model_dir};
use tweedie_models::{Conditions, HostTensor, Mode, TensorSource, UNet2DModel, export};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The larger; a number that is not one wins.
fn larger(a: f64, b: f64) -> f64 {
    if b > a || b.is_nan() { b } else { a }
}

fn device() -> Device {
    tweedie_ops::device("cpu").unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            fs::copy(source, target).unwrap();
        }
    }
}

/// Input number 5 of `make.py`.
fn input() -> Tensor<4> {
    let wave = |i: usize| (1.3 * (12.9898 * (i + 1) as f64 + 78.233 * 6.0).sin()) as f32;
    let values: Vec<f32> = (0..2 * 3 * 8 * 8).map(wave).collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 8, 8]), (&device(), DType::F32))
}

fn answer(model: &UNet2DModel, times: &[f32], condition: &Conditions) -> Vec<f32> {
    model.forward(input(), times, condition, Mode::Eval).into_data().iter::<f32>().collect()
}

/// The largest difference, in units of the expected values' RMS.
fn distance(found: &[f32], expected: &HostTensor) -> f64 {
    assert_eq!(found.len(), expected.values.len());
    let rms = (expected.values.iter().map(|v| f64::from(v * v)).sum::<f64>() / found.len() as f64).sqrt();
    found.iter().zip(&expected.values).map(|(f, e)| f64::from((f - e).abs())).fold(0.0, larger) / rms
}

#[test]
fn a_pipeline_that_diffusers_wrote_answers_as_there() {
    let folder = ModelDir::open(&golden().join("ddpm")).unwrap();
    assert_eq!(folder.scheduler.as_ref().unwrap().class_name(), "DDPMScheduler");
    let model = folder.load_unet(&device()).unwrap();
    let expected = SafetensorsFile::open(&golden().join("ddpm_answers.safetensors")).unwrap();
    let found = answer(&model, &[3.0, 777.0], &Conditions::none());
    let distance = distance(&found, &expected.read("sample").unwrap());
    assert!(distance < 1e-4, "{distance}");
}

#[test]
fn a_component_in_shards_of_half_precision_answers_as_in_diffusers() {
    let folder = ModelDir::open(&golden().join("classes")).unwrap();
    assert!(folder.pipeline.is_none() && folder.scheduler.is_none());
    let model = folder.load_unet(&device()).unwrap();
    let expected = SafetensorsFile::open(&golden().join("classes_answers.safetensors")).unwrap();
    let found = answer(&model, &[10.0, 500.0], &Conditions::of_classes(vec![4, 1]));
    let distance = distance(&found, &expected.read("sample").unwrap());
    assert!(distance < 1e-4, "{distance}");
}

/// `save_pretrained(variant="fp16")`.
#[test]
fn a_variant_of_the_weights_is_found_alone_and_by_name() {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden().join("ddpm"), dir.path());
    let unet = dir.path().join("unet");
    let name = |variant: &str| unet.join(format!("diffusion_pytorch_model{variant}.safetensors"));
    fs::rename(name(""), name(".fp16")).unwrap();
    let mut model = ModelDir::open(dir.path()).unwrap();
    assert_eq!(model.weights().unwrap().path(), name(".fp16"));
    fs::copy(name(".fp16"), name(".bf16")).unwrap();
    assert_eq!(model.weights().unwrap().path(), name(".fp16"));
    model.variant = Some("bf16".into());
    assert_eq!(model.weights().unwrap().path(), name(".bf16"));
    fs::copy(name(".fp16"), name("")).unwrap();
    model.variant = Some("ema".into());
    let error = model.weights().err().unwrap().to_string();
    assert!(["unet", "`ema`", "no variant, bf16, fp16"].iter().all(|w| error.contains(w)), "{error}");
    model.variant = None;
    assert_eq!(model.weights().unwrap().path(), name(""));
    model.load_unet(&device()).unwrap();
}

#[test]
fn saved_models_come_back_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let mut folder = ModelDir::open(&golden().join("classes")).unwrap();
    let model = folder.load_unet(&device()).unwrap();
    folder.scheduler = ModelDir::open(&golden().join("ddpm")).unwrap().scheduler;
    let extras = Extras {
        class_names: vec!["faces".into(), "food".into()],
        null_class: Some(4),
        sampling: SamplingDefaults { steps: Some(20), guidance: Some(2.0), ..Default::default() },
        training: serde_json::Map::from_iter([("steps".to_string(), 100.into())]),
        ..Default::default()
    };
    for _ in 0..2 {
        let scheduler = folder.scheduler.as_ref().unwrap();
        model_dir::save(&path, &model, scheduler, &extras, Precision::F32).unwrap();
        let back = ModelDir::open(&path).unwrap();
        assert_eq!((&back.unet, &back.extras), (&folder.unet, &extras));
        assert_eq!(export(&back.load_unet(&device()).unwrap()), export(&model));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn files_of_older_pipelines_lie_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let from = golden().join("ddpm");
    for file in ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"] {
        fs::copy(from.join(file), dir.path().join(Path::new(file).file_name().unwrap())).unwrap();
    }
    let weights = "diffusion_pytorch_model.safetensors";
    fs::copy(from.join("unet").join(weights), dir.path().join(weights)).unwrap();
    let folder = ModelDir::open(dir.path()).unwrap();
    assert!(folder.scheduler.is_some());
    folder.load_unet(&device()).unwrap();
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    type Spoil = fn(&Path);
    fn edit(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
    fn weights(dir: &Path) -> PathBuf {
        dir.join("unet/diffusion_pytorch_model.safetensors")
    }
    fn rewrite(dir: &Path, change: fn(&mut BTreeMap<String, HostTensor>)) {
        let file = SafetensorsFile::open(&weights(dir)).unwrap();
        let mut all: BTreeMap<_, _> =
            file.names().into_iter().map(|n| (n.clone(), file.read(&n).unwrap())).collect();
        change(&mut all);
        tweedie_hub::weights::write(&weights(dir), &all, Precision::F32, &BTreeMap::new()).unwrap();
    }
    let cases: &[(&str, Spoil, &[&str])] = &[
        ("no folder", |d| fs::remove_dir_all(d).unwrap(), &["model", "No such file"]),
        (
            "empty folder",
            |d| {
                fs::remove_dir_all(d).unwrap();
                fs::create_dir(d).unwrap();
            },
            &["not a model folder", "model_index.json"],
        ),
        ("no index", |d| fs::remove_file(d.join("model_index.json")).unwrap(), &["not a model folder"]),
        ("no JSON", |d| fs::write(d.join("model_index.json"), "{").unwrap(), &["model_index.json", "JSON"]),
        (
            "pipeline",
            |d| edit(&d.join("model_index.json"), "DDPMPipeline", "FluxPipeline"),
            &["FluxPipeline", "DDIMPipeline"],
        ),
        (
            "component",
            |d| edit(&d.join("model_index.json"), "UNet2DModel", "UNet1DModel"),
            &["`unet`", "UNet1DModel"],
        ),
        (
            "no config",
            |d| fs::remove_file(d.join("unet/config.json")).unwrap(),
            &["unet/config.json", "No such file"],
        ),
        (
            "unknown key",
            |d| edit(&d.join("unet/config.json"), "\"dropout\"", "\"drop\""),
            &["config.json", "`drop`"],
        ),
        (
            "bad value",
            |d| edit(&d.join("unet/config.json"), "\"silu\"", "\"zilu\""),
            &["config.json", "`act_fn`", "zilu"],
        ),
        (
            "no scheduler",
            |d| fs::remove_dir_all(d.join("scheduler")).unwrap(),
            &["scheduler_config.json", "No such file"],
        ),
        (
            "scheduler key",
            |d| edit(&d.join("scheduler/scheduler_config.json"), "\"beta_end\"", "\"beta_last\""),
            &["`beta_last`"],
        ),
        (
            "extras",
            |d| fs::write(d.join("tweedie.json"), r#"{"nul_class": 1}"#).unwrap(),
            &["tweedie.json", "nul_class"],
        ),
        (
            "classes",
            |d| fs::write(d.join("tweedie.json"), r#"{"null_class": 1}"#).unwrap(),
            &["tweedie.json", "`null_class`", "0 classes"],
        ),
        (
            "no weights",
            |d| fs::remove_file(weights(d)).unwrap(),
            &["diffusion_pytorch_model.safetensors", "No such file"],
        ),
        (
            "truncated",
            |d| {
                let bytes = fs::read(weights(d)).unwrap();
                fs::write(weights(d), &bytes[..bytes.len() / 2]).unwrap();
            },
            &["diffusion_pytorch_model.safetensors", "truncated"],
        ),
        (
            "corrupt",
            |d| fs::write(weights(d), [0x80; 500]).unwrap(),
            &["diffusion_pytorch_model.safetensors", "not a safetensors file"],
        ),
        (
            "missing tensor",
            |d| rewrite(d, |t| drop(t.remove("conv_in.bias"))),
            &["safetensors", "conv_in.bias", "missing"],
        ),
        (
            "extra tensor",
            |d| {
                rewrite(d, |t| {
                    t.insert("stranger".into(), HostTensor { shape: vec![1], values: vec![0.0] });
                })
            },
            &["safetensors", "`stranger`"],
        ),
        (
            "wrong shape",
            |d| {
                rewrite(d, |t| {
                    t.insert("conv_in.bias".into(), HostTensor { shape: vec![2, 2], values: vec![0.0; 4] });
                })
            },
            &["safetensors", "conv_in.bias", "[2, 2]", "[4]"],
        ),
    ];
    for (label, spoil, words) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        copy(&golden().join("ddpm"), &path);
        spoil(&path);
        let error: HubError = match ModelDir::open(&path).and_then(|m| m.load_unet(&device())) {
            Err(error) => error,
            Ok(_) => panic!("{label}: accepted"),
        };
        let text = error.to_string();
        assert!(words.iter().all(|w| text.contains(w)), "{label}: {text}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let folder = ModelDir::open(&golden().join("ddpm")).unwrap();
    let model = folder.load_unet(&device()).unwrap();
    let scheduler = folder.scheduler.as_ref().unwrap();
    let save = |path: &Path| {
        let saved = model_dir::save(path, &model, scheduler, &Extras::default(), Precision::F32);
        saved.unwrap_err().to_string()
    };
    assert!(save(&dir.path().join("no/such/model")).contains("no/such/model"));
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("thesis.tex"), "x").unwrap();
    assert!(save(&precious).contains("model_index.json"));
    assert!(precious.join("thesis.tex").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
