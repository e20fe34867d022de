//! 8-bit layers ([`Precision::Int8`]), forward only.

use burn::backend::flex::FlexTensor;
use tweedie_kernels::conv::{Algorithm, Conv, Epilogue, Input};

use super::{
    choice,
    flex::{dims, rows_layer},
    isa,
    layout::values,
    prepared,
};
use crate::{
    Precision, context,
    profile::{Layer, layer},
};

/// The narrowest layer with 8-bit weights, in channels. The first and last layers of a network are narrower; their
/// errors would appear directly in the output.
const NARROWEST: usize = 32;

fn is_wide(inputs: usize, outputs: usize) -> bool {
    inputs >= NARROWEST && outputs >= NARROWEST
}

fn is_on() -> bool {
    context::current(|c| c.precision == Precision::Int8)
}

pub(super) fn takes(c: &Conv) -> bool {
    is_on() && c.groups == 1 && is_wide(c.in_channels, c.out_channels)
}

/// Excludes vectors of times and classes: there are few, and they affect everything after them.
pub(super) fn takes_rows(x: &FlexTensor, weight: &FlexTensor) -> bool {
    let [n, k] = dims(weight);
    is_on() && x.layout().num_dims() > 2 && is_wide(k, n)
}

/// Whether attention computes in `bf16`: where the machine has instructions for it, which are twice as fast as those
/// for `f32`. Its error is a fraction of that of 8-bit layers.
pub(super) fn attends_in_bf16() -> bool {
    is_on() && isa().has_bf16()
}

pub(super) fn conv2d(c: &Conv, x: Input<'_>, weight: &FlexTensor, epilogue: Epilogue<'_>, out: &mut [f32]) {
    let is_linear = c.kernel == [1; 2] && c.stride == [1; 2] && [c.pad_before, c.pad_after] == [[0; 2]; 2];
    match x.plain().filter(|_| is_linear) {
        Some(x) => {
            let _timer = layer(|| Layer::of_conv(c, "int8", Algorithm::Direct.products(c)));
            prepared::int8_linear([c.out_channels, c.in_channels], weight).forward(x, epilogue, out);
        }
        None if isa().has_vnni() => {
            let _timer = layer(|| Layer::of_conv(c, "int8", Algorithm::Direct.products(c)));
            prepared::int8_direct(c, weight).forward(c, x, epilogue, out);
        }
        None => {
            let algorithm = Algorithm::of(c);
            let _timer = layer(|| Layer::of_conv(c, choice::name(algorithm), algorithm.products(c)));
            prepared::int8_kernels(c.out_channels, weight).forward(isa(), c, x, epilogue, out);
        }
    }
}

/// A linear layer for rows of `k` features, giving `n`.
pub(super) fn linear(
    [k, n]: [usize; 2],
    x: &FlexTensor,
    weight: &FlexTensor,
    epilogue: Epilogue<'_>,
    out: &mut [f32],
) {
    let _timer = layer(|| rows_layer([out.len() / n, k, n], "int8"));
    prepared::int8_linear([n, k], weight).forward(values::<f32>(x), epilogue, out);
}
