//! The U-Net beyond its golden outputs: initial weights, gradients, dropout, the denoiser.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{DType, Device, Tensor, TensorData},
};
use serde_json::json;
use tweedie_core::{Denoiser, Level, Parameterization, lin};
use tweedie_models::{
    Conditions, Entry, ExecContext, HostTensor, InputError, IoSpec, Mode, Network, NetworkDenoiser,
    Precision, UNet2DConfig, UNet2DModel,
    conditions::{CLASSES, EMBEDDING},
    export, params,
};
use tweedie_ops::{Batch, RowNoise, SampleShape};

fn config(changes: serde_json::Value) -> UNet2DConfig {
    let mut keys = json!({
        "block_out_channels": [16, 32],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 8,
        "layers_per_block": 1,
    });
    for (key, value) in changes.as_object().unwrap() {
        keys[key] = value.clone();
    }
    UNet2DConfig::from_json(&keys.to_string()).unwrap()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

fn noise(rows: &[u64], device: &Device) -> Tensor<4> {
    RowNoise(rows.to_vec()).tensor([rows.len(), 3, 8, 8], 0, device)
}

/// Names, identifiers, and which parameters are trained.
#[derive(Default)]
struct Seen {
    path: Vec<String>,
    found: Vec<(String, bool, bool)>,
}

impl ModuleVisitor for Seen {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        let settled = p.id == params::param_id(&name) && p.is_initialized();
        self.found.push((name, settled, p.val().is_require_grad()));
    }
}

/// Configurations that cover every kind of layer.
fn varied() -> Vec<UNet2DConfig> {
    vec![
        config(json!({"num_class_embeds": 3, "downsample_type": "resnet"})),
        config(json!({
            "block_out_channels": [32, 32],
            "time_embedding_type": "fourier",
            "down_block_types": ["AttnSkipDownBlock2D", "ResnetDownsampleBlock2D"],
            "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
            "resnet_time_scale_shift": "scale_shift",
        })),
        config(json!({
            "block_out_channels": [32, 64],
            "time_embedding_type": "learned",
            "num_train_timesteps": 9,
            "class_embed_type": "timestep",
            "down_block_types": ["KDownBlock2D", "KDownBlock2D"],
            "up_block_types": ["KUpBlock2D", "KUpBlock2D"],
        })),
    ]
}

fn condition(config: &UNet2DConfig, rows: usize) -> Conditions {
    let labelled = config.num_class_embeds.is_some() || config.class_embed_type.is_some();
    Conditions::none().with_some(CLASSES, labelled.then(|| Entry::Indices(vec![1; rows])))
}

#[test]
fn parameters_are_settled() {
    for config in varied() {
        let model = UNet2DModel::new(&config, 1, &Device::flex().autodiff()).unwrap();
        let mut seen = Seen::default();
        model.visit(&mut seen);
        for (name, settled, trained) in seen.found {
            assert!(settled, "{name} has another identifier or is not computed");
            let frozen = name == "time_proj.weight" && config.num_train_timesteps.is_none();
            assert_eq!(trained, !frozen, "{name}");
        }
        assert_eq!(export(&params::settle(model.clone())), export(&model));
    }
}

#[test]
fn initial_weights_depend_on_seed_and_name_alone() {
    let device = Device::flex();
    let a = export(&UNet2DModel::new(&config(json!({})), 1, &device).unwrap());
    let b = export(&UNet2DModel::new(&config(json!({"layers_per_block": 2})), 1, &device).unwrap());
    let c = export(&UNet2DModel::new(&config(json!({})), 2, &device).unwrap());
    for name in ["conv_in.weight", "down_blocks.1.attentions.0.to_q.bias", "mid_block.resnets.1.conv2.weight"]
    {
        assert_eq!(a[name], b[name], "{name}");
        assert_ne!(a[name], c[name], "{name}");
    }
    assert_ne!(a["mid_block.resnets.0.conv1.weight"], a["mid_block.resnets.1.conv1.weight"]);
}

