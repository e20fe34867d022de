//! Convolutions of CPU tensors.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::{
    conv::{
        self, Conv, Epilogue, Input,
        volume::{self, Volume},
    },
    maps::Maps,
};

use super::{
    choice,
    flex::{dims, present},
    half, int8, isa,
    layout::{Image, dense, tensor, uninitialized, values},
    prepared,
};
use crate::{
    ConvOptions,
    profile::{Kind, Layer, layer},
};

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

/// A bias plus each sample's `shift: [B, C]`, if any.
pub(super) fn sample_bias(bias: FlexTensor, shift: FlexTensor, batch: usize) -> FlexTensor {
    let bias = dense(bias);
    let Some(shift) = present(shift).map(dense) else { return bias };
    let channels = values::<f32>(&bias).len();
    assert_eq!(dims(&shift), [batch, channels], "expected one value per sample and output channel");
    let rows = values::<f32>(&shift).chunks_exact(channels);
    let sums = rows.flat_map(|row| row.iter().zip(values::<f32>(&bias)).map(|(s, b)| b + s)).collect();
    tensor(sums, vec![batch, channels])
}

fn size_of(x: &Image, doubled: bool) -> [usize; 2] {
    x.map().map(|s| if doubled { 2 * s } else { s })
}

fn input<'a>(x: &'a Image, y: Option<&'a Image>, doubled: bool) -> Input<'a> {
    if let Some(y) = y {
        assert!(x.batch() == y.batch() && x.size() == y.size(), "maps must have the same batch and size");
    }
    let maps = Maps::two(x.values(), y.map_or(&[], Image::values), y.map_or(0, Image::channels));
    if doubled { Input::doubled(maps) } else { maps.into() }
}

pub(super) fn conv2d(
    [x, y]: [FlexTensor; 2],
    weight: FlexTensor,
    [bias, shift]: [FlexTensor; 2],
    residual: FlexTensor,
    options: ConvOptions,
    doubled: bool,
) -> FlexTensor {
    let (x, y, w) = (Image::new(x), present(y).map(Image::new), dense(weight));
    let c = conv_of(x.batch(), size_of(&x, doubled), dims(&w), options);
    let channels = x.channels() + y.as_ref().map_or(0, Image::channels);
    assert_eq!(c.in_channels, channels, "channels of a convolution's input");
    let bias = sample_bias(bias, shift, c.batch);
    let residual = present(residual).map(Image::new);
    let epilogue = Epilogue { bias: Some(values(&bias)), residual: residual.as_ref().map(Image::values) };
    let maps = input(&x, y.as_ref(), doubled);
    let mut out = uninitialized(c.lens()[2]);
    if int8::takes(&c) {
        int8::conv2d(&c, maps, &w, epilogue, &mut out);
    } else {
        let algorithm = choice::of(&c);
        let _timer = layer(|| Layer::of_conv(&c, choice::name(algorithm), algorithm.products(&c)));
        match prepared::kernels(algorithm, &c, &w) {
            Some(w) => w.forward(&c, maps, epilogue, &mut out),
            None => conv::forward_by(algorithm, isa(), &c, maps, values(&w), epilogue, &mut out),
        }
    }
    Image::from_values(out, c.batch, &c.out_size(), c.out_channels).into_tensor()
}

/// The gradient of input channels `first..first + count`.
pub(super) fn conv2d_input(
    dy: FlexTensor,
    weight: FlexTensor,
    size: [usize; 2],
    channels: [usize; 2],
    options: ConvOptions,
    doubled: bool,
) -> FlexTensor {
    if half::is(&dy) {
        if let Some(dx) = half::conv2d_input(&dy, &weight, size, channels, options, doubled) {
            return dx;
        }
        return half::narrow(conv2d_input(half::wide(dy), weight, size, channels, options, doubled));
    }
    let (dy, w) = (Image::new(dy), some_inputs(dense(weight), channels, options.groups));
    let c = conv_of(dy.batch(), size, dims(&w), options);
    let size = if doubled { size.map(|s| s / 2) } else { size };
    let mut out = uninitialized(c.batch * size[0] * size[1] * c.in_channels);
    if doubled {
        conv::data_gradient_doubled(isa(), &c, dy.values(), values(&w), &mut out);
    } else {
        conv::data_gradient(isa(), &c, dy.values(), values(&w), &mut out);
    }
    Image::from_values(out, c.batch, &size, c.in_channels).into_tensor()
}

