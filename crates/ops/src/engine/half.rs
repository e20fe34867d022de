//! The operations on `bf16` activations, with weights, biases and per-channel values in `f32`. Backward passes of
//! convolutions and linear layers compute like forward passes; all others convert their inputs to `f32` and round the
//! results.

use burn::{
    backend::flex::FlexTensor,
    tensor::{DType, FloatDType},
};
use tweedie_kernels::bf16::{
    Bf16, Epilogue, attention, conv, convert, elementwise as kernels,
    group_norm::{self, Affine, GroupNorm},
    layer_norm::{self, LayerNorm},
    linear::Linear,
    resample,
};
use tweedie_kernels::conv::Algorithm;

use super::{
    NormOptions, choice,
    conv::{conv_of, sample_bias, some_inputs},
    elementwise::{aligned, mapped, per_channel},
    flex::{attention_of, dims, is_absent, present, rows, rows_layer, with_last},
    isa,
    layout::{
        Image, dense, flat, from_heads, half_heads, heads_of, is_packed, like, stretch, stretch_mut,
        uninitialized, values,
    },
    prepared,
};
use crate::{
    ConvOptions,
    profile::{Layer, layer},
};

/// Whether `x` has type `bf16`.
pub(super) fn is(x: &FlexTensor) -> bool {
    x.dtype() == DType::BF16
}

/// Converts to `f32`, in the same memory order.
pub(super) fn wide(x: FlexTensor) -> FlexTensor {
    if !is(&x) {
        return x;
    }
    let x = if is_packed(&x) { x } else { dense(x) };
    let mut out = uninitialized(stretch::<Bf16>(&x).len());
    convert::to_f32(isa(), stretch(&x), &mut out);
    like(&x, out)
}

/// Rounds to `bf16`, in the same memory order.
pub(super) fn narrow(x: FlexTensor) -> FlexTensor {
    if is(&x) {
        return x;
    }
    let x = if is_packed(&x) { x } else { flat(x) };
    let mut out = uninitialized::<Bf16>(stretch::<f32>(&x).len());
    convert::from_f32(isa(), stretch(&x), &mut out);
    like(&x, out)
}

/// Converts to the type `to`.
pub(super) fn cast(x: FlexTensor, to: FloatDType) -> FlexTensor {
    match to {
        FloatDType::BF16 => narrow(x),
        _ => wide(x),
    }
}

/// Like [`wide`], for optional arguments.
pub(super) fn wide_or_absent(x: FlexTensor) -> FlexTensor {
    if is_absent(&x) { x } else { wide(x) }
}

/// Like [`narrow`], for optional arguments.
pub(super) fn narrow_or_absent(x: FlexTensor) -> FlexTensor {
    if is_absent(&x) { x } else { narrow(x) }
}

/// Concatenates channels; the second tensor may be absent.
pub(super) fn joined([x, y]: [FlexTensor; 2]) -> FlexTensor {
    match present(y) {
        Some(y) => cat(x, y),
        None => x,
    }
}

pub(super) fn conv2d(
    inputs: [FlexTensor; 2],
    weight: FlexTensor,
    [bias, shift]: [FlexTensor; 2],
    residual: FlexTensor,
    o: ConvOptions,
    doubled: bool,
) -> FlexTensor {
    let mut x = joined(inputs);
    if doubled {
        let [h, w] = Image::new(x.clone()).map();
        x = upsample(x, [2 * h, 2 * w]);
    }
    let (x, w) = (Image::new(x), dense(weight));
    let c = conv_of(x.batch(), x.map(), dims(&w), o);
    assert_eq!(c.in_channels, x.channels(), "channels of a convolution's input");
    let bias = sample_bias(bias, shift, c.batch);
    let residual = present(residual).map(Image::new);
    let _timer = layer(|| {
        let same = match conv::Algorithm::of(&c) {
            conv::Algorithm::Direct => Algorithm::Direct,
            conv::Algorithm::Winograd => Algorithm::Tiles2,
        };
        Layer::of_conv(&c, choice::name(same), same.products(&c))
    });
    let mut out = uninitialized::<Bf16>(c.lens()[2]);
    let epilogue = Epilogue { bias: Some(values(&bias)), residual: residual.as_ref().map(Image::values) };
    prepared::half_kernels(&c, &w).forward(&c, x.values(), epilogue, &mut out);
    Image::from_values(out, c.batch, &c.out_size(), c.out_channels).into_tensor()
}

