//! The pipeline of audio: a folder with the files of a published one is loaded, sampled as in diffusers, and saved. The
//! expected values were written by `crates/models/tests/golden/unet1d/make_unet1d.py`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../../models/tests/common/mod.rs"]
mod common;

use std::{collections::BTreeMap, fs, path::Path};

use burn::tensor::{Device, Tensor};
use common::{sample, weight};
use serde_json::{Value, json};
use tweedie_hub::{Model, Precision, SafetensorsFile, model::scheduler_of, weights};
use tweedie_models::{Conditions, HostTensor, Mode, TensorSource, UNet1DConfig, UNet1DModel, export};
use tweedie_ops::{Batch, SampleShape, to_host};

/// Relative to the samples' root mean square.
const TOLERANCE: f64 = 1e-4;

const SHAPE: [usize; 3] = [2, 2, 128];

fn golden() -> SafetensorsFile {
    let path = "../models/tests/golden/unet1d/dance_diffusion.safetensors";
    SafetensorsFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Writes the pipeline's folder as Dance Diffusion was published, before `time_embedding_dim`.
fn publish(dir: &Path) {
    let mut config: Value = serde_json::from_str(&golden().metadata()["config"]).unwrap();
    config.as_object_mut().unwrap().remove("time_embedding_dim");
    config["_diffusers_version"] = json!("0.6.0.dev0");
    let (unet, scheduler) = (dir.join("unet"), dir.join("scheduler"));
    for folder in [&unet, &scheduler] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(unet.join("config.json"), config.to_string()).unwrap();
    let config = UNet1DConfig::from_json(&config.to_string()).unwrap();
    let initial = export(&UNet1DModel::new(&config, 0, &Device::flex()).unwrap());
    let tensors: BTreeMap<String, HostTensor> = (initial.into_iter())
        .map(|(name, t)| {
            let tensor = if name.ends_with(".kernel") { t } else { weight(&name, &t.shape) };
            (name, tensor)
        })
        .collect();
    let file = unet.join("diffusion_pytorch_model.safetensors");
    weights::write(&file, &tensors, Precision::F32, &BTreeMap::new()).unwrap();
    let keys = json!({"_class_name": "IPNDMScheduler", "num_train_timesteps": 1000, "trained_betas": null});
    fs::write(scheduler.join("scheduler_config.json"), keys.to_string()).unwrap();
    let index = json!({
        "_class_name": "DanceDiffusionPipeline",
        "_diffusers_version": "0.6.0.dev0",
        "scheduler": ["diffusers", "IPNDMScheduler"],
        "unet": ["diffusers", "UNet1DModel"],
    });
    fs::write(dir.join("model_index.json"), index.to_string()).unwrap();
}

fn output(model: &Model) -> Vec<f32> {
    let x: Tensor<3> = sample("sample", SHAPE, &Device::flex());
    model.network.forward(Batch::of(x), &[0.02, 0.93], &Conditions::none(), Mode::Eval).to_host()
}

/// The largest difference, in units of the expected values' RMS.
fn distance(found: impl IntoIterator<Item = f64>, expected: &[f32]) -> f64 {
    let squares: f64 = expected.iter().map(|v| f64::from(*v).powi(2)).sum();
    let differences = found.into_iter().zip(expected).map(|(f, e)| (f - f64::from(*e)).abs());
    let worst = differences.fold(0.0, |a: f64, d| if d.is_nan() { f64::INFINITY } else { a.max(d) });
    worst / (squares / expected.len() as f64).sqrt()
}

#[test]
fn a_published_folder_loads_and_samples_as_in_diffusers() {
    let dir = tempfile::tempdir().unwrap();
    publish(dir.path());
    let model = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!((model.kind.name, model.kind.guidance), ("DanceDiffusionPipeline", 1.0));
    assert!(model.codec.is_none() && model.texts.is_empty() && model.remarks.is_empty());
    assert_eq!(model.scheduler.class_name(), "IPNDMScheduler");
    let spec = model.network.spec();
    assert_eq!((spec.class, spec.axes, spec.native), ("UNet1DModel", 1, Some(vec![128])));
    let (scheduler, _, tokens) = scheduler_of(dir.path()).unwrap();
    assert_eq!((scheduler.class_name(), tokens), ("IPNDMScheduler", Some(128)));

    let expected = golden().read("output").unwrap().values;
    let off = distance(output(&model).into_iter().map(f64::from), &expected);
    eprintln!("the output is within {off:.1e} of its RMS");
    assert!(off < TOLERANCE, "{off:.1e}");

    let [rows, channels, length] = SHAPE;
    let network = |x: &[f64], t: f64| -> Vec<f64> {
        let values = x.iter().map(|v| *v as f32).collect();
        let shape = SampleShape::from([channels, length]);
        let x = Batch::from_host(values, rows, &shape, &Device::flex());
        let times = vec![t as f32; rows];
        model.network.check(rows, &shape, &times, &Conditions::none()).unwrap();
        let y = model.network.forward(x, &times, &Conditions::none(), Mode::Eval);
        y.to_host().into_iter().map(f64::from).collect()
    };
    let noise = to_host(sample("noise", SHAPE, &Device::flex())).into_iter().map(f64::from);
    let recipe = model.scheduler.resolve(6).unwrap();
    let trace = recipe.trace(&noise.collect::<Vec<_>>(), &network, &mut |_| None).unwrap();
    let expected = golden().read("sampled").unwrap().values;
    let sampled = trace.rows.last().unwrap();
    assert_eq!(sampled.len(), expected.len());
    let off = distance(sampled.iter().copied(), &expected);
    eprintln!("samples are within {off:.1e} of their RMS");
    assert!(off < TOLERANCE, "{off:.1e}");
}

#[test]
fn a_saved_folder_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let (published, saved) = (dir.path().join("published"), dir.path().join("saved"));
    publish(&published);
    let model = Model::load(&published, &Device::flex()).unwrap();
    model.save(&saved, Precision::F32).unwrap();
    let again = Model::load(&saved, &Device::flex()).unwrap();
    assert_eq!(output(&again), output(&model));
    assert_eq!(again.scheduler.to_json(), model.scheduler.to_json());

    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(saved.join(name)).unwrap()).unwrap()
    };
    let index = read("model_index.json");
    assert_eq!(index["_class_name"], "DanceDiffusionPipeline");
    assert_eq!(index["unet"], json!(["diffusers", "UNet1DModel"]));
    let config = read("unet/config.json");
    assert_eq!((&config["time_embedding_dim"], &config["sample_rate"]), (&json!(16), &json!(16000)));
}
