//! Trains the built-in encoder and writes `crates/hub/encoder/encoder.safetensors`:
//!
//! ```sh
//! cargo run --release -p tweedie-eval --example train_encoder
//! ```
//!
//! The features are trained to predict the emoji, its subgroup, and the strength of blur, noise and distortion. Only the
//! subgroup head is stored, for the Inception Score.

#![allow(clippy::print_stdout)]

mod degrade;

use std::{collections::BTreeMap, path::Path, time::Instant};

use anyhow::{Context, Result};
use burn::{
    module::Module,
    tensor::{Device, Tensor, activation::log_softmax},
};
use degrade::{FAULTS, degrade};
use rayon::prelude::*;
use tweedie_data::{
    AugmentConfig, DataConfig, Dataset, EdmConfig, EmojiConfig, Image, JitterConfig, Order, Padding, Rgb,
    augment,
};
use tweedie_eval::{
    extract::encoder_input,
    metrics::{Features, Moments},
};
use tweedie_hub::{Precision, weights};
use tweedie_models::{
    HostTensor, export,
    layers::{Init, Linear},
    perceptual::EncoderNet,
    settle,
};
use tweedie_ops::{from_host, to_host};
use tweedie_train::optim::{GradientMap, Optimizer, OptimizerConfig};

const STEPS: u64 = 900;
const WARMUP: u64 = 50;
const BATCH: usize = 96;
const LEARNING_RATE: f64 = 3e-3;
const SEED: u64 = 1;
/// Weight of the mean squared error of the predicted degradations.
const FAULTS_WEIGHT: f64 = 10.0;

#[derive(Module, Debug)]
struct Trained {
    net: EncoderNet,
    instances: Linear,
    faults: Linear,
}

fn main() -> Result<()> {
    tweedie_ops::init();
    let device = Device::flex().autodiff();
    let emoji = EmojiConfig { include_flags: true, include_keycaps: true, ..EmojiConfig::default() };
    let data = Dataset::open(&DataConfig { emoji, ..DataConfig::default() })?;
    let images = (0..data.len()).map(|i| Ok((*data.get(i)?.sample).clone())).collect::<Result<Vec<_>>>()?;
    let classes: Vec<usize> = data.classes().into_iter().map(Option::unwrap_or_default).collect();
    let kinds = data.class_names().len();

    let head = |name: &str, outputs| Linear::new(&Init::new(SEED, &device).at(name), 64, outputs, true);
    let net = EncoderNet::new(kinds, SEED, &device);
    let mut model =
        settle(Trained { net, instances: head("instances", images.len()), faults: head("faults", FAULTS) });
    let config = OptimizerConfig { weight_decay: 0.05, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(&config);
    let order = Order::new(SEED, images.len());
    let started = Instant::now();
    for step in 0..STEPS {
        let rows: Vec<(u64, usize)> =
            (0..BATCH as u64).map(|i| step * BATCH as u64 + i).map(|n| (n, order.index(n))).collect();
        let (planes, strengths): (Vec<_>, Vec<_>) = rows
            .par_iter()
            .map(|(n, i)| degrade(augment(&images[*i], &changes(), SEED, *n).0, SEED, *n))
            .unzip();
        let (planes, strengths) = (planes.concat(), strengths.concat());
        let x = from_host(planes, [BATCH, 3, 32, 32], &device);
        let (features, kind) = model.net.forward(x);
        let one = model.instances.forward(features.clone());
        let faults = model.faults.forward(features) - from_host(strengths, [BATCH, FAULTS], &device);
        let which = |of: usize, label: &dyn Fn(usize) -> usize| {
            let mut hot = vec![0.0; BATCH * of];
            rows.iter().enumerate().for_each(|(row, (_, i))| hot[row * of + label(*i)] = 1.0);
            from_host(hot, [BATCH, of], &device)
        };
        let loss = cross_entropy(one, which(images.len(), &|i| i))
            + cross_entropy(kind, which(kinds, &|i| classes[i]))
            + (faults.clone() * faults).mean() * FAULTS_WEIGHT;
        let shown = to_host(loss.clone())[0];
        let mut gradients = GradientMap::take(&model, &mut loss.backward());
        let norm = gradients.norm().map_err(anyhow::Error::msg).context("the gradient is not finite")?;
        let gradients = gradients.scaled((1.0 / norm).min(1.0));
        model = optimizer.step(model, gradients, learning_rate(step));
        if step % 50 == 0 || step + 1 == STEPS {
            println!("step {step:4}  loss {shown:.4}  {:.0} s", started.elapsed().as_secs_f64());
        }
    }
    let net = model.net.valid();
    let tensors = standardized(&net, &images)?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hub/encoder/encoder.safetensors");
    let told = [("steps", STEPS.to_string()), ("batch", BATCH.to_string()), ("seed", SEED.to_string())];
    let told = told.map(|(key, value)| (key.to_owned(), value)).into();
    weights::write(&path, &tensors, Precision::F16, &told)?;
    println!("{} emoji of {kinds} subgroups: {}", images.len(), path.display());
    Ok(())
}

/// Strong enough that raw pixels tell little.
fn changes() -> AugmentConfig {
    let edm = EdmConfig { p: 0.5, yflip: false, rotate: 0.12, scale: 0.25, ..EdmConfig::default() };
    let jitter = JitterConfig { brightness: 0.15, contrast: 0.2, saturation: 0.25, hue: 0.04 };
    AugmentConfig {
        shift: 0.06,
        padding: Padding::Color(Rgb([255; 3])),
        jitter,
        edm,
        ..AugmentConfig::default()
    }
}

fn learning_rate(step: u64) -> f64 {
    let warm = (step + 1) as f64 / WARMUP as f64;
    let part = step as f64 / STEPS as f64;
    LEARNING_RATE * warm.min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * part).cos())
}

