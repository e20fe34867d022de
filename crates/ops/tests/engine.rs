//! The operations compared with the composition of primitives on the CPU, forward and backward.

mod common;

use burn::tensor::Tensor;
use common::{channels_last, close, compare, random, values};
use tweedie_ops::{self as ops, AdamW, Batch, ConvOptions, reference};

/// Both memory orders of an image.
fn orders(f: impl Fn(&dyn Fn(Tensor<4>) -> Tensor<4>)) {
    f(&|x| x);
    f(&channels_last);
}

fn per_channel(x: Tensor<4>) -> Tensor<1> {
    let n = x.dims()[1];
    x.reshape([n])
}

fn pairs(x: Tensor<4>) -> Tensor<2> {
    let [b, c, ..] = x.dims();
    x.reshape([b, c])
}

#[test]
fn convolutions() {
    let strided = ConvOptions { pad_after: [1; 2], ..ConvOptions::strided(2, 0) };
    let grouped = ConvOptions { groups: 2, dilation: [2; 2], ..ConvOptions::same(2) };
    for (x, w, o) in [
        ([2, 16, 8, 8], [24, 16, 3, 3], ConvOptions::same(1)),
        ([2, 3, 9, 7], [20, 3, 3, 3], ConvOptions::same(1)),
        ([2, 18, 5, 6], [3, 18, 3, 3], ConvOptions::same(1)),
        ([2, 12, 6, 6], [7, 12, 1, 1], ConvOptions::same(0)),
        ([2, 6, 8, 8], [8, 6, 3, 3], strided),
        ([1, 6, 9, 9], [8, 3, 3, 3], grouped),
    ] {
        orders(|order| {
            let bias = [1, w[0], 1, 1];
            compare(
                &format!("conv2d of {x:?} by {w:?}"),
                [x, w, bias],
                |[x, w, b]| ops::conv2d(order(x), w, Some(per_channel(b)), o),
                |[x, w, b]| reference::conv2d(x, w, Some(per_channel(b)), o),
            );
            compare(
                "conv2d without bias",
                [x, w],
                |[x, w]| ops::conv2d(order(x), w, None, o),
                |[x, w]| reference::conv2d(x, w, None, o),
            );
        });
    }
}

#[test]
fn linear_maps() {
    let weight = |w: Tensor<3>| -> Tensor<2> {
        let [_, o, i] = w.dims();
        w.reshape([o, i])
    };
    let bias = |b: Tensor<3>| -> Tensor<1> {
        let n = b.dims()[2];
        b.reshape([n])
    };
    compare(
        "linear",
        [[2, 5, 19], [1, 33, 19], [1, 1, 33]],
        |[x, w, b]| ops::linear(x, weight(w), Some(bias(b))),
        |[x, w, b]| reference::linear(x, weight(w), Some(bias(b))),
    );
    compare(
        "linear without bias",
        [[2, 5, 19], [1, 33, 19]],
        |[x, w]| ops::linear(x, weight(w), None),
        |[x, w]| reference::linear(x, weight(w), None),
    );
}

#[test]
fn normalizations() {
    orders(|order| {
        let shapes = [[2, 12, 7, 9], [1, 12, 1, 1], [1, 12, 1, 1]];
        compare(
            "group norm",
            shapes,
            |[x, w, b]| ops::group_norm(order(x), 4, per_channel(w), per_channel(b), 1e-5),
            |[x, w, b]| reference::group_norm(x, 4, per_channel(w), per_channel(b), 1e-5),
        );
        compare(
            "group norm and SiLU",
            shapes,
            |[x, w, b]| ops::group_norm_silu(order(x), 4, per_channel(w), per_channel(b), 1e-5),
            |[x, w, b]| reference::silu(reference::group_norm(x, 4, per_channel(w), per_channel(b), 1e-5)),
        );
    });
    let flat = |x: Tensor<3>| -> Tensor<1> {
        let n = x.dims()[1];
        x.reshape([n])
    };
    compare(
        "group norm of a sequence",
        [[2, 6, 11], [1, 6, 1], [1, 6, 1]],
        |[x, w, b]| ops::group_norm(x, 3, flat(w), flat(b), 1e-5),
        |[x, w, b]| reference::group_norm(x, 3, flat(w), flat(b), 1e-5),
    );
}

#[test]
fn elementwise() {
    let shape = [2, 5, 6, 7];
    let pair = [2, 5, 1, 1];
    orders(|order| {
        compare("silu", [shape], |[x]| ops::silu(order(x)), |[x]| reference::silu(x));
        compare("add", [shape, shape], |[x, y]| ops::add(order(x), y), |[x, y]| x + y);
        compare(
            "add channels",
            [shape, pair],
            |[x, s]| ops::add_channels(order(x), pairs(s)),
            |[x, s]| reference::add_channels(x, pairs(s)),
        );
        compare(
            "scale and shift",
            [shape, pair, pair],
            |[x, a, b]| ops::scale_shift_channels(order(x), pairs(a), pairs(b)),
            |[x, a, b]| reference::scale_shift_channels(x, pairs(a), pairs(b)),
        );
        compare(
            "concatenation",
            [shape, [2, 3, 6, 7]],
            |[x, y]| ops::cat_channels(order(x), y),
            |[x, y]| Tensor::cat(vec![x, y], 1),
        );
        compare(
            "upsampling",
            [shape],
            |[x]| ops::upsample_nearest2d(order(x), [12, 14]),
            |[x]| reference::upsample_nearest2d(x, [12, 14]),
        );
        compare("pooling", [shape], |[x]| ops::avg_pool2d(order(x), 2), |[x]| reference::avg_pool2d(x, 2));
    });
}

