//! Weights and inputs that are functions of a name, as in `golden/make.py`.

#![allow(dead_code, clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};
use tweedie_models::HostTensor;

/// The device that is tested: that of the environment variable `TWEEDIE_TEST_DEVICE`, or the CPU.
pub fn device() -> Device {
    let name = std::env::var("TWEEDIE_TEST_DEVICE");
    tweedie_ops::device(name.as_deref().unwrap_or("cpu")).unwrap()
}

pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Values in `-1..1`, a function of the name: SplitMix64.
pub fn noise(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let start = hash(name);
    (1..=count as u64).map(move |i| {
        let mut z = start.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

pub fn weight(name: &str, shape: &[usize]) -> HostTensor {
    let fan_in: usize = shape[1..].iter().product();
    let (offset, factor) = match (name, shape.len()) {
        (name, _) if name.ends_with("bias") => (0.0, 0.1),
        ("time_proj.weight" | "class_embedding.weight", 1) => (0.0, 16.0),
        ("time_proj.weight" | "class_embedding.weight", _) => (0.0, 1.0),
        (_, 1) => (1.0, 0.2),
        _ => (0.0, (3.0 / fan_in as f64).sqrt()),
    };
    let values = noise(name, shape.iter().product()).map(|u| (offset + factor * u) as f32).collect();
    HostTensor { shape: shape.to_vec(), values }
}

pub fn sample<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values: Vec<f32> = noise(name, shape.iter().product()).map(|u| (3f64.sqrt() * u) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}