/// The mean of `-log p` of the classes marked by `hot`, with label smoothing of 0.1.
fn cross_entropy(logits: Tensor<2>, hot: Tensor<2>) -> Tensor<1> {
    let classes = logits.dims()[1] as f64;
    let wanted = hot * 0.9 + 0.1 / classes;
    (log_softmax(logits, 1) * wanted).sum_dim(1).mean().neg()
}

/// The weights with features normalized to mean 0 and variance 1 over `images`, and the same logits.
fn standardized(net: &EncoderNet, images: &[Image]) -> Result<BTreeMap<String, HostTensor>> {
    let mut moments = Moments::new(64);
    for chunk in images.chunks(64) {
        let (features, _) = net.forward(encoder_input(chunk, &Device::flex()));
        moments.push(&Features::new(64, to_host(features))?)?;
    }
    let deviation: Vec<f64> = moments.covariance().iter().step_by(65).map(|v| v.sqrt()).collect();
    let mut tensors = export(net);
    let mut at = |name: &str| tensors.remove(name).with_context(|| format!("no tensor {name}"));
    let [mut weight, mut bias] = [at("features.weight")?, at("features.bias")?];
    let [mut kind, mut kind_bias] = [at("classes.weight")?, at("classes.bias")?];
    let inputs = weight.shape[1];
    for (i, (deviation, mean)) in deviation.iter().zip(moments.mean()).enumerate() {
        weight.values[i * inputs..][..inputs]
            .iter_mut()
            .for_each(|w| *w = (f64::from(*w) / deviation) as f32);
        bias.values[i] = ((f64::from(bias.values[i]) - mean) / deviation) as f32;
        for (row, b) in kind.values.chunks_exact_mut(64).zip(&mut kind_bias.values) {
            *b += row[i] * *mean as f32;
            row[i] *= *deviation as f32;
        }
    }
    for (name, tensor) in [
        ("features.weight", weight),
        ("features.bias", bias),
        ("classes.weight", kind),
        ("classes.bias", kind_bias),
    ] {
        tensors.insert(name.into(), tensor);
    }
    Ok(tensors)
}
