//! The U-Net compared with diffusers. The files were made by `golden/make.py`, which documents the format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};
use common::{device, hash, sample, weight};
use safetensors::SafeTensors;
use tweedie_models::{
    Conditions, Entry, ExecContext, HostTensor, Mode, Precision, UNet2DConfig, UNet2DModel,
    conditions::EMBEDDING, params,
};

/// Relative to the output's root mean square.
const TOLERANCE: f64 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

struct Golden {
    bytes: Vec<u8>,
    metadata: std::collections::HashMap<String, String>,
}

impl Golden {
    fn open(path: &Path) -> Self {
        let bytes = fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        Self { bytes, metadata }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    fn config(&self) -> UNet2DConfig {
        UNet2DConfig::from_json(&self.metadata["config"]).unwrap()
    }

    fn tensor<const N: usize>(&self, name: &str) -> Option<Vec<[u8; N]>> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let data = file.tensor(name).ok()?.data().to_vec();
        Some(data.chunks_exact(N).map(|c| c.try_into().unwrap()).collect())
    }

    /// Positions in the output, and diffusers' values there.
    fn expected(&self) -> Vec<(usize, f32)> {
        if let Some(all) = self.tensor("output") {
            return all.into_iter().map(f32::from_le_bytes).enumerate().collect();
        }
        let places = self.tensor("places").unwrap().into_iter().map(|b| i64::from_le_bytes(b) as usize);
        places.zip(self.tensor("values").unwrap().into_iter().map(f32::from_le_bytes)).collect()
    }
}

fn goldens() -> Vec<(String, Golden)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    paths.sort();
    let name = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), Golden::open(path))).collect()
}

fn model(golden: &Golden, device: &Device) -> UNet2DModel {
    let config = golden.config();
    let shapes = params::shapes(&UNet2DModel::new(&config, 1, device).unwrap());
    let weights: BTreeMap<String, HostTensor> =
        shapes.iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect();
    UNet2DModel::load(&config, &weights, device).unwrap()
}

fn inputs(golden: &Golden, device: &Device) -> (Tensor<4>, Vec<f32>, Conditions) {
    let x = sample("sample", golden.json::<[usize; 4]>("sample"), device);
    let times: Vec<f32> = golden.json("times");
    let condition = match golden.json::<serde_json::Value>("classes") {
        serde_json::Value::Null => Conditions::none(),
        serde_json::Value::String(_) => {
            let shape = [times.len(), golden.config().time_width()];
            Conditions::none().with(EMBEDDING, Entry::Vectors(sample("embedding", shape, device)))
        }
        classes => Conditions::of_classes(serde_json::from_value(classes).unwrap()),
    };
    (x, times, condition)
}

#[test]
fn names_and_shapes_are_diffusers() {
    let goldens = goldens();
    assert!(goldens.len() >= 13, "only {} golden files", goldens.len());
    for (name, golden) in goldens {
        let model = UNet2DModel::new(&golden.config(), 0, &device()).unwrap();
        let listing: String = params::shapes(&model)
            .iter()
            .map(|(name, shape)| {
                let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
                format!("{name} [{}]\n", shape.join(", "))
            })
            .collect();
        assert_eq!(
            format!("{:016x}", hash(&listing)),
            golden.metadata["names"],
            "{name}: diffusers has {} tensors, we have {}:\n{listing}",
            golden.metadata["tensors"],
            listing.lines().count()
        );
        assert_eq!(tweedie_models::count(&model).to_string(), golden.metadata["parameters"], "{name}");
    }
}

