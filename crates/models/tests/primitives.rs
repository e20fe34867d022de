//! Whole networks on the CPU kernels compared with the same networks of Burn's primitives: outputs, and the gradients of
//! every parameter. Configurations and weights are those of the golden files.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::{collections::BTreeMap, path::Path};

use burn::{
    module::{Module, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};
use common::{sample, weight};
use safetensors::SafeTensors;
use tweedie_models::{
    AutoencoderKl, AutoencoderKlConfig, Conditions, DitConfig, DitTransformer, Entry, HostTensor, Mode,
    UNet2DConditionConfig, UNet2DConditionModel, UNet2DConfig, UNet2DModel,
    conditions::{CLASSES, POOLED, SIZES, TEXT},
    params,
};
use tweedie_ops::{ExecContext, of_primitives, to_host};

/// Largest difference of an output, relative to the output's root mean square.
const OUTPUT: f64 = 2e-5;
/// Largest difference of a parameter's gradient, relative to that gradient's root mean square plus a thousandth of the
/// largest of all parameters: some gradients are zero except for rounding.
const GRADIENT: f64 = 3e-4;

/// The configuration of a golden file.
fn config(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{file}.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap()["config"].clone()
}

/// Weights that preserve the variance of their inputs.
fn weights<M: Module>(model: &M) -> BTreeMap<String, HostTensor> {
    params::shapes(model).iter().map(|(name, shape)| (name.clone(), weight(name, shape))).collect()
}

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
            self.found.insert(self.path.join("."), to_host(g));
        }
    }
}

/// The output, and the gradients of its product with fixed values.
fn run<M: Module>(
    model: &M,
    recompute: bool,
    f: impl Fn(M, ExecContext) -> Tensor<4>,
) -> (Vec<f32>, BTreeMap<String, Vec<f32>>) {
    let y = f(model.clone(), ExecContext { recompute, ..ExecContext::default() });
    let by = sample("by", y.dims(), &Device::flex());
    let gradients = (y.clone() * Tensor::from_inner(by)).sum().backward();
    let mut visitor = Gradients { path: Vec::new(), gradients: &gradients, found: BTreeMap::new() };
    model.visit(&mut visitor);
    (to_host(y), visitor.found)
}

fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    off.fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { f64::max(most, d) })
}

fn compare<M: Module>(name: &str, model: &M, f: impl Fn(M, ExecContext) -> Tensor<4>) {
    let (y, gradients) = run(model, false, &f);
    let (y0, gradients0) = of_primitives(|| run(model, false, &f));
    let off = largest_difference(&y, &y0) / rms(&y0);
    assert_eq!(gradients.keys().collect::<Vec<_>>(), gradients0.keys().collect::<Vec<_>>(), "{name}");
    let largest = gradients0.values().map(|g| rms(g)).fold(0.0, f64::max);
    let mut worst = (0.0, "");
    for (parameter, g) in &gradients {
        let g0 = &gradients0[parameter];
        let off = largest_difference(g, g0) / (rms(g0) + 1e-3 * largest);
        if off >= worst.0 {
            worst = (off, parameter);
        }
    }
    eprintln!("{name}: output {off:.1e}, gradient {:.1e} ({})", worst.0, worst.1);
    assert!(off < OUTPUT, "{name}: the output is off by {off:.1e} of its rms");
    assert!(worst.0 < GRADIENT, "{name}: the gradient of {} is off by {:.1e}", worst.1, worst.0);

    // Recomputed activations have the same bits.
    let (again, of_again) = run(model, true, &f);
    assert!(again == y && of_again == gradients, "{name}: recomputing changes bits");
    // The same bits without autodiff.
    assert!(to_host(f(model.valid(), ExecContext::default())) == y, "{name}: outside autodiff");
}

#[test]
fn unets() {
    let device = Device::flex().autodiff();
    for file in ["attention_resnet_resampling", "scale_shift_resnet", "odd_sizes", "ncsnpp", "k_and_plain"] {
        let config = UNet2DConfig::from_json(&config(file)).unwrap();
        let weights = weights(&UNet2DModel::new(&config, 1, &Device::flex()).unwrap());
        let model = UNet2DModel::load(&config, &weights, &device).unwrap();
        let labelled = config.num_class_embeds.is_some() || config.class_embed_type.is_some();
        let classes = labelled.then(|| Entry::Indices(vec![1, 0]));
        let conditions = Conditions::none().with_some(CLASSES, classes);
        let x = sample("sample", [2, config.in_channels, 16, 16], &Device::flex());
        compare(file, &model, |m, context| {
            m.with_context(context).forward(x.clone(), &[1.0, 7.0], &conditions, Mode::Eval)
        });
    }
}

