//! The U-Nets for clips compared with diffusers. The files were made by `golden/unet3d/make_unet3d.py`, which documents the
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
    Conditions, Entry, ExecContext, HostTensor, Mode, Network, Precision, UNet3DConfig, UNetMotionConfig,
    UNetSpatioTemporalConfig, VideoUNet, VideoUNetConfig,
    conditions::{ADDED, TEXT},
    params, registry,
    unet_3d::{DownBlockMotionType, UpBlockMotionType},
    unet_condition::PerBlock,
};
use tweedie_ops::{Batch, SampleShape, to_host};

/// Relative to the output's root mean square.
const TOLERANCE: f64 = 1e-4;

const CASES: [&str; 6] =
    ["modelscope", "one_frame", "motion", "motion_options", "spatio_temporal", "spatio_temporal_one_frame"];

struct Golden {
    name: &'static str,
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

fn goldens() -> impl Iterator<Item = Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/unet3d");
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

    fn config(&self) -> VideoUNetConfig {
        let text = &self.metadata["config"];
        match self.name.split('_').next() {
            Some("motion") => (&UNetMotionConfig::from_json(text).unwrap()).into(),
            Some("spatio") => (&UNetSpatioTemporalConfig::from_json(text).unwrap()).into(),
            _ => (&UNet3DConfig::from_json(text).unwrap()).into(),
        }
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn model(&self, device: &Device) -> VideoUNet {
        let shapes = params::shapes(&VideoUNet::new(self.config(), 1, device).unwrap());
        let weights: BTreeMap<String, HostTensor> =
            shapes.iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect();
        VideoUNet::load(self.config(), &weights, device).unwrap()
    }

    fn inputs(&self, device: &Device) -> (Tensor<5>, Vec<f32>, Conditions) {
        let x = sample("sample", self.json::<[usize; 5]>("sample"), device);
        let text = sample("text", self.json::<[usize; 3]>("text"), device);
        let conditions = Conditions::none().with(TEXT, Entry::Tokens(text));
        let added = self.name.starts_with("spatio").then(|| Entry::Numbers(self.json("added")));
        (x, self.json("times"), conditions.with_some(ADDED, added))
    }
}

fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn names_and_shapes_are_diffusers() {
    for golden in goldens() {
        let model = VideoUNet::new(golden.config(), 0, &device()).unwrap();
        let shapes = params::shapes(&model);
        let listing: String = shapes.iter().map(|(name, shape)| format!("{name} {shape:?}\n")).collect();
        let found = format!("{:016x}", hash(&listing));
        assert_eq!(found, golden.metadata["names"], "{}: {listing}", golden.name);
    }
}

#[test]
fn outputs_are_diffusers() {
    let device = Device::flex();
    for golden in goldens() {
        let (x, times, text) = golden.inputs(&device);
        let expected = golden.tensor("output");
        let scale = rms(&expected);
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let context = ExecContext::default().with_precision(precision);
            let model = golden.model(&device).with_context(context);
            let found = to_host(model.forward(x.clone(), &times, &text, Mode::Eval));
            assert_eq!(found.len(), expected.len());
            let differences: Vec<f32> = found.iter().zip(&expected).map(|(f, e)| f - e).collect();
            let largest = differences.iter().fold(0f32, |a, d| if d.is_nan() { *d } else { a.max(d.abs()) });
            // Every element in `f32`; with fewer bits, errors add up over the layers.
            let (off, most) = match precision {
                Precision::F32 => (f64::from(largest) / scale, TOLERANCE),
                _ => (rms(&differences) / scale, 0.07),
            };
            eprintln!("{}, {precision}: within {off:.1e} of the RMS {scale:.3}", golden.name);
            assert!(off < most, "{}, {precision}: off by {off:.1e} of the RMS", golden.name);
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
        let (x, times, text) = golden.inputs(&device);
        let model = golden.model(&device.clone().autodiff());
        let y = model.forward(x, &times, &text, Mode::Eval);
        let gradients = (y.clone() * y).mean().backward();
        let mut visitor = Gradients { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
        model.visit(&mut visitor);

        let expected = golden.tensor("gradients");
        assert_eq!(visitor.found.len() * 2, expected.len(), "{}", golden.name);
        let largest = expected.chunks(2).fold(0f32, |a, pair| a.max(pair[0]));
        let mut worst = 0f32;
        for ((parameter, found), want) in visitor.found.iter().zip(expected.chunks(2)) {
            let scale = want[0] + 1e-4 * largest;
            let off =
                (rms(found) as f32 - want[0]).abs().max((found[found.len() - 1] - want[1]).abs()) / scale;
            assert!(off < 2e-3, "{}: {parameter} is off by {off:.1e}", golden.name);
            worst = worst.max(off);
        }
        eprintln!("{}: {} gradients within {worst:.1e}", golden.name, visitor.found.len());
    }
}

#[test]
fn a_row_is_the_same_in_every_batch() {
    let device = Device::flex();
    let golden = goldens().next().unwrap();
    let [_, channels, frames, h, w] = golden.json::<[usize; 5]>("sample");
    let [_, tokens, width] = golden.json::<[usize; 3]>("text");
    let x: Tensor<5> = sample("rows", [3, channels, frames, h, w], &device);
    let text: Tensor<3> = sample("texts", [3, tokens, width], &device);
    let times = [1.0, 500.0, 999.0];
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    for precision in [Precision::F32, Precision::Bf16] {
        let model = golden.model(&device).with_context(ExecContext::default().with_precision(precision));
        let run = |x: Tensor<5>, text: Tensor<3>, times: &[f32]| {
            let text = Conditions::none().with(TEXT, Entry::Tokens(text));
            to_host(model.forward(x, times, &text, Mode::Eval))
        };
        let together = run(x.clone(), text.clone(), &times);
        for (i, row) in together.chunks(together.len() / 3).enumerate() {
            let alone = run(x.clone().narrow(0, i, 1), text.clone().narrow(0, i, 1), &times[i..=i]);
            assert_eq!(bits(&alone), bits(row), "{precision}, row {i}");
        }
    }
}

#[test]
fn the_registry_loads_it() {
    let device = device();
    for (name, class, frames) in
        [("modelscope", "UNet3DConditionModel", 16), ("motion", "UNetMotionModel", 6)]
    {
        let golden = goldens().find(|golden| golden.name == name).unwrap();
        let entry = registry::find(class).unwrap();
        let spec = (entry.spec)(&golden.metadata["config"]).unwrap();
        assert_eq!((spec.axes, spec.inputs, spec.outputs, spec.text), (3, 4, 4, Some(12)));
        assert_eq!(spec.native, Some(vec![frames, 8, 8]));
        let model = golden.model(&device);
        let network = (entry.load)(&model.config_json(), &model.tensors(), &device).unwrap();
        let (x, times, text) = golden.inputs(&device);
        let found = network.forward(Batch::of(x.clone()), &times, &text, Mode::Eval);
        assert_eq!(found.shape(), &SampleShape::from([4, 5, 8, 8]));
        assert_eq!(found.to_host(), to_host(model.forward(x, &times, &text, Mode::Eval)));
    }
}

/// A new network has the same table of positions as diffusers' `SinusoidalPositionalEmbedding`.
#[test]
fn positions_are_sines_and_cosines() {
    let config = UNetMotionConfig {
        block_out_channels: vec![8],
        down_block_types: vec![DownBlockMotionType::DownBlockMotion],
        up_block_types: vec![UpBlockMotionType::UpBlockMotion],
        norm_num_groups: 4,
        cross_attention_dim: PerBlock::All(8),
        motion_max_seq_length: 3,
        ..UNetMotionConfig::default()
    };
    let model = VideoUNet::new(&config, 0, &device()).unwrap();
    let tensors = model.tensors();
    let table = &tensors["down_blocks.0.motion_modules.0.transformer_blocks.0.pos_embed.pe"];
    assert_eq!(table.shape, [1, 3, 8]);
    let expected = [0.909_297_4, -0.416_146_85, 0.198_669_33, 0.980_066_6, 0.019_998_67, 0.999_8];
    for (found, expected) in table.values[16..].iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let device = device();
    let golden = goldens().next().unwrap();
    let model = golden.model(&device);
    let text: Tensor<3> = sample("text", [1, 7, 12], &device);
    let text = Conditions::none().with(TEXT, Entry::Tokens(text));
    let check = |dims: &[usize], conditions: &Conditions| match model.check(
        1,
        &SampleShape::from(dims),
        &[1.0],
        conditions,
    ) {
        Ok(()) => String::new(),
        Err(e) => e.to_string(),
    };
    assert_eq!(check(&[4, 3, 8, 8], &text), "");
    assert_eq!(
        check(&[4, 8, 8], &text),
        "the samples have the shape 4×8×8, expected channels×frames×height×width"
    );
    assert!(check(&[4, 0, 8, 8], &text).contains("expected sizes of at least 1"));
    assert!(check(&[3, 3, 8, 8], &text).contains("3 channels, expected 4"));
    assert!(check(&[4, 3, 8, 8], &Conditions::none()).contains("needs text features"));
    let golden = goldens().find(|golden| golden.name == "spatio_temporal_one_frame").unwrap();
    let (x, times, given) = golden.inputs(&device);
    let shape = SampleShape::from(&x.dims()[1..]);
    let check = |given: &Conditions| golden.model(&device).check(1, &shape, &times, given);
    check(&given).unwrap();
    let missing = check(&given.without(&[ADDED])).unwrap_err().to_string();
    assert!(missing.contains("three additional numbers"), "{missing}");
    let golden = goldens().find(|golden| golden.name == "motion").unwrap();
    let found = golden.model(&device).check(1, &SampleShape::from([4, 7, 8, 8]), &[1.0], &text);
    let expected = "the clips have 7 frames, expected at most 6 (`motion_max_seq_length`)";
    assert_eq!(found.unwrap_err().to_string(), expected);
}

#[test]
fn unsupported_configurations_name_the_key() {
    for (changes, expected) in [
        (json!({"attention_head_dim": 48}), "`attention_head_dim` is 48: the 320 channels"),
        (json!({"attention_head_dim": 0}), "`attention_head_dim` is 0"),
        (json!({"num_attention_heads": 4}), "`num_attention_heads` is 4: only null"),
        (json!({"norm_num_groups": 7}), "`norm_num_groups` is 7"),
        (json!({"layers_per_block": 0}), "`layers_per_block` is 0"),
        (json!({"block_out_channels": [320, 640]}), "`down_block_types` is 4: expected 2 blocks"),
        (json!({"down_block_types": ["DownBlock2D"]}), "unknown variant `DownBlock2D`"),
        (json!({"use_linear_projection": true}), "unknown key `use_linear_projection`"),
    ] {
        let error = UNet3DConfig::from_json(&changes.to_string()).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
    for (changes, expected) in [
        (
            json!({"motion_num_attention_heads": 3}),
            "`motion_num_attention_heads` is 3: the 320 channels of block 0",
        ),
        (json!({"motion_num_attention_heads": [8, 8]}), "`motion_num_attention_heads` is [8,8]"),
        (
            json!({"temporal_transformer_layers_per_block": []}),
            "`temporal_transformer_layers_per_block` is []",
        ),
        (json!({"motion_max_seq_length": 0}), "`motion_max_seq_length` is 0"),
        (json!({"num_attention_heads": 7}), "`attention_head_dim` is 7"),
        (json!({"addition_embed_type": "text_time"}), "`addition_embed_type` is \"text_time\": only null"),
    ] {
        let error = UNetMotionConfig::from_json(&changes.to_string()).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
    for (changes, expected) in [
        (json!({"num_attention_heads": 3}), "`num_attention_heads` is 3: the 320 channels of block 0"),
        (json!({"block_out_channels": [320, 640, 1280, 1290]}), "expected multiples of 32"),
        (
            json!({"projection_class_embeddings_input_dim": 512}),
            "`projection_class_embeddings_input_dim` is 512: expected 768",
        ),
        (json!({"num_frames": 0}), "`num_frames` is 0"),
        (json!({"cross_attention_dim": [1024]}), "`cross_attention_dim` is [1024]: block 1"),
        (json!({"down_block_types": ["DownBlock3D"]}), "unknown variant `DownBlock3D`"),
    ] {
        let error = UNetSpatioTemporalConfig::from_json(&changes.to_string()).unwrap_err().to_string();
        assert!(error.contains(expected), "{changes}: {error}");
    }
    let text = UNetSpatioTemporalConfig::default().to_json();
    assert_eq!(UNetSpatioTemporalConfig::from_json(&text).unwrap(), UNetSpatioTemporalConfig::default());
    let text = UNetMotionConfig::default().to_json();
    assert_eq!(UNetMotionConfig::from_json(&text).unwrap(), UNetMotionConfig::default());
    let text = UNet3DConfig::default().to_json();
    assert_eq!(UNet3DConfig::from_json(&text).unwrap(), UNet3DConfig::default());
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["attention_head_dim"], 64);
}