#[test]
fn initial_weights_have_pytorchs_distributions() {
    let config = config(json!({"block_out_channels": [32, 64], "num_class_embeds": 40}));
    let tensors = export(&UNet2DModel::new(&config, 7, &Device::flex()).unwrap());
    let moments = |t: &HostTensor| {
        let n = t.values.len() as f64;
        let mean = t.values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = t.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        (mean, square)
    };
    for (name, t) in &tensors {
        let (mean, square) = moments(t);
        let largest = t.values.iter().fold(0f32, |a, v| a.max(v.abs()));
        if name.contains("norm") {
            let expected = if name.ends_with("weight") { 1.0 } else { 0.0 };
            assert!(t.values.iter().all(|v| *v == expected), "{name}");
            continue;
        }
        if name == "class_embedding.weight" {
            assert!(mean.abs() < 0.05 && (square - 1.0).abs() < 0.1, "{name}: {mean} {square}");
            continue;
        }
        let weight = &tensors[&name.replace(".bias", ".weight")];
        let bound = 1.0 / (weight.shape[1..].iter().product::<usize>() as f64).sqrt();
        assert!(f64::from(largest) <= bound * 1.000001, "{name} exceeds {bound}");
        if t.values.len() > 2000 {
            assert!(f64::from(largest) > 0.99 * bound, "{name} stays within {largest}, not {bound}");
            assert!((square * 3.0 / bound.powi(2) - 1.0).abs() < 0.1, "{name}: {square}");
            assert!(mean.abs() < 0.05 * bound, "{name}: {mean}");
        }
    }
}

struct Gradients<'a> {
    path: Vec<String>,
    gradients: &'a burn::tensor::Gradients,
    found: BTreeMap<String, Option<f32>>,
}

impl ModuleVisitor for Gradients<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        let largest = p
            .val()
            .grad(self.gradients)
            .map(|g| values(g).into_iter().fold(0f32, |a, v| if v.is_finite() { a.max(v.abs()) } else { v }));
        self.found.insert(self.path.join("."), largest);
    }
}