/// The gradient of some input channels, if a convolution computes it.
pub(super) fn conv2d_input(
    dy: &FlexTensor,
    weight: &FlexTensor,
    size: [usize; 2],
    channels: [usize; 2],
    o: ConvOptions,
    doubled: bool,
) -> Option<FlexTensor> {
    if doubled {
        return None;
    }
    let (dy, w) = (Image::new(dy.clone()), some_inputs(dense(weight.clone()), channels, o.groups));
    let c = conv_of(dy.batch(), size, dims(&w), o);
    let layer = conv::turned(&c)?;
    let prepared = conv::Prepared::turned(isa(), &c, values(&w))?;
    let mut out = uninitialized::<Bf16>(c.lens()[0]);
    prepared.forward(&layer, dy.values(), Epilogue::default(), &mut out);
    Some(Image::from_values(out, c.batch, &size, c.in_channels).into_tensor())
}

pub(super) fn linear_input(dy: FlexTensor, weight: FlexTensor) -> FlexTensor {
    let (dy, w) = (dense(dy), dense(weight));
    let ([m, n], [_, k]) = (rows(&dy), dims::<2>(&w));
    let mut out = uninitialized::<Bf16>(m * k);
    Linear::transposed(isa(), values(&w), k, n).forward(values(&dy), Epilogue::default(), &mut out);
    with_last(&dy, k, out)
}

pub(super) fn linear(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    residual: FlexTensor,
) -> FlexTensor {
    let (x, w, bias, residual) = (dense(x), dense(weight), dense(bias), present(residual).map(dense));
    let ([m, _], [n, k]) = (rows(&x), dims::<2>(&w));
    let _timer = layer(|| rows_layer([m, k, n], "bf16"));
    let mut out = uninitialized::<Bf16>(m * n);
    let epilogue = Epilogue { bias: Some(values(&bias)), residual: residual.as_ref().map(values) };
    prepared::half_linear([n, k], &w).forward(values(&x), epilogue, &mut out);
    with_last(&x, n, out)
}

pub(super) fn group_norm(
    x: FlexTensor,
    [weight, bias, scale, shift]: [FlexTensor; 4],
    n: NormOptions,
) -> FlexTensor {
    let (x, w, bias) = (Image::new(x), dense(weight), dense(bias));
    let [batch, pixels, channels] = x.dims();
    let scaled = present(scale).map(|scale| [scale, shift].map(dense));
    let scale_shift = scaled.as_ref().map(|s| s.each_ref().map(values));
    let affine = Affine { weight: values(&w), bias: values(&bias), scale_shift };
    let n = GroupNorm { batch, pixels, channels, groups: n.groups, eps: n.eps as f32, silu: n.silu };
    let mut out = uninitialized::<Bf16>(batch * pixels * channels);
    group_norm::forward(isa(), &n, x.values::<Bf16>(), affine, &mut out);
    x.like(out).into_tensor()
}

pub(super) fn layer_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, eps: f64) -> FlexTensor {
    let (x, w, bias) = (dense(x), dense(weight), dense(bias));
    let [rows, channels] = rows(&x);
    let n = LayerNorm { rows, channels, eps };
    let mut out = uninitialized::<Bf16>(rows * channels);
    layer_norm::forward(isa(), &n, values::<Bf16>(&x), Some(values(&w)), Some(values(&bias)), &mut out);
    with_last(&x, channels, out)
}

pub(super) fn geglu(x: FlexTensor) -> FlexTensor {
    let x = dense(x);
    let [rows, both] = rows(&x);
    let mut out = uninitialized::<Bf16>(rows * (both / 2));
    kernels::geglu(isa(), both / 2, values(&x), &mut out);
    with_last(&x, both / 2, out)
}

pub(super) fn silu(x: FlexTensor) -> FlexTensor {
    mapped(x, |x: &[Bf16], own| match own {
        Some(x) => {
            kernels::silu_mut(isa(), x);
            None
        }
        None => {
            let mut out = uninitialized(x.len());
            kernels::silu(isa(), x, &mut out);
            Some(out)
        }
    })
}

