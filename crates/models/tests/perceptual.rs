//! The perceptual distance compared with the package lpips, whose outputs `golden/make_lpips.py` wrote.

#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, sync::LazyLock};

use burn::tensor::{Device, Tensor};
use common::{sample, weight};
use serde_json::Value;
use tweedie_models::{
    HostTensor, ParamError, Perceptual,
    perceptual::{EncoderNet, Vgg},
};
use tweedie_ops::to_host;

static GOLDEN: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("golden/lpips.json")).unwrap());

fn numbers(key: &str) -> Vec<f64> {
    GOLDEN[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// VGG-16's tensors in the names of the package lpips, or of torchvision.
fn tensors(torchvision: bool) -> BTreeMap<String, HostTensor> {
    let slices: [(usize, &[usize]); 5] =
        [(64, &[0, 2]), (128, &[5, 7]), (256, &[10, 12, 14]), (512, &[17, 19, 21]), (512, &[24, 26, 28])];
    let (mut all, mut inputs) = (BTreeMap::new(), 3);
    for (number, (channels, convolutions)) in slices.into_iter().enumerate() {
        for index in convolutions {
            let name = format!("net.slice{}.{index}", number + 1);
            let to = if torchvision { format!("features.{index}") } else { name.clone() };
            let of = |part: &str, shape: &[usize]| weight(&format!("{name}.{part}"), shape);
            all.insert(format!("{to}.weight"), of("weight", &[channels, inputs, 3, 3]));
            all.insert(format!("{to}.bias"), of("bias", &[channels]));
            inputs = channels;
        }
        let name = format!("lin{number}.model.1.weight");
        let mut linear = weight(&name, &[1, channels, 1, 1]);
        linear.values.iter_mut().for_each(|v| *v = v.abs());
        if !torchvision {
            all.insert(format!("lins.{number}.model.1.weight"), linear.clone());
        }
        all.insert(name, linear);
    }
    all
}

/// The golden's images: one row of each.
fn pictures() -> [Tensor<4>; 2] {
    let of = |name| sample(name, [2, 3, 32, 32], &Device::flex());
    let mixed = of("a").mul_scalar(0.6f32) + of("b").mul_scalar(0.4f32);
    [of("a"), mixed].map(|x| x.clamp(-1.0f32, 1.0f32))
}

#[test]
fn distance_and_gradient_are_those_of_lpips() {
    let net = Perceptual::Vgg(Box::new(Vgg::load(&tensors(false), &Device::flex()).unwrap()));
    let [a, b] = pictures();
    let expected = numbers("distances");
    for (row, expected) in expected.iter().enumerate() {
        let see = |x: &Tensor<4>| net.see(x.clone().narrow(0, row, 1));
        let found = f64::from(to_host(net.distance(&see(&a), &see(&b)))[0]);
        assert!((found - expected).abs() < 1e-4 * expected, "{found} {expected}");
    }
    let leaf = b.autodiff().require_grad();
    let distance = net.distance(&net.see(a), &net.see(leaf.clone()));
    let gradient = to_host(leaf.grad(&distance.backward()).unwrap());
    let rms = GOLDEN["gradient_rms"].as_f64().unwrap();
    let worst = numbers("gradient_every_97th").into_iter().zip(gradient.iter().step_by(97));
    let worst = worst.map(|(e, f)| (e - f64::from(*f)).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-3 * rms, "{:.1e} of RMS", worst / rms);
}

#[test]
fn torchvisions_names_are_read_and_others_are_errors() {
    let device = Device::flex();
    let [a, b] = pictures();
    let of = |tensors: &BTreeMap<String, HostTensor>| {
        let net = Perceptual::Vgg(Box::new(Vgg::load(tensors, &device).unwrap()));
        to_host(net.distance(&net.see(a.clone()), &net.see(b.clone())))[0]
    };
    let (both, mut plain) = (of(&tensors(false)), tensors(true));
    assert_eq!(both, of(&plain));
    plain.retain(|name, _| name.starts_with("features"));
    plain.insert("classifier.0.bias".into(), weight("classifier.0.bias", &[4096]));
    assert!(of(&plain) > both, "without the weights of channels, which are below 1, more is summed");

    plain.insert("other.weight".into(), weight("other.weight", &[1, 2]));
    let error = Vgg::load(&plain, &device).unwrap_err();
    assert_eq!(error, ParamError::Unused { name: "other.weight".into(), others: 0 });
    plain.remove("features.14.bias");
    assert!(Vgg::load(&plain, &device).unwrap_err().to_string().contains("features.14.bias"));
}

#[test]
fn the_encoder_sees_more_difference_in_more_noise() {
    let device = Device::flex();
    let net = Perceptual::Encoder(Box::new(EncoderNet::new(5, 3, &device)));
    let x: Tensor<4> = sample("x", [2, 3, 24, 16], &device);
    let noise: Tensor<4> = sample("noise", [2, 3, 24, 16], &device);
    let at = |strength: f32| {
        let y = x.clone() + noise.clone().mul_scalar(strength);
        to_host(net.distance(&net.see(x.clone()), &net.see(y)))[0]
    };
    assert_eq!(at(0.0), 0.0);
    assert!(at(0.1) > 0.0 && at(0.3) > at(0.1) && at(1.0) > at(0.3));
}
