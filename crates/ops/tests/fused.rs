//! Fused operations that avoid intermediate results, compared with the separate operations, forward and backward.

mod common;

use burn::tensor::Tensor;
use common::{channels_last, close, compare, random, values};
use tweedie_ops::{
    self as ops, AdamW, Added, Batch, ConvOptions, ExecContext, FiniteWatch, Kernel, Maps, Norm, reference,
};

fn vector(x: Tensor<4>) -> Tensor<1> {
    let n = x.dims()[1];
    x.reshape([n])
}

fn pairs(x: Tensor<4>) -> Tensor<2> {
    let [b, c, ..] = x.dims();
    x.reshape([b, c])
}

fn kernel(weight: Tensor<4>, bias: Tensor<4>, padding: usize) -> Kernel {
    Kernel { weight, bias: Some(vector(bias)), options: ConvOptions::same(padding) }
}

fn two(x: Tensor<4>, skip: Tensor<4>) -> Maps {
    Maps { x, skip: Some(skip) }
}

#[test]
fn convolutions_of_two_maps() {
    for (channels, size, k) in
        [([16, 8], [8, 6], 3), ([5, 3], [5, 7], 3), ([20, 17], [6, 6], 1), ([9, 16], [2, 3], 3)]
    {
        let [a, b] = channels;
        let shapes = [
            [2, a, size[0], size[1]],
            [2, b, size[0], size[1]],
            [18, a + b, k, k],
            [1, 18, 1, 1],
            [2, 18, 1, 1],
            [2, 18, size[0], size[1]],
        ];
        compare(
            &format!("{channels:?} channels, kernel {k}"),
            shapes,
            |[x, y, w, b, s, r]| {
                let added = Added { shift: Some(pairs(s)), residual: Some(channels_last(r)) };
                ops::conv2d_with(two(channels_last(x), y), kernel(w, b, k / 2), added)
            },
            |[x, y, w, b, s, r]| {
                let y = Tensor::cat(vec![x, y], 1);
                let y = reference::conv2d(y, w, Some(vector(b)), ConvOptions::same(k / 2));
                reference::add_channels(y, pairs(s)) + r
            },
        );
    }
}

#[test]
fn convolutions_of_doubled_maps() {
    for (x, outputs, to) in
        [([2, 16, 5, 4], 20, [10, 8]), ([1, 3, 4, 3], 18, [8, 6]), ([2, 20, 4, 4], 16, [7, 9])]
    {
        compare(
            &format!("{x:?} to {to:?}"),
            [x, [outputs, x[1], 3, 3], [1, outputs, 1, 1]],
            |[x, w, b]| ops::upsample_conv2d(x, to, kernel(w, b, 1), Added::default()),
            |[x, w, b]| {
                let x = reference::upsample_nearest2d(x, to);
                reference::conv2d(x, w, Some(vector(b)), ConvOptions::same(1))
            },
        );
    }
}

#[test]
fn normalizations_scaled_and_shifted() {
    for silu in [false, true] {
        compare(
            "group norm of two maps, scaled and shifted",
            [[2, 7, 6, 5], [2, 5, 6, 5], [1, 12, 1, 1], [1, 12, 1, 1], [2, 12, 1, 1], [2, 12, 1, 1]],
            |[x, y, w, b, s, t]| {
                let scale_shift = Some([pairs(s), pairs(t)]);
                let (weight, bias) = (vector(w), vector(b));
                ops::normalize(
                    two(x, channels_last(y)),
                    Norm { groups: 4, weight, bias, eps: 1e-5, scale_shift, silu },
                )
            },
            |[x, y, w, b, s, t]| {
                let x = Tensor::cat(vec![x, y], 1);
                let y = reference::group_norm(x, 4, vector(w), vector(b), 1e-5);
                let y = reference::scale_shift_channels(y, pairs(s), pairs(t));
                if silu { reference::silu(y) } else { y }
            },
        );
    }
}

/// Shapes of all arguments of a normalization and a convolution.
const LAYER: [[usize; 4]; 10] = [
    [2, 14, 6, 5],
    [2, 10, 6, 5],
    [1, 24, 1, 1],
    [1, 24, 1, 1],
    [2, 24, 1, 1],
    [2, 24, 1, 1],
    [16, 24, 3, 3],
    [1, 16, 1, 1],
    [2, 16, 1, 1],
    [2, 16, 6, 5],
];

fn layer([x, y, nw, nb, ns, nt, w, b, s, r]: [Tensor<4>; 10]) -> Tensor<4> {
    let norm = Norm {
        groups: 4,
        weight: vector(nw),
        bias: vector(nb),
        eps: 1e-5,
        scale_shift: Some([pairs(ns), pairs(nt)]),
        silu: true,
    };
    let added = Added { shift: Some(pairs(s)), residual: Some(r) };
    ops::norm_conv2d(two(x, y), norm, kernel(w, b, 1), added)
}

fn layer_of_primitives([x, y, nw, nb, ns, nt, w, b, s, r]: [Tensor<4>; 10]) -> Tensor<4> {
    let x = Tensor::cat(vec![x, y], 1);
    let n = reference::group_norm(x, 4, vector(nw), vector(nb), 1e-5);
    let n = reference::silu(reference::scale_shift_channels(n, pairs(ns), pairs(nt)));
    let y = reference::conv2d(n, w, Some(vector(b)), ConvOptions::same(1));
    reference::add_channels(y, pairs(s)) + r
}