#[test]
fn outputs_are_diffusers() {
    let device = device();
    for (name, golden) in goldens() {
        let (x, times, condition) = inputs(&golden, &device);
        let out = model(&golden, &device).forward(x, &times, &condition, Mode::Eval);
        assert_eq!(out.dims(), golden.json::<[usize; 4]>("output"), "{name}");

        let found: Vec<f32> = out.into_data().try_into_vec().unwrap();
        let rms: f64 = golden.json("rms");
        let ours = found.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / found.len() as f64;
        assert!((ours.sqrt() / rms - 1.0).abs() < TOLERANCE, "{name}: rms {} instead of {rms}", ours.sqrt());
        let expected = golden.expected();
        assert!(expected.len() >= 64, "{name}: only {} elements", expected.len());
        let worst = expected
            .iter()
            .map(|&(place, want)| (f64::from(found[place] - want).abs() / rms, place))
            .fold((0.0, 0), |a, b| if b.0 > a.0 || b.0.is_nan() { b } else { a });
        eprintln!("{name}: {} elements within {:.1e} of the rms {rms:.3}", expected.len(), worst.0);
        assert!(worst.0 < TOLERANCE, "{name}: element {} is off by {:.1e} of the rms", worst.1, worst.0);
    }
}

/// Every layer rounds to eight bits of precision, and relative errors add up over the layers. `int8` does not affect
/// networks with narrow layers only.
#[test]
fn outputs_in_fewer_bits_are_close() {
    let device = Device::flex();
    let mut changed = 0;
    for (name, golden) in goldens() {
        let (rms, expected) = (golden.json::<f64>("rms"), golden.expected());
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let (x, times, condition) = inputs(&golden, &device);
            let model =
                model(&golden, &device).with_context(ExecContext::default().with_precision(precision));
            let found: Vec<f32> =
                model.forward(x, &times, &condition, Mode::Eval).into_data().try_into_vec().unwrap();
            let squares: f64 = expected.iter().map(|&(at, want)| f64::from(found[at] - want).powi(2)).sum();
            let off = (squares / expected.len() as f64).sqrt() / rms;
            eprintln!("{name}: {precision} within {off:.1e} of the rms");
            assert!(off < 0.03, "{name}, {precision}: off by {off:.1e} of the rms");
            assert!((off > 1e-4) == (precision == Precision::Bf16) || precision == Precision::Int8);
            changed += usize::from(precision == Precision::Int8 && off > 1e-4);
        }
    }
    assert!(changed > 0);
}

/// Every parameter's gradient, in the order of names.
struct Gradients<'a> {
    path: Vec<String>,
    gradients: &'a burn::tensor::Gradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        if let Some(g) = p.val().grad(self.gradients) {
            self.found.insert(self.path.join("."), g.into_data().try_into_vec().unwrap());
        }
    }
}

#[test]
fn gradients_are_pytorchs() {
    let device = device();
    for (name, golden) in goldens() {
        let Some(expected) = golden.tensor::<4>("gradients") else { continue };
        let expected: Vec<f32> = expected.into_iter().map(f32::from_le_bytes).collect();
        let (x, times, condition) = inputs(&golden, &device);
        let model = model(&golden, &device.clone().autodiff());
        let y = model.forward(x, &times, &condition, Mode::Eval);
        let gradients = (y.clone() * y).mean().backward();
        let mut visitor = Gradients { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
        model.visit(&mut visitor);

        assert_eq!(visitor.found.len() * 2, expected.len(), "{name}");
        let largest = expected.chunks(2).fold(0f32, |a, pair| a.max(pair[0]));
        let mut worst = 0f32;
        for ((parameter, found), want) in visitor.found.iter().zip(expected.chunks(2)) {
            let squares: f64 = found.iter().map(|v| f64::from(*v).powi(2)).sum();
            let rms = (squares / found.len() as f64).sqrt() as f32;
            // Gradients of key biases are zero except for rounding.
            let scale = want[0] + 1e-4 * largest;
            let off = ((rms - want[0]).abs() / scale).max((found[found.len() - 1] - want[1]).abs() / scale);
            assert!(off < 1e-3, "{name}: {parameter} is {rms} instead of {}, off by {off:.1e}", want[0]);
            worst = worst.max(off);
        }
        eprintln!("{name}: {} gradients within {worst:.1e}", visitor.found.len());
    }
}
