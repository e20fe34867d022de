//! Operations that change the size or the channels of maps.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::resample as kernels;

use super::{
    half,
    layout::{Image, uninitialized},
};

pub(super) fn cat(x: FlexTensor, y: FlexTensor) -> FlexTensor {
    if half::is(&x) {
        return half::cat(x, y);
    }
    let (x, y) = (Image::new(x), Image::new(y));
    assert!(x.batch() == y.batch() && x.size() == y.size(), "maps must have the same batch and size");
    let (a, b) = (x.channels(), y.channels());
    let mut out = uninitialized(x.values::<f32>().len() + y.values::<f32>().len());
    kernels::concatenate(x.values(), a, y.values(), b, &mut out);
    Image::from_values(out, x.batch(), &x.size(), a + b).into_tensor()
}

pub(super) fn channels(x: FlexTensor, first: usize, count: usize) -> FlexTensor {
    if half::is(&x) {
        return half::channels(x, first, count);
    }
    let x = Image::new(x);
    let mut out = uninitialized(x.values::<f32>().len() / x.channels().max(1) * count);
    kernels::columns(x.values(), x.channels(), first, count, &mut out);
    Image::from_values(out, x.batch(), &x.size(), count).into_tensor()
}

pub(super) fn upsample(x: FlexTensor, size: [usize; 2]) -> FlexTensor {
    if half::is(&x) {
        return half::upsample(x, size);
    }
    let x = Image::new(x);
    let mut out = uninitialized(x.batch() * size[0] * size[1] * x.channels());
    kernels::upsample(x.values(), x.batch(), x.map(), size, x.channels(), &mut out);
    Image::from_values(out, x.batch(), &size, x.channels()).into_tensor()
}

pub(super) fn upsample_backward(dy: FlexTensor, size: [usize; 2]) -> FlexTensor {
    if half::is(&dy) {
        return half::narrow(upsample_backward(half::wide(dy), size));
    }
    let dy = Image::new(dy);
    let mut out = uninitialized(dy.batch() * size[0] * size[1] * dy.channels());
    kernels::upsample_gradient(dy.values(), dy.batch(), size, dy.map(), dy.channels(), &mut out);
    Image::from_values(out, dy.batch(), &size, dy.channels()).into_tensor()
}

pub(super) fn avg_pool(x: FlexTensor, k: usize) -> FlexTensor {
    if half::is(&x) {
        return half::avg_pool(x, k);
    }
    let x = Image::new(x);
    let size = x.map().map(|s| s / k);
    let mut out = uninitialized(x.batch() * size[0] * size[1] * x.channels());
    kernels::avg_pool(x.values(), x.batch(), x.map(), k, x.channels(), &mut out);
    Image::from_values(out, x.batch(), &size, x.channels()).into_tensor()
}

pub(super) fn avg_pool_backward(dy: FlexTensor, k: usize, size: [usize; 2]) -> FlexTensor {
    if half::is(&dy) {
        return half::narrow(avg_pool_backward(half::wide(dy), k, size));
    }
    let dy = Image::new(dy);
    let mut out = uninitialized(dy.batch() * size[0] * size[1] * dy.channels());
    kernels::avg_pool_gradient(dy.values(), dy.batch(), size, k, dy.channels(), &mut out);
    Image::from_values(out, dy.batch(), &size, dy.channels()).into_tensor()
}