pub(super) fn add(x: FlexTensor, y: FlexTensor) -> FlexTensor {
    let (mut x, mut y) = aligned(x, y);
    if !x.is_unique() && y.is_unique() {
        std::mem::swap(&mut x, &mut y);
    }
    if let Some(own) = stretch_mut::<Bf16>(&mut x) {
        kernels::add_assign(isa(), own, stretch(&y));
        return x;
    }
    let mut out = uninitialized(stretch::<Bf16>(&x).len());
    kernels::add(isa(), stretch(&x), stretch(&y), &mut out);
    like(&x, out)
}

/// `x·scale + shift` per sample and channel.
pub(super) fn affine_channels(x: FlexTensor, scale: Option<&[f32]>, shift: Option<FlexTensor>) -> FlexTensor {
    let x = Image::new(x);
    let shift = shift.map(|s| per_channel(s, &x));
    let mut out = uninitialized::<Bf16>(x.dims().iter().product());
    let shift = shift.as_ref().map(values);
    kernels::affine_channels(isa(), x.values(), x.dims(), scale, shift, &mut out);
    x.like(out).into_tensor()
}

pub(super) fn cat(x: FlexTensor, y: FlexTensor) -> FlexTensor {
    let (x, y) = (Image::new(x), Image::new(y));
    assert!(x.batch() == y.batch() && x.size() == y.size(), "maps must have the same batch and size");
    let (a, b) = (x.channels(), y.channels());
    let mut out = uninitialized::<Bf16>(x.values::<Bf16>().len() + y.values::<Bf16>().len());
    resample::concatenate(x.values(), a, y.values(), b, &mut out);
    Image::from_values(out, x.batch(), &x.size(), a + b).into_tensor()
}

pub(super) fn channels(x: FlexTensor, first: usize, count: usize) -> FlexTensor {
    let x = Image::new(x);
    let mut out = uninitialized::<Bf16>(x.values::<Bf16>().len() / x.channels().max(1) * count);
    resample::columns(x.values(), x.channels(), first, count, &mut out);
    Image::from_values(out, x.batch(), &x.size(), count).into_tensor()
}

pub(super) fn upsample(x: FlexTensor, size: [usize; 2]) -> FlexTensor {
    let x = Image::new(x);
    let mut out = uninitialized::<Bf16>(x.batch() * size[0] * size[1] * x.channels());
    resample::upsample(x.values(), x.batch(), x.map(), size, x.channels(), &mut out);
    Image::from_values(out, x.batch(), &size, x.channels()).into_tensor()
}

pub(super) fn avg_pool(x: FlexTensor, k: usize) -> FlexTensor {
    let x = Image::new(x);
    let size = x.map().map(|s| s / k);
    let mut out = uninitialized::<Bf16>(x.batch() * size[0] * size[1] * x.channels());
    resample::avg_pool(isa(), x.values(), x.batch(), x.map(), k, x.channels(), &mut out);
    Image::from_values(out, x.batch(), &size, x.channels()).into_tensor()
}

pub(super) fn attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, scale: f64) -> FlexTensor {
    let [q, k, v] = [q, k, v].map(heads_of);
    let a = attention_of(&q, &k, scale);
    let mut out = uninitialized::<Bf16>(a.batch * a.heads * a.queries * a.width);
    attention::forward(isa(), &a, half_heads(&q), half_heads(&k), half_heads(&v), &mut out);
    from_heads(out, dims(&q))
}

#[cfg(test)]
mod tests {
    use super::{super::layout::tensor, *};

    /// What attention gets: heads beside each other in memory. Three copies of it cost an eighth of a step of Stable
    /// Diffusion's size.
    #[test]
    fn conversions_keep_the_order_in_memory() {
        let values: Vec<f32> = (0..2 * 3 * 5 * 4).map(|i| i as f32).collect();
        let heads = from_heads(values.clone(), [2, 5, 3, 4]);
        let strides = heads.layout().strides().to_vec();
        let half = narrow(heads);
        assert_eq!((half.layout().strides(), half.dtype()), (&strides[..], DType::BF16));
        let back = wide(half);
        assert_eq!((back.layout().strides(), back.dtype()), (&strides[..], DType::F32));
        assert_eq!(stretch::<f32>(&back), values);
        // A part of a tensor is not one stretch of memory.
        let whole = tensor(values.clone(), vec![4, 30]);
        let part = whole.layout().narrow(1, 10, 5);
        let converted = wide(narrow(whole.with_layout(part)));
        let expected: Vec<f32> = (0..4).flat_map(|row| values[30 * row + 10..][..5].to_vec()).collect();
        assert_eq!(stretch::<f32>(&dense(converted)), expected);
    }
}
