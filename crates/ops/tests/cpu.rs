//! What only the CPU's operations have: weights in packed form, algorithms that are measured, profiles.

mod common;

use burn::tensor::{DType, Device, Tensor};
use common::{close, compare, random, values};
use tweedie_ops::{self as ops, AdamW, ConvOptions, ExecContext, PackedWeights, profile::Kind, reference};

#[test]
fn other_dtypes_take_the_composition() {
    let x = random([1, 4, 6, 6], 1, &Device::flex());
    let w = random([4, 4, 3, 3], 2, &Device::flex());
    let want = ops::conv2d(x.clone(), w.clone(), None, ConvOptions::same(1));
    let got = ops::conv2d(x.cast(DType::F64), w.cast(DType::F64), None, ConvOptions::same(1));
    close(&values(&got.cast(DType::F32)), &values(&want), 1e-5, "f64");
}

#[test]
fn prepared_weights_follow_the_weights() {
    let device = Device::flex();
    let x = random([2, 16, 8, 8], 1, &device);
    let mut w = random([16, 16, 3, 3], 2, &device);
    for round in 0..3 {
        let want = values(&reference::conv2d(x.clone(), w.clone(), None, ConvOptions::same(1)));
        // The first run packs weights for one use, the second keeps them, the third reuses them: all give the same bits.
        let runs: Vec<_> =
            (0..3).map(|_| values(&ops::conv2d(x.clone(), w.clone(), None, ConvOptions::same(1)))).collect();
        close(&runs[0], &want, 3e-5, &format!("round {round}"));
        assert!(runs[1] == runs[0] && runs[2] == runs[0], "round {round}");
        // The buffer is no longer shared, so this update is in place if that is allowed.
        let flat: Tensor<1> = w.reshape([16 * 16 * 9]);
        let h = AdamW { lr: 0.1, beta1: 0.0, beta2: 0.0, eps: 1e-8, weight_decay: 0.0, step: 1 };
        let gradient = random([16 * 16 * 9], 3 + round, &device);
        let zeros = gradient.clone() * 0.0;
        w = ops::adamw(flat, gradient, zeros.clone(), zeros, h).0.reshape([16, 16, 3, 3]);
        w = w * 1.5;
    }
}

/// Must hold for whichever algorithm was the fastest.
#[test]
fn measured_convolutions() {
    for size in [4, 9, 16] {
        let (x, w) = ([2, 24, size, size], [20, 24, 3, 3]);
        compare(
            &format!("conv2d on {size}x{size}, measured"),
            [x, w],
            |[x, w]| {
                let context = ExecContext { measure: true, ..ExecContext::default() };
                context.run(|| ops::conv2d(x, w, None, ConvOptions::same(1)))
            },
            |[x, w]| reference::conv2d(x, w, None, ConvOptions::same(1)),
        );
    }
}

#[test]
fn layers_are_timed_where_someone_asks() {
    let device = Device::flex();
    let run = || {
        let (x, w) = (random([2, 32, 8, 8], 1, &device), random([32, 32, 3, 3], 2, &device));
        let y = ops::silu(ops::conv2d(x, w, None, ConvOptions::same(1)));
        let tokens: Tensor<3> = y.permute([0, 2, 3, 1]).reshape([2, 64, 32]);
        let y = ops::linear(tokens, random([48, 32], 3, &device), None);
        values(&y)
    };
    let plain = run();
    let (profiled, layers) = ops::profile::profile(run);
    assert_eq!(plain, profiled);
    let kinds: Vec<_> = layers.iter().map(|layer| layer.kind).collect();
    assert_eq!(kinds, [Kind::Convolution3x3, Kind::Elementwise, Kind::Linear]);
    let products = 2 * 64 * 9 * 32 * 32;
    assert_eq!(layers[0].operations, f64::from(2 * products));
    assert_eq!((layers[0].taken, layers[0].algorithm), (f64::from(products) / 2.0, "F(4x4)"));
    assert_eq!(layers[2].operations, f64::from(2 * 2 * 64 * 32 * 48));
    assert!(layers.iter().all(|layer| layer.seconds > 0.0));
}

/// Packed at the second use, by the context alone, up to its limit, and freed with the weight.
#[test]
fn packed_weights_belong_to_a_context() {
    let device = Device::flex();
    let (x, w): (Tensor<2>, Tensor<2>) = (random([7, 40], 1, &device), random([48, 40], 2, &device));
    let (roomy, narrow) = (ExecContext::default(), PackedWeights::with_limit(48 * 40 * 4 - 1));
    let narrow = ExecContext { weights: narrow, ..ExecContext::default() };
    let use_in = |context: &ExecContext| {
        context.run(|| values(&ops::linear(x.clone(), w.clone(), None)));
        context.weights.bytes()
    };
    assert_eq!([use_in(&roomy), use_in(&roomy.clone()), use_in(&roomy)], [0, 48 * 40 * 4, 48 * 40 * 4]);
    assert_eq!([use_in(&narrow), use_in(&narrow), use_in(&narrow)], [0; 3]);
    let weights = roomy.weights;
    drop(w);
    assert_eq!(weights.bytes(), 0);
}

#[test]
fn layers_that_run_once_give_the_same_bits() {
    let device = Device::flex();
    let (x, w): (Tensor<2>, Tensor<2>) = (random([7, 40], 1, &device), random([48, 40], 2, &device));
    let run = || values(&ops::linear(x.clone(), w.clone(), None));
    let kept: Vec<_> = (0..3).map(|_| run()).collect();
    let once = ExecContext { once: true, ..ExecContext::default() };
    for expected in &kept {
        assert!(&once.run(run) == expected);
    }
}