/// The kernels of input channels `first..first + count` of a dense weight.
pub(super) fn some_inputs(weight: FlexTensor, [first, count]: [usize; 2], groups: usize) -> FlexTensor {
    let [outputs, inputs, kh, kw] = dims(&weight);
    if groups > 1 || count == inputs {
        return weight;
    }
    let row = inputs * kh * kw;
    let rows = values::<f32>(&weight).chunks_exact(row);
    let part = rows.flat_map(|row| &row[first * kh * kw..(first + count) * kh * kw]).copied().collect();
    tensor(part, vec![outputs, count, kh, kw])
}

pub(super) fn conv2d_weight(
    inputs: [FlexTensor; 2],
    dy: FlexTensor,
    kernel: [usize; 2],
    options: ConvOptions,
    doubled: bool,
) -> FlexTensor {
    let [x, y] = inputs.map(half::wide_or_absent);
    let (x, y, dy) = (Image::new(x), present(y).map(Image::new), Image::new(half::wide(dy)));
    let channels = x.channels() + y.as_ref().map_or(0, Image::channels);
    let shape = [dy.channels(), channels / options.groups, kernel[0], kernel[1]];
    let c = conv_of(x.batch(), size_of(&x, doubled), shape, options);
    let mut out = uninitialized(c.lens()[1]);
    conv::weight_gradient_with(isa(), &c, input(&x, y.as_ref(), doubled), dy.values(), &mut out);
    tensor(out, shape.to_vec())
}

/// Pads one to three sizes with ones in front.
fn three(size: &[usize]) -> [usize; 3] {
    let mut all = [1; 3];
    all[3 - size.len()..].copy_from_slice(size);
    all
}

fn volume_of(batch: usize, size: [usize; 3], weight: &[usize], o: ConvOptions<3>) -> Volume {
    Volume {
        batch,
        size,
        in_channels: weight[1] * o.groups,
        out_channels: weight[0],
        kernel: three(&weight[2..]),
        stride: o.stride,
        pad_before: o.pad_before,
        pad_after: o.pad_after,
        dilation: o.dilation,
        groups: o.groups,
    }
}

/// Convolution in as many dimensions as the weight has.
pub(super) fn convolution(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    o: ConvOptions<3>,
) -> FlexTensor {
    let (x, w, bias) = (Image::new(x), dense(weight), present(bias).map(dense));
    let shape = w.layout().shape().to_vec();
    let v = volume_of(x.batch(), three(&x.size()), &shape, o);
    assert_eq!(v.in_channels, x.channels(), "channels of a convolution's input");
    let _timer = layer(|| {
        let products = v.lens()[2] * v.kernel.iter().product::<usize>() * v.in_channels / v.groups;
        Layer::of_products(
            Kind::Convolution,
            format!("{:?} to {}", x.dims(), v.out_channels),
            "direct",
            products,
        )
    });
    let mut out = uninitialized(v.lens()[2]);
    volume::forward(isa(), &v, x.values(), values(&w), bias.as_ref().map(values), &mut out);
    let size = &v.out_size()[5 - shape.len()..];
    Image::from_values(out, v.batch, size, v.out_channels).into_tensor()
}

/// The input gradient; with a bias, the transposed convolution.
pub(super) fn convolution_input(
    dy: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    size: [usize; 3],
    o: ConvOptions<3>,
) -> FlexTensor {
    let (dy, w, bias) = (Image::new(dy), dense(weight), present(bias).map(dense));
    let shape = w.layout().shape().to_vec();
    let v = volume_of(dy.batch(), size, &shape, o);
    assert_eq!(v.out_channels, dy.channels(), "channels of a transposed convolution's input");
    let mut out = uninitialized(v.lens()[0]);
    volume::data_gradient(isa(), &v, dy.values(), values(&w), bias.as_ref().map(values), &mut out);
    Image::from_values(out, v.batch, &size[5 - shape.len()..], v.in_channels).into_tensor()
}

/// The weight gradient, in as many dimensions as the input has.
pub(super) fn convolution_weight(
    x: FlexTensor,
    dy: FlexTensor,
    kernel: [usize; 3],
    o: ConvOptions<3>,
) -> FlexTensor {
    let (x, dy) = (Image::new(x), Image::new(dy));
    let size = x.size();
    let mut shape = vec![dy.channels(), x.channels() / o.groups];
    shape.extend(&kernel[3 - size.len()..]);
    let v = volume_of(x.batch(), three(&size), &shape, o);
    let mut out = uninitialized(v.lens()[1]);
    volume::weight_gradient(isa(), &v, x.values(), dy.values(), &mut out);
    tensor(out, shape)
}
