//! The operations on CPU tensors: layouts in, kernels, layouts out.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::FloatDType,
};
use tweedie_kernels::{
    attention::{self, Attention},
    elementwise,
    gemm::{Added, Matrix, product, product_with, transposed_product},
    resample,
};

use super::{
    Engine, NormOptions, conv, half, isa,
    layout::{
        Image, Number, dense, flat, from_heads, heads, heads_of, like, stretch, stretch_mut, tensor,
        uninitialized, values,
    },
    norm, prepared, tokens,
};
use crate::ConvOptions;

/// Stands for an argument that is not given.
pub(super) fn absent() -> FlexTensor {
    tensor(Vec::<f32>::new(), vec![0])
}

/// Whether `x` stands for an argument that is not given.
pub(super) fn is_absent(x: &FlexTensor) -> bool {
    x.layout().num_elements() == 0
}

/// `x`, if it is given.
pub(super) fn present(x: FlexTensor) -> Option<FlexTensor> {
    (!is_absent(&x)).then_some(x)
}

pub(super) fn dims<const N: usize>(x: &FlexTensor) -> [usize; N] {
    let shape = x.layout().shape();
    assert_eq!(shape.num_dims(), N, "a tensor of {N} dimensions, not of shape {shape:?}");
    std::array::from_fn(|i| shape[i])
}

/// Rows and the length of the last dimension.
pub(super) fn rows(x: &FlexTensor) -> [usize; 2] {
    let shape = x.layout().shape();
    let last = shape[shape.num_dims() - 1];
    [shape.num_elements() / last.max(1), last]
}

/// `[B, C]` as numbers.
pub(super) fn per_channel(x: FlexTensor, image: &Image) -> FlexTensor {
    assert_eq!(dims(&x), [image.batch(), image.channels()], "one number per sample and channel");
    dense(x)
}

pub(super) fn attention_of(q: &FlexTensor, k: &FlexTensor, scale: f64) -> Attention {
    let [batch, heads, queries, width] = dims(q);
    let keys = dims::<4>(k)[2];
    Attention { batch, heads, queries, keys, width, scale: scale as f32 }
}

/// Both in the same memory order, whatever it is.
pub(super) fn aligned(x: FlexTensor, y: FlexTensor) -> (FlexTensor, FlexTensor) {
    assert_eq!(x.layout().shape(), y.layout().shape(), "tensors of the same shape");
    let flat = |t: &FlexTensor| t.layout().contiguous_offsets().is_some();
    if flat(&x) && flat(&y) || x.layout().num_dims() < 3 {
        (dense(x), dense(y))
    } else {
        (Image::new(x).into_tensor(), Image::new(y).into_tensor())
    }
}

/// Applies `f` to the numbers of `x` in memory order: in place where nobody else holds them.
pub(super) fn mapped<T: Number>(
    x: FlexTensor,
    f: impl FnOnce(&[T], Option<&mut [T]>) -> Option<Vec<T>>,
) -> FlexTensor {
    // Tokens stay as they are; images become channels-last, as the next layer wants them.
    let mut x = if x.layout().num_dims() < 4 { flat(x) } else { Image::new(x).into_tensor() };
    if let Some(own) = stretch_mut(&mut x) {
        f(&[], Some(own));
        return x;
    }
    let out = f(stretch(&x), None).expect("a result of its own");
    like(&x, out)
}

impl Engine for Flex {
    fn engine_absent(_: FlexTensor) -> FlexTensor {
        absent()
    }

    fn engine_cast(x: FlexTensor, to: FloatDType) -> FlexTensor {
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
        let (x, ..) = norm::forward([x, y], factors, norm);
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
        let x = half::wide(x);
        let x = Image::new(x);
        let [b, n, c] = x.dims();
        let mut out = vec![0.0; c];
        elementwise::sum_pixels(isa(), x.values(), None, [1, b * n, c], &mut out);
        tensor(out, vec![c])
    }