#[test]
fn every_trained_parameter_gets_a_gradient() {
    let device = Device::flex();
    for config in varied() {
        for precision in [Precision::F32, Precision::Bf16] {
            let model = UNet2DModel::new(&config, 1, &device.clone().autodiff()).unwrap();
            let model = model.with_context(ExecContext::default().with_precision(precision));
            let mode = Mode::Train { dropout_seed: 3 };
            let y = model.forward(noise(&[1, 2], &device), &[3.0, 5.0], &condition(&config, 2), mode);
            let gradients = (y.clone() * y).mean().backward();
            let mut visitor = Gradients { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
            model.visit(&mut visitor);
            for (name, largest) in visitor.found {
                let frozen = name == "time_proj.weight" && config.num_train_timesteps.is_none();
                assert_eq!(largest.is_none(), frozen, "{name}: {largest:?}");
                // A common shift of all keys does not change attention; everything else matters.
                if let Some(g) = largest.filter(|_| !name.ends_with("to_k.bias")) {
                    assert!(g.is_finite() && g > 0.0, "{name}: {g}");
                }
            }
        }
    }
}

#[test]
fn dropout_is_a_function_of_seed_layer_and_row() {
    let device = Device::flex();
    let model = UNet2DModel::new(&config(json!({"dropout": 0.5})), 1, &device).unwrap();
    let run = |rows: &[u64], mode| {
        let times = vec![7.0; rows.len()];
        values(model.forward(noise(rows, &device), &times, &Conditions::none(), mode))
    };
    let train = |dropout_seed| Mode::Train { dropout_seed };
    let one = run(&[5], train(1));
    assert_eq!(one, run(&[5], train(1)));
    assert_ne!(one, run(&[5], train(2)));
    assert_ne!(one, run(&[5], Mode::Eval));
    assert_eq!(run(&[5], Mode::Eval), run(&[5], Mode::Eval));
    let two = run(&[5, 6], train(1));
    for (a, b) in one.iter().zip(&two) {
        assert!((a - b).abs() < 1e-4, "row 0 differs with another row: {a} {b}");
    }
    let same = run(&[5, 5], train(1));
    assert_ne!(same[..192], same[192..], "two rows share a mask");

    let none = UNet2DModel::new(&config(json!({"dropout": 1.0})), 1, &device).unwrap();
    let y = none.forward(noise(&[5], &device), &[7.0], &Conditions::none(), train(1));
    assert!(values(y).iter().all(|v| v.is_finite()));
}

#[test]
fn rows_do_not_depend_on_the_batch() {
    let device = Device::flex();
    for config in varied() {
        let model = UNet2DModel::new(&config, 1, &device).unwrap();
        let run = |rows: &[u64]| {
            let times: Vec<f32> = rows.iter().map(|r| *r as f32).collect();
            let y = model.forward(noise(rows, &device), &times, &condition(&config, rows.len()), Mode::Eval);
            values(y).chunks(192).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let all = run(&[1, 2, 3, 4]);
        for (i, row) in all.iter().enumerate() {
            assert_eq!(run(&[i as u64 + 1])[0], *row, "row {i}");
        }
        assert_eq!(run(&[4, 1])[0], all[3]);
    }
}

/// A network whose output is twice its input, optionally followed by a variance.
#[derive(Debug)]
struct Twice {
    learned_variance: bool,
}

impl Network for Twice {
    fn spec(&self) -> IoSpec {
        IoSpec::new("Twice", 2, [3, if self.learned_variance { 6 } else { 3 }])
    }

    fn check(&self, _: usize, shape: &SampleShape, _: &[f32], _: &Conditions) -> Result<(), InputError> {
        match shape.axes() {
            [8, 8] => Ok(()),
            _ => Err(InputError("too large".into())),
        }
    }

    fn forward(&self, x: Batch, _: &[f32], _: &Conditions, _: Mode) -> Batch {
        let y = lin![2.0 => &x];
        if self.learned_variance { Batch::cat_channels(&[y.clone(), lin![9.0 => &y]]) } else { y }
    }

    fn row_bytes(&self, shape: &SampleShape, _: Precision) -> u64 {
        4 * shape.len() as u64
    }

    fn in_context(&self, _: &ExecContext) -> Box<dyn Network> {
        Box::new(Self { ..*self })
    }

    fn differentiable(&self) -> Box<dyn Network> {
        self.in_context(&ExecContext::default())
    }

    fn config_json(&self) -> String {
        "{}".into()
    }

    fn tensors(&self) -> BTreeMap<String, HostTensor> {
        BTreeMap::new()
    }

    fn non_finite(&self) -> Option<String> {
        None
    }
}

#[test]
fn the_denoiser_reads_the_networks_answer() {
    let device = Device::flex();
    let x = noise(&[1, 2], &device);
    let at = Level { alpha: 0.8, sigma: 0.6, t: 500.0 };
    for learned_variance in [false, true] {
        let network = Twice { learned_variance };
        let denoiser = NetworkDenoiser::new(&network, Parameterization::Eps, Conditions::none());
        let p = denoiser.denoise(&Batch::of(x.clone()), at).unwrap();
        for ((x, x0), eps) in values(x.clone()).iter().zip(p.x0.to_host()).zip(p.eps.to_host()) {
            assert!((eps - 2.0 * x).abs() < 1e-6);
            assert!((x0 - (x - 0.6 * eps) / 0.8).abs() < 1e-5);
        }
    }
    // EDM: the input is scaled to unit variance.
    let network = Twice { learned_variance: false };
    let edm = Parameterization::Edm { sigma_data: 0.5 };
    let at = Level { alpha: 1.0, sigma: 2.0, t: 2.0 };
    let raw =
        NetworkDenoiser::new(&network, edm, Conditions::none()).raw(&Batch::of(x.clone()), at).unwrap().0;
    let c_in = 1.0 / (4.25f32).sqrt();
    for (x, raw) in values(x.clone()).iter().zip(raw.to_host()) {
        assert!((raw - 2.0 * c_in * x).abs() < 1e-5);
    }

    let large = Batch::of(Tensor::<4>::ones([1, 3, 16, 16], (&device, DType::F32)));
    let error = NetworkDenoiser::new(&network, edm, Conditions::none()).denoise(&large, at);
    assert_eq!(error.unwrap_err().to_string(), "too large");
}

#[test]
fn an_embedding_joins_the_time() {
    let device = Device::flex();
    let config = config(json!({"num_class_embeds": 3}));
    let model = UNet2DModel::new(&config, 1, &device).unwrap();
    let table = &export(&model)["class_embedding.weight"];
    let width = config.time_width();
    let run = |classes, embedding: Option<Tensor<2>>| {
        let conditions = Conditions::of_classes(classes).with_some(EMBEDDING, embedding.map(Entry::Vectors));
        values(model.forward(noise(&[4], &device), &[10.0], &conditions, Mode::Eval))
    };
    // The change from class 0 to class 2, computed by hand.
    let step: Vec<f32> = (0..width).map(|i| table.values[2 * width + i] - table.values[i]).collect();
    let step = Tensor::<2>::from_data(TensorData::new(step, [1, width]), (&device, DType::F32));
    for (a, b) in run(vec![2], None).iter().zip(run(vec![0], Some(step))) {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn names_of_older_checkpoints_are_understood() {
    let device = Device::flex();
    let config = config(json!({}));
    let model = UNet2DModel::new(&config, 1, &device).unwrap();
    let tensors = export(&model);
    let renamed: BTreeMap<String, HostTensor> = tensors
        .iter()
        .map(|(name, t)| {
            let name = name
                .replace(".to_q.", ".query.")
                .replace(".to_k.", ".key.")
                .replace(".to_v.", ".value.")
                .replace(".to_out.0.", ".proj_attn.");
            (name, t.clone())
        })
        .collect();
    assert_ne!(renamed.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
    let loaded = UNet2DModel::load(&config, &renamed, &device).unwrap();
    assert_eq!(export(&loaded), tensors);
}
