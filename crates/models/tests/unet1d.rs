//! The U-Net for audio compared with diffusers. The files were made by `golden/unet1d/make_unet1d.py`, which documents the
//! format.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};
use common::{device, hash, sample, weight};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tweedie_models::{
    Conditions, ExecContext, HostTensor, Mode, Network, Precision, UNet1DConfig, UNet1DModel, export, params,
    registry,
};
use tweedie_ops::{Batch, SampleShape, to_host};

/// Relative to the output's root mean square.
const TOLERANCE: f64 = 1e-4;

const CASES: [&str; 3] = ["dance_diffusion", "other_blocks", "one_length"];

struct Golden {
    name: &'static str,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

fn goldens() -> impl Iterator<Item = Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet1d");
    CASES.into_iter().map(move |name| {
        let bytes = fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
        Golden { name, bytes, metadata }
    })
}

impl Golden {
    fn json<T: serde::de::DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_str(&self.metadata[key]).unwrap()
    }

    fn config(&self) -> UNet1DConfig {
        UNet1DConfig::from_json(&self.metadata["config"]).unwrap()
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn model(&self, device: &Device) -> UNet1DModel {
        let shapes = params::shapes(&UNet1DModel::new(&self.config(), 1, device).unwrap());
        let filter = |name: &str| match name.rsplit_once('.')?.0.rsplit_once('.')?.1 {
            _ if !name.ends_with(".kernel") => None,
            part => Some(HostTensor { shape: vec![8], values: self.tensor(part) }),
        };
        let tensor = |(name, shape): (&String, &Vec<usize>)| {
            (name.clone(), filter(name).unwrap_or_else(|| weight(name, shape)))
        };
        let weights: BTreeMap<String, HostTensor> = shapes.iter().map(tensor).collect();
        UNet1DModel::load(&self.config(), &weights, device).unwrap()
    }

    fn inputs(&self, device: &Device) -> (Tensor<3>, Vec<f32>) {
        (sample("sample", self.json::<[usize; 3]>("sample"), device), self.json("times"))
    }
}

fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

fn run(model: &UNet1DModel, x: Tensor<3>, times: &[f32]) -> Vec<f32> {
    to_host(model.forward(x, times, &Conditions::none(), Mode::Eval))
}

#[test]
fn names_shapes_and_filters_are_diffusers() {
    for golden in goldens() {
        let model = UNet1DModel::new(&golden.config(), 0, &device()).unwrap();
        let shapes = params::shapes(&model);
        let listing: String = shapes.iter().map(|(name, shape)| format!("{name} {shape:?}\n")).collect();
        assert_eq!(
            format!("{:016x}", hash(&listing)),
            golden.metadata["names"],
            "{}: {listing}",
            golden.name
        );
        let filters = export(&model);
        let filters = filters.iter().filter(|(name, _)| name.ends_with(".kernel"));
        let mut seen = 0;
        for (name, filter) in filters {
            let part = if name.ends_with("down.kernel") { "down" } else { "up" };
            assert_eq!(filter.values, golden.tensor(part), "{}: {name}", golden.name);
            seen += 1;
        }
        assert_eq!(seen, 2 * golden.config().block_out_channels.len());
    }
}

#[test]
fn outputs_are_diffusers() {
    let device = device();
    for golden in goldens() {
        let (x, times) = golden.inputs(&device);
        let found = run(&golden.model(&device), x, &times);
        let expected = golden.tensor("output");
        assert_eq!(found.len(), expected.len());
        let scale = rms(&expected);
        let worst = found.iter().zip(&expected).map(|(f, e)| f64::from(f - e).abs());
        let worst = worst.fold(0.0, |a: f64, d| if d.is_nan() { f64::INFINITY } else { a.max(d) }) / scale;
        eprintln!("{}: {} elements within {worst:.1e} of the RMS {scale:.3}", golden.name, found.len());
        assert!(worst < TOLERANCE, "{}: off by {worst:.1e} of the RMS", golden.name);
    }
}

