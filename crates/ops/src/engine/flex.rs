//! The operations on CPU tensors: resolves layouts and calls the kernels.

use burn::{
    backend::{Flex, flex::FlexTensor, tensor::FloatTensor},
    tensor::FloatDType,
};
use tweedie_kernels::{
    attention::{self, Attention},
    conv::Epilogue,
    gemm::{Added, Matrix, product, product_with, transposed_product},
};

use super::{
    Engine, NormOptions, conv, elementwise, half, int8, isa,
    layout::{Number, dense, from_heads, heads, heads_of, tensor, uninitialized, values},
    norm, prepared, resample, tokens,
};
use crate::{
    ConvOptions, context, file_map,
    profile::{Kind, Layer, Timer, layer},
};

/// Represents an absent argument.
pub(super) fn absent() -> FlexTensor {
    tensor(Vec::<f32>::new(), vec![0])
}

/// Whether `x` represents an absent argument.
pub(super) fn is_absent(x: &FlexTensor) -> bool {
    x.layout().num_elements() == 0
}

/// `x`, unless it is absent.
pub(super) fn present(x: FlexTensor) -> Option<FlexTensor> {
    (!is_absent(&x)).then_some(x)
}

pub(super) fn dims<const N: usize>(x: &FlexTensor) -> [usize; N] {
    let shape = x.layout().shape();
    assert_eq!(shape.num_dims(), N, "expected a tensor with {N} dimensions, got shape {shape:?}");
    std::array::from_fn(|i| shape[i])
}

/// Number of rows, and size of the last dimension.
pub(super) fn rows(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    let last = shape[shape.num_dims() - 1];
    [shape.num_elements() / last.max(1), last]
}

/// A linear layer for `m` rows, from `k` to `n` features.
pub(super) fn rows_layer([m, k, n]: [usize; 3], algorithm: &'static str) -> Layer {
    Layer::of_products(Kind::Linear, format!("{m}x{k} to {n}"), algorithm, m * k * n)
}

/// A layer that is dominated by reads and writes of tensors like `x`.
fn mapped_layer(kind: Kind, x: &FlexTensor) -> Timer {
    layer(|| Layer::new(kind, x.layout().shape().to_vec()))
}

pub(super) fn attention_of(q: &FlexTensor, k: &FlexTensor, scale: f64) -> Attention {
    let [batch, heads, queries, width] = dims(q);
    let keys = dims::<4>(k)[2];
    Attention { batch, heads, queries, keys, width, scale: scale as f32 }
}

/// Burn's GELU, which rounds like the libraries that published pipelines ran in.
fn burns_gelu<B: Engine>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::gelu(x)
}

impl Engine for Flex {
    fn engine_absent(_: FlexTensor) -> FlexTensor {
        absent()
    }

