//! The gradients of jointly training a U-Net and its text encoder, compared with finite differences.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Gradients, Tensor},
};
use tweedie_models::{
    ClipTextConfig, ClipTextModel, Conditions, Entry, HostTensor, Mode, UNet2DConditionConfig,
    UNet2DConditionModel, conditions::TEXT, export, import,
};
use tweedie_ops::{RowNoise, to_host};

#[derive(Module, Debug)]
struct Both {
    unet: UNet2DConditionModel,
    text: ClipTextModel,
}

fn both(seed: u64, linear: bool, device: &Device) -> Both {
    let unet = format!(
        r#"{{"block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 2,
            "cross_attention_dim": 12, "use_linear_projection": {linear}, "resnet_time_scale_shift": "{}",
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}}"#,
        if linear { "scale_shift" } else { "default" },
    );
    let text = ClipTextConfig {
        vocab_size: 20,
        hidden_size: 12,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        max_position_embeddings: 7,
        eos_token_id: 19,
        ..ClipTextConfig::default()
    };
    Both {
        unet: UNet2DConditionModel::new(&UNet2DConditionConfig::from_json(&unet).unwrap(), seed, device)
            .unwrap(),
        text: ClipTextModel::new(&text, seed, device).unwrap(),
    }
}

/// A random linear function of the output for two rows.
fn loss(model: &Both, device: &Device) -> Tensor<1> {
    let texts = vec![vec![18, 3, 7, 4, 19, 19, 19], vec![18, 5, 19, 19, 19, 19, 19]];
    let text = Entry::Tokens(model.text.encode(&texts, 0).unwrap().last);
    let x = RowNoise(vec![1, 2]).tensor([2, 4, 8, 8], 0, device);
    let weights = RowNoise(vec![3, 4]).tensor([2, 4, 8, 8], 0, device);
    let conditions = Conditions::none().with(TEXT, text);
    let y = model.unet.forward(x, &[3.0, 700.0], &conditions, Mode::Eval);
    let weights = if y.is_autodiff() { weights.autodiff() } else { weights };
    (y * weights).sum()
}

struct Found<'a> {
    path: Vec<String>,
    gradients: &'a Gradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl ModuleVisitor for Found<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
        let gradient = p.val().grad(self.gradients).map(to_host).unwrap_or_default();
        self.found.insert(self.path.join("."), gradient);
    }
}

fn norm(v: &[f32]) -> f64 {
    v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn gradients_are_finite_differences() {
    let device = Device::flex();
    for linear in [false, true] {
        let model = both(1, linear, &device.clone().autodiff());
        let gradients = loss(&model, &device).backward();
        let mut visitor = Found { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
        model.visit(&mut visitor);
        let plain = export(&model);
        let mut wrong = Vec::new();
        for (name, gradient) in &visitor.found {
            assert_eq!(gradient.len(), plain[name].values.len(), "{name} has no gradient");
            // A common shift of all keys does not change attention.
            if name.ends_with("k_proj.bias") {
                continue;
            }
            // Along the gradient the loss increases by its length.
            let length = norm(gradient);
            let step = (0.1 / length).min(0.02 * norm(&plain[name].values) + 2e-3);
            let at = |sign: f64| {
                let mut moved = plain.clone();
                let tensor = moved.get_mut(name).unwrap();
                for (v, g) in tensor.values.iter_mut().zip(gradient) {
                    *v = (f64::from(*v) + sign * step / length * f64::from(*g)) as f32;
                }
                let model = import(both(1, linear, &device), &moved).unwrap();
                f64::from(loss(&model, &device).into_scalar::<f32>())
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
            // Sums of a thousand values in single precision have errors of about 1e-5.
            if (slope - length).abs() > 0.01 * length + 2e-5 / step {
                wrong.push(format!("{name}: {slope} for {length}, step {step}"));
            }
        }
        assert!(visitor.found.len() > 100, "{}", visitor.found.len());
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn initial_text_features_are_of_order_one() {
    let device = Device::flex();
    let model = both(3, false, &device);
    let features = to_host(model.text.encode(&[vec![18, 3, 7, 4, 19]], 0).unwrap().last);
    let rms = norm(&features) / (features.len() as f64).sqrt();
    assert!((0.8..1.2).contains(&rms), "{rms}");
    let tensors: BTreeMap<String, HostTensor> = export(&model.text);
    let std = |name: &str| norm(&tensors[name].values) / (tensors[name].values.len() as f64).sqrt();
    assert!((std("text_model.embeddings.token_embedding.weight") - 0.02).abs() < 0.003);
    assert_eq!(std("text_model.encoder.layers.0.mlp.fc1.bias"), 0.0);
}