#[test]
fn a_unet_as_ddpms() {
    let device = Device::flex().autodiff();
    let config = UNet2DConfig::from_json(
        r#"{
            "block_out_channels": [32, 64, 64], "layers_per_block": 2, "norm_num_groups": 8,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "norm_eps": 1e-6
        }"#,
    )
    .unwrap();
    let weights = weights(&UNet2DModel::new(&config, 1, &Device::flex()).unwrap());
    let model = UNet2DModel::load(&config, &weights, &device).unwrap();
    for (batch, size) in [(1, 16), (3, 32)] {
        let x = sample("sample", [batch, 3, size, size], &Device::flex());
        let times: Vec<f32> = (0..batch).map(|i| 300.0 * i as f32).collect();
        compare("ddpm", &model, |m, context| {
            m.with_context(context).forward(x.clone(), &times, &Conditions::none(), Mode::Eval)
        });
    }
}

#[test]
fn text_conditioned_unets() {
    let device = Device::flex().autodiff();
    for file in ["unet_sd1", "unet_sdxl", "unet_lists"] {
        let config = UNet2DConditionConfig::from_json(&config(&format!("latent/{file}"))).unwrap();
        let weights = weights(&UNet2DConditionModel::new(&config, 1, &Device::flex()).unwrap());
        let model = UNet2DConditionModel::load(&config, &weights, &device).unwrap();
        let width = config.cross_attention_dim.get(0).unwrap();
        let text = Entry::Tokens(sample("encoder_hidden_states", [2, 9, width], &Device::flex()));
        let mut condition = Conditions::none().with(TEXT, text);
        if let Some(each) = config.addition_time_embed_dim {
            let inputs = config.projection_class_embeddings_input_dim.unwrap() - 6 * each;
            let text_embeds = sample("text_embeds", [2, inputs], &Device::flex());
            let sizes = Entry::Numbers(vec![vec![8.0, 9.0, 0.0, 1.0, 8.0, 8.0]; 2]);
            condition = condition.with(POOLED, Entry::Vectors(text_embeds)).with(SIZES, sizes);
        }
        let x = sample("sample", [2, config.in_channels, 16, 16], &Device::flex());
        if config.check_input(x.dims(), &[5.0, 900.0], &condition).is_err() {
            condition = condition.with(CLASSES, Entry::Indices(vec![1, 0]));
        }
        compare(file, &model, |m, context| {
            m.with_context(context).forward(x.clone(), &[5.0, 900.0], &condition, Mode::Eval)
        });
    }
}

#[test]
fn autoencoders() {
    let device = Device::flex().autodiff();
    for file in ["vae_sd1", "vae_no_attention"] {
        let config = AutoencoderKlConfig::from_json(&config(&format!("latent/{file}"))).unwrap();
        let weights = weights(&AutoencoderKl::new(&config, 1, &Device::flex()).unwrap());
        let model = AutoencoderKl::load(&config, &weights, &device).unwrap();
        let x = sample("sample", [2, config.in_channels, 32, 32], &Device::flex());
        compare(&format!("{file}, encoder"), &model, |m, context| {
            m.with_context(context).encode(x.clone()).unwrap().mean
        });
        let z = sample("latents", [1, config.latent_channels, 5, 4], &Device::flex());
        compare(&format!("{file}, decoder"), &model, |m, context| {
            m.with_context(context).decode(z.clone()).unwrap()
        });
    }
}

#[test]
fn diffusion_transformers() {
    let device = Device::flex().autodiff();
    for file in ["dit", "dit_patch_4"] {
        let config = DitConfig::from_json(&config(&format!("latent/{file}"))).unwrap();
        let weights = weights(&DitTransformer::new(&config, 1, &Device::flex()).unwrap());
        let model = DitTransformer::load(&config, &weights, &device).unwrap();
        let x = sample(
            "sample",
            [2, config.in_channels, config.sample_size, config.sample_size],
            &Device::flex(),
        );
        let condition = Conditions::of_classes(vec![0, 1]);
        compare(file, &model, |m, context| {
            m.with_context(context).forward(x.clone(), &[5.0, 900.0], &condition, Mode::Eval)
        });
    }
}