#[test]
fn outputs_in_fewer_bits_are_close() {
    let device = Device::flex();
    for golden in goldens() {
        let expected = golden.tensor("output");
        for precision in [Precision::Bf16, Precision::Int8] {
            let (x, times) = golden.inputs(&device);
            let found = run(
                &golden.model(&device).with_context(ExecContext::default().with_precision(precision)),
                x,
                &times,
            );
            let differences: Vec<f32> = found.iter().zip(&expected).map(|(f, e)| f - e).collect();
            let off = rms(&differences) / rms(&expected);
            eprintln!("{}: {precision} within {off:.1e} of the RMS", golden.name);
            assert!(off < 0.03, "{}, {precision}: off by {off:.1e} of the RMS", golden.name);
            assert!(off > 1e-4 || precision == Precision::Int8);
        }
    }
}

/// Every parameter's gradient, by name.
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
    for golden in goldens() {
        let (x, times) = golden.inputs(&device);
        let model = golden.model(&device.clone().autodiff());
        let y = model.forward(x, &times, &Conditions::none(), Mode::Eval);
        let gradients = (y.clone() * y).mean().backward();
        let mut visitor = Gradients { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
        model.visit(&mut visitor);

        let expected = golden.tensor("gradients");
        assert_eq!(visitor.found.len() * 2, expected.len(), "{}", golden.name);
        let largest = expected.chunks(2).fold(0f32, |a, pair| a.max(pair[0]));
        let mut worst = 0f32;
        for ((parameter, found), want) in visitor.found.iter().zip(expected.chunks(2)) {
            // Gradients of key biases are zero except for rounding.
            let scale = want[0] + 1e-4 * largest;
            let off =
                (rms(found) as f32 - want[0]).abs().max((found[found.len() - 1] - want[1]).abs()) / scale;
            assert!(off < 1e-3, "{}: {parameter} is off by {off:.1e}", golden.name);
            worst = worst.max(off);
        }
        eprintln!("{}: {} gradients within {worst:.1e}", golden.name, visitor.found.len());
    }
}

#[test]
fn a_row_is_the_same_in_every_batch() {
    let device = Device::flex();
    for golden in goldens() {
        let model = golden.model(&device);
        let [_, channels, length] = golden.json::<[usize; 3]>("sample");
        let x: Tensor<3> = sample("rows", [5, channels, length], &device);
        let times = [0.1, 0.9, 0.5, 0.0, 1.0];
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let model = model.clone().with_context(ExecContext::default().with_precision(precision));
            let together = run(&model, x.clone(), &times);
            for (i, row) in together.chunks(together.len() / 5).enumerate() {
                let alone = run(&model, x.clone().narrow(0, i, 1), &times[i..=i]);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&alone), bits(row), "{}, {precision}, row {i}", golden.name);
            }
        }
    }
}

/// The first golden's network through the interface that pipelines use.
#[test]
fn the_registry_loads_it() {
    let device = Device::flex();
    let golden = goldens().next().unwrap();
    let entry = registry::find("UNet1DModel").unwrap();
    let spec = (entry.spec)(&golden.metadata["config"]).unwrap();
    assert_eq!((spec.class, spec.axes, spec.multiple, spec.patch), ("UNet1DModel", 1, 8, 1));
    assert_eq!((spec.inputs, spec.outputs, spec.native), (2, 2, Some(vec![128])));

    let model = golden.model(&device);
    let network = (entry.load)(&golden.metadata["config"], &model.tensors(), &device).unwrap();
    let (x, times) = golden.inputs(&device);
    let found = network.forward(Batch::of(x.clone()), &times, &Conditions::none(), Mode::Eval);
    assert_eq!(found.shape(), &SampleShape::from([2, 128]));
    assert_eq!(found.to_host(), run(&model, x, &times));
    let bytes = |length| network.row_bytes(&SampleShape::from([2, length]), Precision::F32);
    assert!(bytes(65536) > 4 * 32 * 65536 && bytes(1 << 17) > bytes(65536));
}

#[test]
fn wrong_inputs_are_errors() {
    let golden = goldens().next().unwrap();
    let model = golden.model(&device());
    let check = |dims: &[usize], times: &[f32], conditions: &Conditions| match model.check(
        1,
        &SampleShape::from(dims),
        times,
        conditions,
    ) {
        Ok(()) => String::new(),
        Err(e) => e.to_string(),
    };
    let none = Conditions::none();
    assert_eq!(check(&[2, 24], &[0.5], &none), "");
    assert_eq!(
        check(&[2, 16], &[0.5], &none),
        "the samples have a length of 16, expected a multiple of 8 of at least 24"
    );
    assert!(check(&[2, 44], &[0.5], &none).contains("length of 44, expected a multiple of 8"));
    assert!(check(&[2, 0], &[0.5], &none).contains("length of 0"));
    assert_eq!(check(&[1, 64], &[0.5], &none), "the samples have 1 channels, expected 2");
    assert_eq!(
        check(&[2, 8, 8], &[0.5], &none),
        "the samples have the shape 2×8×8, expected channels×length"
    );
    assert_eq!(check(&[2, 64], &[0.5, 0.6], &none), "2 times for 1 samples");
    assert_eq!(check(&[2, 64], &[0.5], &Conditions::of_classes(vec![1])), "this network has no classes");
}

