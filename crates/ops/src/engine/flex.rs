//! The operations on CPU tensors: layouts in, kernels, layouts out.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::FloatDType,
};
use tweedie_kernels::{
    attention::{self, Attention},
    conv::{self, Conv},
    elementwise,
    gemm::{Matrix, product, transposed_product},
    group_norm::{self, GroupNorm},
    resample,
};

use super::{
    Engine, half, isa,
    layout::{
        Image, Number, dense, flat, from_heads, heads, heads_of, like, stretch, stretch_mut, tensor,
        uninitialized, values,
    },
    prepared, tokens,
};
use crate::ConvOptions;

pub(super) fn conv_of(batch: usize, size: [usize; 2], weight: [usize; 4], o: ConvOptions) -> Conv {
    let [out_channels, per_group, kh, kw] = weight;
    Conv {
        batch,
        size,
        in_channels: per_group * o.groups,
        out_channels,
        kernel: [kh, kw],
        stride: o.stride,
        pad_before: o.pad_before,
        pad_after: o.pad_after,
        dilation: o.dilation,
        groups: o.groups,
    }
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

/// Means and reciprocal standard deviations of groups, `[B, groups]`.
fn statistics(x: &FlexTensor, groups: usize, eps: f64) -> (FlexTensor, FlexTensor) {
    let x = Image::new(x.clone());
    let [batch, pixels, channels] = x.dims();
    let n = GroupNorm { batch, pixels, channels, groups, eps: eps as f32, silu: false };
    let (mut mean, mut rstd) = (vec![0.0; batch * groups], vec![0.0; batch * groups]);
    group_norm::statistics(isa(), &n, x.values(), &mut mean, &mut rstd);
    (tensor(mean, vec![batch, groups]), tensor(rstd, vec![batch, groups]))
}

impl Engine for Flex {
    fn engine_cast(x: FlexTensor, to: FloatDType) -> FlexTensor {
        half::cast(x, to)
    }

    fn engine_conv2d(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        options: ConvOptions,
    ) -> FlexTensor {
        if half::is(&x) {
            return half::conv2d(x, weight, bias, options);
        }
        let (x, w, bias) = (Image::new(x), dense(weight), dense(bias));
        let c = conv_of(x.batch(), x.map(), dims(&w), options);
        assert_eq!(c.in_channels, x.channels(), "channels of a convolution's input");
        let mut out = uninitialized(c.lens()[2]);
        match prepared::kernels(&c, &w) {
            Some(w) => w.forward(&c, x.values(), Some(values(&bias)), &mut out),
            None => conv::forward(isa(), &c, x.values(), values(&w), Some(values(&bias)), &mut out),
        }
        Image::from_values(out, c.batch, &c.out_size(), c.out_channels).into_tensor()
    }

    fn engine_conv2d_input(
        dy: FlexTensor,
        weight: FlexTensor,
        size: [usize; 2],
        options: ConvOptions,
    ) -> FlexTensor {
        if half::is(&dy) {
            return half::conv2d_input(&dy, &weight, size, options).unwrap_or_else(|| {
                half::narrow(Self::engine_conv2d_input(half::wide(dy), weight, size, options))
            });
        }
        let (dy, w) = (Image::new(dy), dense(weight));
        let c = conv_of(dy.batch(), size, dims(&w), options);
        let mut out = uninitialized(c.lens()[0]);
        conv::data_gradient(isa(), &c, dy.values(), values(&w), &mut out);
        Image::from_values(out, c.batch, &size, c.in_channels).into_tensor()
    }

    fn engine_conv2d_weight(
        x: FlexTensor,
        dy: FlexTensor,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> FlexTensor {
        let (x, dy) = (half::wide(x), half::wide(dy));
        let (x, dy) = (Image::new(x), Image::new(dy));
        let shape = [dy.channels(), x.channels() / options.groups, kernel[0], kernel[1]];
        let c = conv_of(x.batch(), x.map(), shape, options);
        let mut out = uninitialized(c.lens()[1]);
        conv::weight_gradient(isa(), &c, x.values(), dy.values(), &mut out);
        tensor(out, shape.to_vec())
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

    fn engine_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        if half::is(&x) {
            return half::linear(x, weight, bias);
        }
        let (x, w, bias) = (dense(x), dense(weight), dense(bias));
        let ([m, k], [n, _]) = (rows(&x), dims::<2>(&w));
        let mut out = uninitialized(m * n);
        let (a, bias) = (Matrix::new(values(&x), m, k), Some(values(&bias)));
        match prepared::transposed([n, k], &w) {
            Some(w) => w.product(a, bias, &mut out),
            None => product(isa(), a, Matrix::new(values(&w), n, k).t(), bias, &mut out),
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
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if half::is(&x) {
            // Statistics are made again where a gradient asks for them.
            let none = || tensor(Vec::<f32>::new(), vec![0]);
            return (half::group_norm(x, weight, bias, groups, eps, silu), none(), none());
        }
        let (x, w, bias) = (Image::new(x), dense(weight), dense(bias));
        let [batch, pixels, channels] = x.dims();
        let n = GroupNorm { batch, pixels, channels, groups, eps: eps as f32, silu };
        let (mut mean, mut rstd) = (vec![0.0; batch * groups], vec![0.0; batch * groups]);
        group_norm::statistics(isa(), &n, x.values(), &mut mean, &mut rstd);
        let mut out = uninitialized(x.values::<f32>().len());
        group_norm::forward(isa(), &n, x.values(), [&mean, &rstd], [values(&w), values(&bias)], &mut out);
        let per_group = |v| tensor(v, vec![batch, groups]);
        (x.like(out).into_tensor(), per_group(mean), per_group(rstd))
    }

    fn engine_group_norm_backward(
        x: FlexTensor,
        dy: FlexTensor,
        mean: FlexTensor,
        rstd: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        if half::is(&x) {
            let x = half::wide(x);
            let (mean, rstd) = statistics(&x, groups, eps);
            let dy = half::wide(dy);
            let (dx, dw, db) =
                Self::engine_group_norm_backward(x, dy, mean, rstd, weight, bias, groups, eps, silu);
            return (half::narrow(dx), dw, db);
        }
        let (x, dy, w, bias) = (Image::new(x), Image::new(dy), dense(weight), dense(bias));
        let [batch, pixels, channels] = x.dims();
        let n = GroupNorm { batch, pixels, channels, groups, eps: eps as f32, silu };
        let mut dx = uninitialized(x.values::<f32>().len());
        let (mut dw, mut db) = (vec![0.0; channels], vec![0.0; channels]);
        let statistics = [values(&mean), values(&rstd)];
        let affine = [values(&w), values(&bias)];
        group_norm::backward(
            isa(),
            &n,
            x.values(),
            dy.values(),
            statistics,
            affine,
            &mut dx,
            [&mut dw, &mut db],
        );
        (x.like(dx).into_tensor(), tensor(dw, vec![channels]), tensor(db, vec![channels]))
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
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        tokens::layer_norm_backward(x, dy, [mean, rstd], weight)
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
