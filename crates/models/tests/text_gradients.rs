//! The gradients of jointly training networks that read texts and images, compared with finite differences.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Gradients, Tensor},
};
use tweedie_models::{
    ClipTextConfig, ClipTextModel, ClipVisionConfig, ClipVisionModel, Conditions, EmbeddingProjection,
    EmbeddingProjectionConfig, Entry, HostTensor, Mode, Network, PriorConfig, PriorTransformer,
    UNet2DConditionConfig, UNet2DConditionModel,
    conditions::{EMBEDDING, LENGTHS, POOLED, TEXT},
    export, import,
};
use tweedie_ops::{Batch, RowNoise, from_host, to_host};

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

/// Compares the gradients of `loss` for all parameters of a network with finite differences; parameters whose names end with one
/// of `free` have none.
fn compare<M: Module>(
    device: &Device,
    build: impl Fn(&Device) -> M,
    loss: impl Fn(&M) -> Tensor<1>,
    free: &[&str],
) -> usize {
    let model = build(&device.clone().autodiff());
    let gradients = loss(&model).backward();
    let mut visitor = Found { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
    model.visit(&mut visitor);
    let plain = export(&model);
    let mut wrong = Vec::new();
    for (name, gradient) in &visitor.found {
        if free.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        assert_eq!(gradient.len(), plain[name].values.len(), "{name} has no gradient");
        // Along the gradient the loss increases by its length.
        let length = norm(gradient);
        let step = (0.1 / length).min(0.02 * norm(&plain[name].values) + 2e-3);
        let at = |sign: f64| {
            let mut moved = plain.clone();
            let tensor = moved.get_mut(name).unwrap();
            for (v, g) in tensor.values.iter_mut().zip(gradient) {
                *v = (f64::from(*v) + sign * step / length * f64::from(*g)) as f32;
            }
            let model = import(build(device), &moved).unwrap();
            f64::from(loss(&model).into_scalar::<f32>())
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
        // Sums of a thousand values in single precision have errors of about 1e-5.
        if (slope - length).abs() > 0.01 * length + 2e-5 / step {
            wrong.push(format!("{name}: {slope} for {length}, step {step}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    visitor.found.len()
}

/// A constant in the graph of `like`.
fn constant<const D: usize, const E: usize>(shape: [usize; D], seed: u64, like: &Tensor<E>) -> Tensor<D> {
    let rows = shape[0] as u64;
    let x = RowNoise((0..rows).map(|row| seed + row).collect()).tensor(shape, 0, &like.device().inner());
    if like.is_autodiff() { x.autodiff() } else { x }
}

#[test]
fn gradients_are_finite_differences() {
    let device = Device::flex();
    for linear in [false, true] {
        // A common shift of all keys does not change attention.
        let found = compare(&device, |d| both(1, linear, d), |model| loss(model, &device), &["k_proj.bias"]);
        assert!(found > 100, "{found}");
    }
}

#[test]
fn gradients_of_an_encoder_of_images_are_finite_differences() {
    let config = ClipVisionConfig {
        hidden_size: 12,
        intermediate_size: 24,
        projection_dim: 8,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        image_size: 12,
        patch_size: 4,
        ..ClipVisionConfig::default()
    };
    let loss = |model: &ClipVisionModel| {
        let like = Tensor::<1>::zeros([1], &model.devices()[0]);
        let y = model.encode(constant([2, 3, 12, 12], 1, &like)).unwrap();
        let weights = constant([2, 8], 5, &y);
        (y * weights).sum()
    };
    let build = |device: &Device| ClipVisionModel::new(&config, 1, device).unwrap();
    compare(&Device::flex(), build, loss, &["k_proj.bias"]);
}

#[test]
fn gradients_of_a_prior_are_finite_differences() {
    let config = PriorConfig {
        num_attention_heads: 2,
        attention_head_dim: 6,
        num_layers: 2,
        embedding_dim: 8,
        num_embeddings: 5,
        ..PriorConfig::default()
    };
    let loss = |model: &PriorTransformer| {
        let like = Tensor::<1>::zeros([1], &model.devices()[0]);
        let conditions = Conditions::none()
            .with(TEXT, Entry::Tokens(constant([2, 5, 8], 3, &like)))
            .with(POOLED, Entry::Vectors(constant([2, 8], 5, &like)))
            .with(LENGTHS, Entry::Indices(vec![3, 5]));
        let x: Tensor<2> = constant([2, 8], 1, &like);
        let y = Network::forward(model, Batch::of(x), &[3.0, 700.0], &conditions, Mode::Eval).rows().clone();
        let weights = constant([2, 8], 7, &y);
        (y * weights).sum()
    };
    let build = |device: &Device| PriorTransformer::new(&config, 1, device).unwrap();
    compare(&Device::flex(), build, loss, &["to_k.bias", "clip_mean", "clip_std"]);
}

#[derive(Module, Debug)]
struct Decoder {
    unet: UNet2DConditionModel,
    projection: EmbeddingProjection,
}

#[test]
fn gradients_of_a_decoder_of_embeddings_are_finite_differences() {
    let unet = r#"{"in_channels": 3, "out_channels": 6, "block_out_channels": [8, 16], "norm_num_groups": 4,
        "layers_per_block": 1, "attention_head_dim": 4, "cross_attention_dim": 10, "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift", "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"]}"#;
    let unet = UNet2DConditionConfig::from_json(unet).unwrap();
    let projection = EmbeddingProjectionConfig {
        clip_extra_context_tokens: 2,
        clip_embeddings_dim: 6,
        time_embed_dim: unet.time_width(),
        cross_attention_dim: 10,
    };
    let build = |device: &Device| Decoder {
        unet: UNet2DConditionModel::new(&unet, 1, device).unwrap(),
        projection: EmbeddingProjection::new(&projection, 1, device),
    };
    let loss = |model: &Decoder| {
        let none = model.projection.no_image();
        let image = constant([2, 6], 3, &none);
        // The second row has no image.
        let has = from_host::<2>(vec![1.0, 0.0], [2, 1], &none.device().inner());
        let has = if none.is_autodiff() { has.autodiff() } else { has };
        let image = none.clone() + (image - none.clone()) * has;
        let (text, tokens) = (constant([2, 6], 5, &none), constant([2, 4, 6], 7, &none));
        let made = model.projection.project(image, text, tokens).unwrap();
        let conditions = Conditions::none()
            .with(TEXT, Entry::Tokens(made.tokens))
            .with(LENGTHS, Entry::Indices(vec![4, 6]))
            .with(EMBEDDING, Entry::Vectors(made.embedding));
        let x = constant([2, 3, 8, 8], 1, &none);
        let y = model.unet.forward(x, &[3.0, 700.0], &conditions, Mode::Eval);
        let weights = constant([2, 6, 8, 8], 9, &y);
        (y * weights).sum()
    };
    // Keys of the text and of the image have a bias each, but a common shift has no effect.
    let found = compare(&Device::flex(), build, loss, &[]);
    assert!(found > 80, "{found}");
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
