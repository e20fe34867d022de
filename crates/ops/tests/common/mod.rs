//! Inputs and comparisons that tests share.
#![allow(dead_code)]

use burn::tensor::{DType, Device, Tensor, TensorData};

/// The device that is tested: that of the environment variable `TWEEDIE_TEST_DEVICE`, or the CPU.
pub fn device() -> Device {
    let name = std::env::var("TWEEDIE_TEST_DEVICE");
    tweedie_ops::device(name.as_deref().unwrap_or("cpu")).expect("the device to test")
}

pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let values = numbers(shape.iter().product(), seed);
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// The same values in channels-last memory.
pub fn channels_last(x: Tensor<4>) -> Tensor<4> {
    let [b, c, h, w] = x.dims();
    let flat: Tensor<1> = x.permute([0, 2, 3, 1]).reshape([b * h * w * c]);
    flat.reshape([b, h, w, c]).permute([0, 3, 1, 2])
}

pub fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    tweedie_ops::to_host(x.clone())
}

#[track_caller]
pub fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let rms = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt().max(1e-12);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance * rms, "{what}: element {i}: {g} for {w}, rms {rms}");
    }
}

/// Compares `f` on the tested device and `r` on the CPU for the same inputs: results, and the gradients of a random linear
/// function of them.
pub fn compare<const D: usize, const N: usize, const E: usize>(
    what: &str,
    shapes: [[usize; D]; N],
    f: impl Fn([Tensor<D>; N]) -> Tensor<E>,
    r: impl Fn([Tensor<D>; N]) -> Tensor<E>,
) {
    let run = |device: &Device, f: &dyn Fn([Tensor<D>; N]) -> Tensor<E>| {
        let tracked = device.clone().autodiff();
        let x: [Tensor<D>; N] =
            std::array::from_fn(|i| random(shapes[i], i as u64 + 1, &tracked).require_grad());
        let y = f(x.clone());
        let weights = random(y.dims(), 99, device);
        let gradients = (y.clone() * Tensor::from_inner(weights)).sum().backward();
        let of = |x: &Tensor<D>| values(&x.grad(&gradients).expect("a gradient"));
        (values(&y), x.iter().map(of).collect::<Vec<_>>())
    };
    let device = device();
    let ((y, dx), (y0, dx0)) = (run(&device, &f), run(&Device::flex(), &r));
    close(&y, &y0, 3e-5, what);
    for (i, (d, d0)) in dx.iter().zip(&dx0).enumerate() {
        close(d, d0, 1e-4, &format!("{what}, gradient {i}"));
    }
    let plain = values(&f(std::array::from_fn(|i| random(shapes[i], i as u64 + 1, &device))));
    let what = format!("{what}, outside autodiff");
    match tweedie_ops::is_cpu(&device) {
        true => assert_eq!(plain, y, "{what}: the bits"),
        false => close(&plain, &y, 3e-5, &what),
    }
}