/// The configuration of a small network with some keys replaced.
fn with(changes: Value) -> String {
    let mut keys = json!({"extra_in_channels": 16});
    for (key, value) in changes.as_object().unwrap() {
        keys[key] = value.clone();
    }
    keys.to_string()
}

#[test]
fn published_configurations_are_read() {
    // As in the folders of Dance Diffusion, which are older than `time_embedding_dim`.
    let text = with(json!({
        "_class_name": "UNet1DModel",
        "_diffusers_version": "0.6.0.dev0",
        "act_fn": null,
        "block_out_channels": [128, 128, 256, 512],
        "down_block_types": ["DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D", "AttnDownBlock1D"],
        "downsample_each_block": false,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": 2,
        "layers_per_block": 1,
        "mid_block_type": "UNetMidBlock1D",
        "norm_num_groups": 8,
        "out_block_type": null,
        "out_channels": 2,
        "sample_rate": 16000,
        "sample_size": 65536,
        "time_embedding_type": "fourier",
        "up_block_types": ["AttnUpBlock1D", "UpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"],
        "use_timestep_embedding": false,
    }));
    let config = UNet1DConfig::from_json(&text).unwrap();
    assert_eq!((config.sample_rate, config.stride(), config.least()), (Some(16000), 16, 48));
    let written: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(written["time_embedding_dim"], 16);
    let again = UNet1DConfig::from_json(&written.to_string()).unwrap();
    assert_eq!(again, UNet1DConfig { time_embedding_dim: Some(16), ..config });
}

#[test]
fn unsupported_configurations_name_the_key() {
    for (changes, expected) in [
        (
            json!({"use_timestep_embedding": true}),
            "`use_timestep_embedding` is true: only false is supported",
        ),
        (json!({"time_embedding_type": "positional"}), "`time_embedding_type` is \"positional\": only"),
        (json!({"mid_block_type": "ValueFunctionMidBlock1D"}), "`mid_block_type` is"),
        (json!({"out_block_type": "ValueFunction"}), "`out_block_type` is"),
        (json!({"downsample_each_block": true}), "`downsample_each_block` is true"),
        (json!({"down_block_types": ["DownResnetBlock1D"]}), "unknown variant `DownResnetBlock1D`"),
        (json!({"up_block_types": ["UpResnetBlock1D"]}), "unknown variant `UpResnetBlock1D`"),
        (json!({"extra_in_channels": 0}), "`extra_in_channels` is 0: expected the width"),
        (json!({"extra_in_channels": 7}), "`extra_in_channels` is 7"),
        (json!({"time_embedding_dim": 64}), "`time_embedding_dim` is 64: expected the value of"),
        (json!({"block_out_channels": []}), "`block_out_channels` is []"),
        (json!({"block_out_channels": [32, 64]}), "expected 2 blocks"),
        (json!({"block_out_channels": [32, 32, 0]}), "expected channels between 1"),
        (json!({"block_out_channels": [32, 32, 16]}), "entry 2 belongs to attention"),
        (json!({"block_out_channels": [32, 32, 97]}), "instead of 97"),
        (
            json!({"down_block_types": ["DownBlock1D", "DownBlock1D", "AttnDownBlock1D"]}),
            "expected `DownBlock1DNoSkip` as the first block",
        ),
        (
            json!({"up_block_types": ["AttnUpBlock1D", "UpBlock1DNoSkip", "UpBlock1DNoSkip"]}),
            "expected `UpBlock1DNoSkip` as the last block",
        ),
        (json!({"in_channels": 0}), "`in_channels` is 0"),
        (json!({"kernel": 3}), "unknown key `kernel`"),
    ] {
        let message = UNet1DConfig::from_json(&with(changes)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
}