    fn engine_cast(x: FlexTensor, to: FloatDType) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        half::cast(x, to)
    }

    fn engine_conv2d(
        x: FlexTensor,
        y: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        shift: FlexTensor,
        residual: FlexTensor,
        options: ConvOptions,
        doubled: bool,
    ) -> FlexTensor {
        let run = if half::is(&x) { half::conv2d } else { conv::conv2d };
        run([x, y], weight, [bias, shift], residual, options, doubled)
    }

    fn engine_conv2d_input(
        dy: FlexTensor,
        weight: FlexTensor,
        size: [usize; 2],
        channels: [usize; 2],
        options: ConvOptions,
        doubled: bool,
    ) -> FlexTensor {
        conv::conv2d_input(dy, weight, size, channels, options, doubled)
    }

    fn engine_conv2d_weight(
        x: FlexTensor,
        y: FlexTensor,
        dy: FlexTensor,
        kernel: [usize; 2],
        options: ConvOptions,
        doubled: bool,
    ) -> FlexTensor {
        conv::conv2d_weight([x, y], dy, kernel, options, doubled)
    }

    fn engine_norm_conv2d(
        x: FlexTensor,
        y: FlexTensor,
        norm_weight: FlexTensor,
        norm_bias: FlexTensor,
        norm_scale: FlexTensor,
        norm_shift: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        shift: FlexTensor,
        residual: FlexTensor,
        norm: NormOptions,
        options: ConvOptions,
    ) -> FlexTensor {
        let factors = [norm_weight, norm_bias, norm_scale, norm_shift];
        let timer = mapped_layer(Kind::Norm, &x);
        let (x, ..) = norm::forward([x, y], factors, norm);
        drop(timer);
        Self::engine_conv2d(x, absent(), weight, bias, shift, residual, options, false)
    }

    fn engine_conv(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: ConvOptions<3>,
    ) -> FlexTensor {
        conv::convolution(x, weight, bias, options)
    }

    fn engine_conv_input(
        dy: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        size: [usize; 3],
        options: ConvOptions<3>,
    ) -> FlexTensor {
        conv::convolution_input(dy, weight, bias, size, options)
    }

    fn engine_conv_weight(
        x: FlexTensor,
        dy: FlexTensor,
        kernel: [usize; 3],
        options: ConvOptions<3>,
    ) -> FlexTensor {
        conv::convolution_weight(x, dy, kernel, options)
    }

    fn engine_channel_sums(x: FlexTensor) -> FlexTensor {
        elementwise::channel_sums(x)
    }

    fn engine_position_sums(x: FlexTensor) -> FlexTensor {
        elementwise::position_sums(x)
    }

    fn engine_position_dots(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        elementwise::position_dots(x, y)
    }

    fn engine_linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        residual: FlexTensor,
    ) -> FlexTensor {
        if half::is(&x) {
            return half::linear(x, weight, bias, residual);
        }
        let (x, w, bias, residual) = (dense(x), dense(weight), dense(bias), present(residual).map(dense));
        let ([m, k], [n, _]) = (rows(&x), dims::<2>(&w));
        let mut out = uninitialized(m * n);
        let (bias, residual) = (Some(values(&bias)), residual.as_ref().map(values));
        if int8::takes_rows(&x, &w) {
            int8::linear([k, n], &x, &w, Epilogue { bias, residual }, &mut out);
            return with_last(&x, n, out);
        }
        let _timer = layer(|| rows_layer([m, k, n], ""));
        let (a, added) = (Matrix::new(values(&x), m, k), Added { bias, residual });
        match prepared::transposed([n, k], &w) {
            Some(w) => w.product(a, added, &mut out),
            None => {
                product_with(isa(), a, Matrix::new(values(&w), n, k).t(), added, &mut out);
                if context::current(|c| c.once) {
                    file_map::give_back(values(&w));
                }
            }
        }
        with_last(&x, n, out)
    }

    fn engine_linear_input(dy: FlexTensor, weight: FlexTensor) -> FlexTensor {
        if half::is(&dy) {
            return half::linear_input(dy, weight);
        }
        let (dy, w) = (dense(dy), dense(weight));
        let ([m, n], [_, k]) = (rows(&dy), dims::<2>(&w));
        let mut out = uninitialized(m * k);
        product(isa(), Matrix::new(values(&dy), m, n), Matrix::new(values(&w), n, k), None, &mut out);
        with_last(&dy, k, out)
    }

    fn engine_linear_weight(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        let (x, dy) = (half::wide(x), half::wide(dy));
        let (x, dy) = (dense(x), dense(dy));
        let ([m, k], [_, n]) = (rows(&x), rows(&dy));
        let mut out = uninitialized(n * k);
        transposed_product(isa(), Matrix::new(values(&dy), m, n), Matrix::new(values(&x), m, k), &mut out);
        tensor(out, vec![n, k])
    }

    fn engine_row_sums(x: FlexTensor) -> FlexTensor {
        elementwise::row_sums(x)
    }

    fn engine_group_norm(
        x: FlexTensor,
        y: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        norm: NormOptions,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let _timer = mapped_layer(Kind::Norm, &x);
        norm::forward([x, y], [weight, bias, scale, shift], norm)
    }

    fn engine_group_norm_backward(
        x: FlexTensor,
        y: FlexTensor,
        dy: FlexTensor,
        mean: FlexTensor,
        rstd: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        norm: NormOptions,
    ) -> norm::Gradients {
        norm::backward([x, y], dy, [mean, rstd], [weight, bias, scale, shift], norm)
    }

    fn engine_layer_norm(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        eps: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let _timer = mapped_layer(Kind::Norm, &x);
        tokens::layer_norm(x, weight, bias, eps)
    }

    fn engine_layer_norm_backward(
        x: FlexTensor,
        dy: FlexTensor,
        mean: FlexTensor,
        rstd: FlexTensor,
        weight: FlexTensor,
        eps: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        tokens::layer_norm_backward(x, dy, [mean, rstd], weight, eps)
    }

    fn engine_geglu(x: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        tokens::geglu(x)
    }

    fn engine_geglu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        tokens::geglu_backward(x, dy)
    }

    fn engine_gelu(x: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        burns_gelu::<Self>(x)
    }

    fn engine_gelu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        elementwise::gelu_backward(x, dy)
    }

    fn engine_silu(x: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        elementwise::silu(x)
    }

    fn engine_silu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        elementwise::silu_backward(x, dy)
    }

    fn engine_add(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        elementwise::add(x, y)
    }

    fn engine_add_channels(x: FlexTensor, shift: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        elementwise::add_channels(x, shift)
    }

    fn engine_scale_shift(x: FlexTensor, scale: FlexTensor, shift: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Elementwise, &x);
        elementwise::scale_shift(x, scale, shift)
    }

    fn engine_scale(x: FlexTensor, scale: FlexTensor) -> FlexTensor {
        elementwise::scale(x, scale)
    }

    fn engine_cat(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        let _timer = mapped_layer(Kind::Resampling, &x);
        resample::cat(x, y)
    }

    fn engine_channels(x: FlexTensor, first: usize, count: usize) -> FlexTensor {
        resample::channels(x, first, count)
    }

    fn engine_upsample(x: FlexTensor, size: [usize; 2]) -> FlexTensor {
        let _timer = mapped_layer(Kind::Resampling, &x);
        resample::upsample(x, size)
    }

    fn engine_upsample_backward(dy: FlexTensor, size: [usize; 2]) -> FlexTensor {
        resample::upsample_backward(dy, size)
    }

    fn engine_avg_pool(x: FlexTensor, k: usize) -> FlexTensor {
        let _timer = mapped_layer(Kind::Resampling, &x);
        resample::avg_pool(x, k)
    }

    fn engine_avg_pool_backward(dy: FlexTensor, k: usize, size: [usize; 2]) -> FlexTensor {
        resample::avg_pool_backward(dy, k, size)
    }

    fn engine_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, scale: f64) -> FlexTensor {
        let _timer = layer(|| {
            let Attention { batch, heads, queries, keys, width, .. } = attention_of(&q, &k, scale);
            let shape = format!("{batch}x{heads} heads of {width}, {queries} to {keys}");
            let products = 2 * batch * heads * queries * keys * width;
            Layer::of_products(Kind::Attention, shape, "", products)
        });
        if half::is(&q) {
            return half::attention(q, k, v, scale);
        }
        if int8::attends_in_bf16() {
            let [q, k, v] = [q, k, v].map(half::narrow);
            return half::wide(half::attention(q, k, v, scale));
        }
        let [q, k, v] = [q, k, v].map(heads_of);
        let a = attention_of(&q, &k, scale);
        let mut out = uninitialized(a.batch * a.heads * a.queries * a.width);
        attention::forward(isa(), &a, heads(&q), heads(&k), heads(&v), &mut out);
        from_heads(out, dims(&q))
    }

    fn engine_attention_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        dy: FlexTensor,
        scale: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if half::is(&q) {
            let [q, k, v, dy] = [q, k, v, dy].map(half::wide);
            let (dq, dk, dv) = Self::engine_attention_backward(q, k, v, dy, scale);
            return (half::narrow(dq), half::narrow(dk), half::narrow(dv));
        }
        let [q, k, v, dy] = [q, k, v, dy].map(heads_of);
        let a = attention_of(&q, &k, scale);
        let [mut dq, mut dk, mut dv] =
            [a.queries, a.keys, a.keys].map(|n| uninitialized(a.batch * a.heads * n * a.width));
        attention::backward(isa(), &a, [&q, &k, &v, &dy].map(heads), [&mut dq, &mut dk, &mut dv]);
        (from_heads(dq, dims(&q)), from_heads(dk, dims(&k)), from_heads(dv, dims(&k)))
    }
}

/// `values` in the shape of `x` with another last dimension.
pub(super) fn with_last<T: Number>(x: &FlexTensor, last: usize, values: Vec<T>) -> FlexTensor {
    let mut shape = x.layout().shape().to_vec();
    if let Some(n) = shape.last_mut() {
        *n = last;
    }
    tensor(values, shape)
}