    fn engine_position_sums(x: FlexTensor) -> FlexTensor {
        let x = half::wide(x);
        let x = Image::new(x);
        let mut out = vec![0.0; x.batch() * x.channels()];
        elementwise::sum_pixels(isa(), x.values(), None, x.dims(), &mut out);
        tensor(out, vec![x.batch(), x.channels()])
    }

    fn engine_position_dots(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        let (x, y) = (half::wide(x), half::wide(y));
        let (x, y) = (Image::new(x), Image::new(y));
        let mut out = vec![0.0; x.batch() * x.channels()];
        elementwise::sum_pixels(isa(), x.values(), Some(y.values()), x.dims(), &mut out);
        tensor(out, vec![x.batch(), x.channels()])
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
        let a = Matrix::new(values(&x), m, k);
        let added = Added { bias: Some(values(&bias)), residual: residual.as_ref().map(values) };
        match prepared::transposed([n, k], &w) {
            Some(w) => w.product(a, added, &mut out),
            None => product_with(isa(), a, Matrix::new(values(&w), n, k).t(), added, &mut out),
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
        let x = half::wide(x);
        let x = dense(x);
        let [m, n] = rows(&x);
        let mut out = vec![0.0; n];
        elementwise::sum_pixels(isa(), values(&x), None, [1, m, n], &mut out);
        tensor(out, vec![n])
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
        tokens::geglu(x)
    }

    fn engine_geglu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        tokens::geglu_backward(x, dy)
    }

