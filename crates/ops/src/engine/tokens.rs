//! Operations on rows of tokens, `[..., C]`.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::{
    geglu::{geglu as gate, geglu_gradient},
    layer_norm::{LayerNorm, layer_norm as normalize, layer_norm_backward as gradients},
};

use super::{
    flex::{absent, rows, with_last},
    half, isa,
    layout::{dense, tensor, uninitialized, values},
};

/// The result, and mean and reciprocal standard deviation of each row.
pub(super) fn layer_norm(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    if half::is(&x) {
        // The gradient recomputes the statistics.
        return (half::layer_norm(x, weight, bias, eps), absent(), absent());
    }
    let (x, w, bias) = (dense(x), dense(weight), dense(bias));
    let [rows, channels] = rows(&x);
    let n = LayerNorm { rows, channels, eps };
    let mut out = uninitialized(rows * channels);
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    let (weight, bias) = (Some(values(&w)), Some(values(&bias)));
    normalize(isa(), &n, values(&x), weight, bias, &mut out, &mut mean, &mut rstd);
    (with_last(&x, channels, out), tensor(mean, vec![rows]), tensor(rstd, vec![rows]))
}

/// Gradients of input, weight and bias.
pub(super) fn layer_norm_backward(
    x: FlexTensor,
    dy: FlexTensor,
    [mean, rstd]: [FlexTensor; 2],
    weight: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    if half::is(&x) {
        let x = half::wide(x);
        let (_, mean, rstd) = layer_norm(x.clone(), weight.clone(), weight.clone(), eps);
        let (dx, dw, db) = layer_norm_backward(x, half::wide(dy), [mean, rstd], weight, eps);
        return (half::narrow(dx), dw, db);
    }
    let (x, dy, w) = (dense(x), dense(dy), dense(weight));
    let [rows, channels] = rows(&x);
    let n = LayerNorm { rows, channels, eps };
    let mut dx = uninitialized(rows * channels);
    let (mut dw, mut db) = (vec![0.0; channels], vec![0.0; channels]);
    let (mean, rstd, weight) = (values(&mean), values(&rstd), Some(values(&w)));
    gradients(isa(), &n, values(&x), weight, mean, rstd, values(&dy), &mut dx, &mut dw, &mut db);
    (with_last(&x, channels, dx), tensor(dw, vec![channels]), tensor(db, vec![channels]))
}

pub(super) fn geglu(x: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::geglu(x);
    }
    let x = dense(x);
    let [rows, both] = rows(&x);
    let mut out = uninitialized(rows * (both / 2));
    gate(isa(), both / 2, values(&x), &mut out);
    with_last(&x, both / 2, out)
}

pub(super) fn geglu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::narrow(geglu_backward(half::wide(x), half::wide(dy)));
    }
    let (x, dy) = (dense(x), dense(dy));
    let [rows, both] = rows(&x);
    let mut dx = uninitialized(rows * both);
    geglu_gradient(isa(), both / 2, values(&x), values(&dy), &mut dx);
    with_last(&x, both, dx)
}