fn recomputing(recompute: bool) -> ExecContext {
    ExecContext { recompute, ..ExecContext::default() }
}

#[test]
fn normalized_convolutions() {
    compare("a layer", LAYER, layer, layer_of_primitives);
    compare("a layer, made again", LAYER, |x| recomputing(true).run(|| layer(x)), layer_of_primitives);
    compare("of primitives", LAYER, |x| ops::of_primitives(|| layer(x)), layer_of_primitives);
    let [x, _, _, _, _, _, _, b, ..] = LAYER;
    compare(
        "a layer of one map alone",
        [x, [1, 14, 1, 1], [1, 14, 1, 1], [16, 14, 1, 1], b],
        |[x, nw, nb, w, b]| {
            let (weight, bias) = (vector(nw), vector(nb));
            let norm = Norm { groups: 7, weight, bias, eps: 1e-5, scale_shift: None, silu: false };
            ops::norm_conv2d(x, norm, kernel(w, b, 0), Added::default())
        },
        |[x, nw, nb, w, b]| {
            let n = reference::group_norm(x, 7, vector(nw), vector(nb), 1e-5);
            reference::conv2d(n, w, Some(vector(b)), ConvOptions::same(0))
        },
    );
}

#[test]
fn what_is_made_again_has_the_same_bits() {
    let device = common::device().autodiff();
    let run = |again: bool| -> Vec<Vec<u32>> {
        let inputs: [Tensor<4>; 10] =
            std::array::from_fn(|i| random(LAYER[i], i as u64 + 1, &device).require_grad());
        let y = recomputing(again).run(|| layer(inputs.clone()));
        let mut gradients = (y.clone() * y).sum().backward();
        let bits = |x: &Tensor<4>| -> Vec<u32> {
            let gradient = x.grad_remove(&mut gradients).expect("a gradient");
            values(&gradient).iter().map(|v| v.to_bits()).collect()
        };
        inputs.iter().map(bits).collect()
    };
    assert!(run(true) == run(false));
}

#[test]
fn linear_maps_with_a_residual() {
    let flat = |w: Tensor<3>| -> Tensor<2> {
        let [_, o, i] = w.dims();
        w.reshape([o, i])
    };
    let bias = |b: Tensor<3>| -> Tensor<1> {
        let n = b.dims()[2];
        b.reshape([n])
    };
    compare(
        "linear and residual",
        [[2, 7, 19], [1, 33, 19], [1, 1, 33], [2, 7, 33]],
        |[x, w, b, r]| ops::linear_add(x, flat(w), Some(bias(b)), r),
        |[x, w, b, r]| reference::linear(x, flat(w), Some(bias(b))) + r,
    );
}

#[test]
fn an_average_moves_with_its_parameter() {
    let device = common::device();
    let h = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.1, step: 3 };
    let [p, g, m, average] = [1, 2, 3, 5].map(|s| random([1003], s, &device));
    let v = random([1003], 4, &device).abs();
    let before = values(&average);
    let (p1, m1, v1) = ops::adamw(p.clone(), g.clone(), m.clone(), v.clone(), h);
    let a1 = ops::lerp(average.clone(), p1.clone(), 0.1);
    let all = [p.clone(), m.clone(), v.clone(), average.clone()];
    let got = ops::adamw_averaged(all, g.clone(), h, 0.1);
    for (got, want) in got.iter().zip([p1, m1, v1, a1]) {
        assert_eq!(values(got), values(&want), "the bits of one after the other");
    }
    assert_eq!(values(&average), before, "tensors held elsewhere do not change");
    let others = ops::of_primitives(|| ops::adamw_averaged([p, m, v, average], g, h, 0.1));
    for (got, want) in got.iter().zip(&others) {
        close(&values(got), &values(want), 1e-5, "of primitives");
    }
}

/// In both memory orders, where the numbers are and as another device would; finite numbers whose sum is not are
/// finite.
#[test]
fn one_number_that_is_not_finite_is_found() {
    let device = common::device();
    for at in [0, 4097, 5879] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            let mut numbers = vec![3e38; 2 * 3 * 28 * 35];
            numbers[at] = bad;
            let x = ops::from_host(numbers, [2, 3, 28, 35], &device);
            for x in [x.clone(), channels_last(x.clone()), x.narrow(2, 0, 28)] {
                assert_eq!(Batch::of(x.clone()).is_finite(), bad == f32::MAX);
                assert_eq!(ops::of_primitives(|| Batch::of(x).is_finite()), bad == f32::MAX);
            }
        }
    }
}

/// On the CPU at once, on another device with the next look or at the end.
#[test]
fn a_watch_finds_the_first_batch_that_is_not_finite() {
    let device = common::device();
    let batch = |bad: f32| Batch::of(ops::from_host(vec![1.0, 3e38, 3e38, bad], [2, 2], &device));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut watch = FiniteWatch::default();
        let looks = [("first", 0.0), ("second", bad), ("third", 0.0)];
        let found = looks.into_iter().find_map(|(label, value)| watch.look(&batch(value), label).err());
        assert_eq!(found.or_else(|| watch.finish().err()), Some("second"));
    }
    let mut watch = FiniteWatch::default();
    let found = watch.look(&batch(0.0), "first").and_then(|()| watch.look(&batch(f32::NAN), "last"));
    assert_eq!(found.and_then(|()| watch.finish()), Err("last"));
    assert_eq!(watch.finish(), Ok(()));
}
