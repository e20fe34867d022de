//! Elementwise operations, sums, and operations with one value per sample and channel.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::elementwise::{self as kernels, affine_channels, sum_pixels};

use super::{
    flex::{dims, rows},
    half, isa,
    layout::{Image, Number, dense, flat, like, stretch, stretch_mut, tensor, uninitialized, values},
};

/// A dense copy of `[B, C]`.
pub(super) fn per_channel(x: FlexTensor, image: &Image) -> FlexTensor {
    assert_eq!(dims(&x), [image.batch(), image.channels()], "expected one value per sample and channel");
    dense(x)
}

/// Brings both to the same memory order.
pub(super) fn aligned(x: FlexTensor, y: FlexTensor) -> (FlexTensor, FlexTensor) {
    assert_eq!(x.layout().shape(), y.layout().shape(), "tensors must have the same shape");
    let flat = |t: &FlexTensor| t.layout().contiguous_offsets().is_some();
    if flat(&x) && flat(&y) || x.layout().num_dims() < 3 {
        (dense(x), dense(y))
    } else {
        (Image::new(x).into_tensor(), Image::new(y).into_tensor())
    }
}

/// Applies `f` to the values of `x` in memory order, in place if they are not shared.
pub(super) fn mapped<T: Number>(
    x: FlexTensor,
    f: impl FnOnce(&[T], Option<&mut [T]>) -> Option<Vec<T>>,
) -> FlexTensor {
    // Token tensors keep their layout; images become channels-last, as the next layer needs them.
    let mut x = if x.layout().num_dims() < 4 { flat(x) } else { Image::new(x).into_tensor() };
    if let Some(own) = stretch_mut(&mut x) {
        f(&[], Some(own));
        return x;
    }
    let out = f(stretch(&x), None).expect("a separate result");
    like(&x, out)
}

pub(super) fn channel_sums(x: FlexTensor) -> FlexTensor {
    let x = half::wide(x);
    let x = Image::new(x);
    let [b, n, c] = x.dims();
    let mut out = vec![0.0; c];
    sum_pixels(isa(), x.values(), None, [1, b * n, c], &mut out);
    tensor(out, vec![c])
}

pub(super) fn position_sums(x: FlexTensor) -> FlexTensor {
    let x = half::wide(x);
    let x = Image::new(x);
    let mut out = vec![0.0; x.batch() * x.channels()];
    sum_pixels(isa(), x.values(), None, x.dims(), &mut out);
    tensor(out, vec![x.batch(), x.channels()])
}

pub(super) fn position_dots(x: FlexTensor, y: FlexTensor) -> FlexTensor {
    let (x, y) = (half::wide(x), half::wide(y));
    let (x, y) = (Image::new(x), Image::new(y));
    let mut out = vec![0.0; x.batch() * x.channels()];
    sum_pixels(isa(), x.values(), Some(y.values()), x.dims(), &mut out);
    tensor(out, vec![x.batch(), x.channels()])
}

pub(super) fn row_sums(x: FlexTensor) -> FlexTensor {
    let x = half::wide(x);
    let x = dense(x);
    let [m, n] = rows(&x);
    let mut out = vec![0.0; n];
    sum_pixels(isa(), values(&x), None, [1, m, n], &mut out);
    tensor(out, vec![n])
}

pub(super) fn gelu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::narrow(gelu_backward(half::wide(x), half::wide(dy)));
    }
    let (x, dy) = aligned(x, dy);
    let mut out = uninitialized(stretch::<f32>(&x).len());
    kernels::gelu_gradient(isa(), stretch(&x), stretch(&dy), &mut out);
    like(&x, out)
}

pub(super) fn silu(x: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::silu(x);
    }
    mapped(x, |x, own| match own {
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

pub(super) fn silu_backward(x: FlexTensor, dy: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::narrow(silu_backward(half::wide(x), half::wide(dy)));
    }
    let (x, dy) = aligned(x, dy);
    let mut out = uninitialized(stretch::<f32>(&x).len());
    kernels::silu_gradient(isa(), stretch(&x), stretch(&dy), &mut out);
    like(&x, out)
}

pub(super) fn add(x: FlexTensor, y: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::add(x, y);
    }
    let (mut x, mut y) = aligned(x, y);
    // The sum has the same bits in either order.
    if !x.is_unique() && y.is_unique() {
        std::mem::swap(&mut x, &mut y);
    }
    if let Some(own) = stretch_mut(&mut x) {
        kernels::add_assign(isa(), own, stretch(&y));
        return x;
    }
    let mut out = uninitialized(stretch::<f32>(&x).len());
    kernels::add(isa(), stretch(&x), stretch(&y), &mut out);
    like(&x, out)
}

pub(super) fn add_channels(x: FlexTensor, shift: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::affine_channels(x, None, Some(shift));
    }
    let x = Image::new(x);
    let shift = per_channel(shift, &x);
    let mut out = uninitialized(x.values::<f32>().len());
    affine_channels(isa(), x.values(), x.dims(), None, Some(values(&shift)), &mut out);
    x.like(out).into_tensor()
}

pub(super) fn scale_shift(x: FlexTensor, scale: FlexTensor, shift: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::affine_channels(x, Some(&one_plus(scale)), Some(shift));
    }
    let x = Image::new(x);
    let (scale, shift) = (one_plus(scale), per_channel(shift, &x));
    let mut out = uninitialized(x.values::<f32>().len());
    affine_channels(isa(), x.values(), x.dims(), Some(&scale), Some(values(&shift)), &mut out);
    x.like(out).into_tensor()
}

pub(super) fn scale(x: FlexTensor, scale: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::affine_channels(x, Some(&one_plus(scale)), None);
    }
    let x = Image::new(x);
    let scale = one_plus(scale);
    let mut out = uninitialized(x.values::<f32>().len());
    affine_channels(isa(), x.values(), x.dims(), Some(&scale), None, &mut out);
    x.like(out).into_tensor()
}

/// `1 + scale`.
fn one_plus(scale: FlexTensor) -> Vec<f32> {
    values::<f32>(&dense(scale)).iter().map(|s| 1.0 + s).collect()
}