#[test]
fn attentions() {
    let shapes = [[2, 3, 50, 8], [2, 3, 37, 8], [2, 3, 37, 8]];
    compare(
        "attention",
        shapes,
        |[q, k, v]| ops::attention(q, k, v, 0.4),
        |[q, k, v]| reference::attention(q, k, v, 0.4),
    );
    compare(
        "attention to one token",
        [[2, 3, 1, 8]; 3],
        |[q, k, v]| ops::attention(q, k, v, 0.4),
        |[q, k, v]| reference::attention(q, k, v, 0.4),
    );
    // Heads as views of `[B, T, heads·d]`, and the result viewed in the same way.
    let split = |x: Tensor<3>| -> Tensor<4> {
        let [b, t, _] = x.dims();
        x.reshape([b, t, 2, 4]).swap_dims(1, 2)
    };
    let join = |x: Tensor<4>| -> Tensor<3> {
        let [b, h, t, d] = x.dims();
        x.swap_dims(1, 2).reshape([b, t, h * d])
    };
    compare(
        "attention of views",
        [[2, 9, 8], [2, 9, 8], [2, 9, 8]],
        |[q, k, v]| join(ops::attention(split(q), split(k), split(v), 0.5)),
        |[q, k, v]| join(reference::attention(split(q), split(k), split(v), 0.5)),
    );
}

#[test]
fn gradients_that_meet_are_added() {
    // `x` has three readers, one of them outside the engine; `h` has two.
    let shapes = [[2, 16, 6, 5], [16, 16, 3, 3], [1, 16, 1, 1]];
    let o = ConvOptions::same(1);
    compare(
        "a residual block",
        shapes,
        |[x, w, n]| {
            let n = per_channel(n);
            let x = ops::silu(x);
            let h = ops::group_norm_silu(x.clone(), 4, n.clone(), n, 1e-5);
            let h = ops::add(ops::conv2d(h.clone(), w, None, o), h);
            ops::add(h, x.clone()) + x * 0.5
        },
        |[x, w, n]| {
            let n = per_channel(n);
            let x = reference::silu(x);
            let h = reference::silu(reference::group_norm(x.clone(), 4, n.clone(), n, 1e-5));
            let h = reference::conv2d(h.clone(), w, None, o) + h;
            h + x.clone() + x * 0.5
        },
    );
}

#[test]
fn updates() {
    let device = common::device();
    let h = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-6, weight_decay: 0.1, step: 3 };
    let [p, g, m] = [1, 2, 3].map(|s| random([1003], s, &device));
    let v = random([1003], 4, &device).abs();
    let before = values(&p);
    let (p1, m1, v1) = ops::adamw(p.clone(), g.clone(), m.clone(), v.clone(), h);
    let (p0, m0, v0) = reference::adamw(p.clone(), g.clone(), m, v, h);
    for (got, want) in [(p1, p0), (m1, m0), (v1, v0)] {
        close(&values(&got), &values(&want), 1e-5, "adamw");
    }
    assert_eq!(values(&p), before, "tensors held elsewhere do not change");
    let (a, b) = (ops::lerp(p.clone(), g.clone(), 0.1), reference::lerp(p.clone(), g.clone(), 0.1));
    close(&values(&a), &values(&b), 1e-6, "lerp");
    assert_eq!(values(&p), before, "tensors held elsewhere do not change");

    let x = random([2, 3, 4, 5], 1, &device);
    let y = channels_last(random([2, 3, 4, 5], 2, &device));
    let sum = tweedie_core::lin![0.5 => &Batch::of(x.clone()), -2.0 => &Batch::of(y.clone())];
    close(&sum.to_host(), &values(&(x * 0.5 - y * 2.0)), 1e-6, "lin");
}

#[test]
fn norms_and_gates_of_tokens() {
    let flat = |x: Tensor<3>| -> Tensor<1> { x.reshape([40]) };
    compare(
        "layer norm",
        [[3, 7, 40], [1, 1, 40], [1, 1, 40]],
        |[x, w, b]| ops::layer_norm(x, flat(w), flat(b), 1e-5),
        |[x, w, b]| reference::layer_norm(x, flat(w), flat(b), 1e-5),
    );
    compare(
        "layer norm of a view",
        [[3, 40, 7], [1, 1, 40], [1, 1, 40]],
        |[x, w, b]| ops::layer_norm(x.swap_dims(1, 2), flat(w), flat(b), 1e-5),
        |[x, w, b]| reference::layer_norm(x.swap_dims(1, 2), flat(w), flat(b), 1e-5),
    );
    compare("geglu", [[2, 37, 42]], |[x]| ops::geglu(x), |[x]| reference::geglu(x));
    compare("geglu of rows", [[70, 6]], |[x]| ops::geglu(x), |[x]| reference::geglu(x));
    compare("gelu", [[2, 37, 42]], |[x]| ops::gelu(x), |[x]| reference::gelu(x));
    compare("silu of tokens", [[2, 5, 33]], |[x]| ops::silu(x), |[x]| reference::silu(x));
}