    fn engine_silu(x: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::silu(x);
        }
        mapped(x, |x, own| match own {
            Some(x) => {
                elementwise::silu_mut(isa(), x);
                None
            }
            None => {
                let mut out = uninitialized(x.len());
                elementwise::silu(isa(), x, &mut out);
                Some(out)
            }
        })
    }

    fn engine_silu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::narrow(Self::engine_silu_backward(half::wide(x), half::wide(dy)));
        }
        let (x, dy) = aligned(x, dy);
        let mut out = uninitialized(stretch::<f32>(&x).len());
        elementwise::silu_gradient(isa(), stretch(&x), stretch(&dy), &mut out);
        like(&x, out)
    }

    fn engine_add(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::add(x, y);
        }
        let (mut x, mut y) = aligned(x, y);
        // The sum is the same in either order, bit for bit.
        if !x.is_unique() && y.is_unique() {
            std::mem::swap(&mut x, &mut y);
        }
        if let Some(own) = stretch_mut(&mut x) {
            elementwise::add_assign(isa(), own, stretch(&y));
            return x;
        }
        let mut out = uninitialized(stretch::<f32>(&x).len());
        elementwise::add(isa(), stretch(&x), stretch(&y), &mut out);
        like(&x, out)
    }

    fn engine_add_channels(x: FlexTensor, shift: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::affine_channels(x, None, Some(shift));
        }
        let x = Image::new(x);
        let shift = per_channel(shift, &x);
        let mut out = uninitialized(x.values::<f32>().len());
        elementwise::affine_channels(isa(), x.values(), x.dims(), None, Some(values(&shift)), &mut out);
        x.like(out).into_tensor()
    }

    fn engine_scale_shift(x: FlexTensor, scale: FlexTensor, shift: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::affine_channels(x, Some(&one_plus(scale)), Some(shift));
        }
        let x = Image::new(x);
        let (scale, shift) = (one_plus(scale), per_channel(shift, &x));
        let mut out = uninitialized(x.values::<f32>().len());
        elementwise::affine_channels(
            isa(),
            x.values(),
            x.dims(),
            Some(&scale),
            Some(values(&shift)),
            &mut out,
        );
        x.like(out).into_tensor()
    }

    fn engine_scale(x: FlexTensor, scale: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::affine_channels(x, Some(&one_plus(scale)), None);
        }
        let x = Image::new(x);
        let scale = one_plus(scale);
        let mut out = uninitialized(x.values::<f32>().len());
        elementwise::affine_channels(isa(), x.values(), x.dims(), Some(&scale), None, &mut out);
        x.like(out).into_tensor()
    }

    fn engine_cat(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::cat(x, y);
        }
        let (x, y) = (Image::new(x), Image::new(y));
        assert!(x.batch() == y.batch() && x.size() == y.size(), "maps of the same size");
        let (a, b) = (x.channels(), y.channels());
        let mut out = uninitialized(x.values::<f32>().len() + y.values::<f32>().len());
        resample::concatenate(x.values(), a, y.values(), b, &mut out);
        Image::from_values(out, x.batch(), &x.size(), a + b).into_tensor()
    }

    fn engine_channels(x: FlexTensor, first: usize, count: usize) -> FlexTensor {
        if half::is(&x) {
            return half::channels(x, first, count);
        }
        let x = Image::new(x);
        let mut out = uninitialized(x.values::<f32>().len() / x.channels().max(1) * count);
        resample::columns(x.values(), x.channels(), first, count, &mut out);
        Image::from_values(out, x.batch(), &x.size(), count).into_tensor()
    }

    fn engine_upsample(x: FlexTensor, size: [usize; 2]) -> FlexTensor {
        if half::is(&x) {
            return half::upsample(x, size);
        }
        let x = Image::new(x);
        let mut out = uninitialized(x.batch() * size[0] * size[1] * x.channels());
        resample::upsample(x.values(), x.batch(), x.map(), size, x.channels(), &mut out);
        Image::from_values(out, x.batch(), &size, x.channels()).into_tensor()
    }

    fn engine_upsample_backward(dy: FlexTensor, size: [usize; 2]) -> FlexTensor {
        if half::is(&dy) {
            return half::narrow(Self::engine_upsample_backward(half::wide(dy), size));
        }
        let dy = Image::new(dy);
        let mut out = uninitialized(dy.batch() * size[0] * size[1] * dy.channels());
        resample::upsample_gradient(dy.values(), dy.batch(), size, dy.map(), dy.channels(), &mut out);
        Image::from_values(out, dy.batch(), &size, dy.channels()).into_tensor()
    }

    fn engine_avg_pool(x: FlexTensor, k: usize) -> FlexTensor {
        if half::is(&x) {
            return half::avg_pool(x, k);
        }
        let x = Image::new(x);
        let size = x.map().map(|s| s / k);
        let mut out = uninitialized(x.batch() * size[0] * size[1] * x.channels());
        resample::avg_pool(x.values(), x.batch(), x.map(), k, x.channels(), &mut out);
        Image::from_values(out, x.batch(), &size, x.channels()).into_tensor()
    }

    fn engine_avg_pool_backward(dy: FlexTensor, k: usize, size: [usize; 2]) -> FlexTensor {
        if half::is(&dy) {
            return half::narrow(Self::engine_avg_pool_backward(half::wide(dy), k, size));
        }
        let dy = Image::new(dy);
        let mut out = uninitialized(dy.batch() * size[0] * size[1] * dy.channels());
        resample::avg_pool_gradient(dy.values(), dy.batch(), size, k, dy.channels(), &mut out);
        Image::from_values(out, dy.batch(), &size, dy.channels()).into_tensor()
    }

    fn engine_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, scale: f64) -> FlexTensor {
        if half::is(&q) {
            return half::attention(q, k, v, scale);
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

/// `1 + scale`.
fn one_plus(scale: FlexTensor) -> Vec<f32> {
    values::<f32>(&dense(scale)).iter().map(|s| 1.0 + s).collect()
}

/// `values` in the shape of `x` but for the last dimension.
pub(super) fn with_last<T: Number>(x: &FlexTensor, last: usize, values: Vec<T>) -> FlexTensor {
    let mut shape = x.layout().shape().to_vec();
    if let Some(n) = shape.last_mut() {
        *n = last;
    }
    tensor(values, shape)
}
