//! Convolutions in one and three dimensions, and transposed ones, compared with Burn's, forward and backward.

mod common;

use burn::tensor::Tensor;
use common::compare;
use tweedie_ops::{self as ops, ConvOptions, reference};

fn options<const N: usize>(stride: [usize; N], before: [usize; N], after: [usize; N]) -> ConvOptions<N> {
    ConvOptions { stride, pad_before: before, pad_after: after, ..ConvOptions::same(0) }
}

/// The first value of every output channel.
fn bias<const D: usize>(b: Tensor<D>) -> Option<Tensor<1>> {
    let n = b.dims()[1];
    Some(b.reshape([n]))
}

#[test]
fn sequences() {
    for (x, w, o) in [
        ([2, 16, 23], [20, 16, 3], ConvOptions::same(1)),
        ([2, 5, 30], [7, 5, 8], options([4], [2], [3])),
        ([1, 12, 17], [18, 4, 3], ConvOptions { groups: 3, dilation: [2], ..options([1], [4], [0]) }),
        ([3, 1, 40], [16, 1, 10], options([5], [0], [0])),
    ] {
        compare(
            &format!("{x:?} by {w:?}"),
            [x, w, [1, w[0], 1]],
            |[x, w, b]| ops::conv1d(x, w, bias(b), o),
            |[x, w, b]| reference::conv1d(x, w, bias(b), o),
        );
    }
}

#[test]
fn volumes() {
    for (x, w, o) in [
        ([2, 12, 4, 5, 3], [16, 12, 3, 3, 3], ConvOptions::same(1)),
        ([1, 3, 5, 6, 7], [8, 3, 3, 3, 3], options([1, 2, 2], [2, 1, 1], [0, 1, 1])),
        (
            [2, 6, 3, 4, 5],
            [9, 2, 1, 3, 2],
            ConvOptions { groups: 3, ..options([1, 1, 2], [0, 1, 0], [0, 1, 1]) },
        ),
    ] {
        compare(
            &format!("{x:?} by {w:?}"),
            [x, w, [1, w[0], 1, 1, 1]],
            |[x, w, b]| ops::conv3d(x, w, bias(b), o),
            |[x, w, b]| reference::conv3d(x, w, bias(b), o),
        );
    }
}

#[test]
fn transposed() {
    // Sizes of the result, from PyTorch's `conv_transpose`.
    for (x, w, o, more, to) in [
        ([2, 16, 9], [16, 12, 4], options([2], [1], [1]), [0], 18),
        ([2, 7, 11], [7, 5, 3], options([3], [1], [0]), [2], 34),
        ([1, 12, 6], [12, 4, 5], ConvOptions { groups: 3, dilation: [2], ..options([2], [4], [4]) }, [1], 12),
    ] {
        let outputs = w[1] * o.groups;
        compare(
            &format!("{x:?} by {w:?}"),
            [x, w, [1, outputs, 1]],
            |[x, w, b]| {
                let y = ops::conv_transpose1d(x, w, bias(b), o, more);
                assert_eq!(y.dims()[1..], [outputs, to]);
                y
            },
            |[x, w, b]| reference::conv_transpose1d(x, w, bias(b), o, [to]),
        );
    }
    compare(
        "images",
        [[2, 10, 5, 4], [10, 14, 4, 3], [1, 14, 1, 1]],
        |[x, w, b]| ops::conv_transpose2d(x, w, bias(b), options([2, 1], [1, 1], [1, 0]), [1, 0]),
        |[x, w, b]| reference::conv_transpose2d(x, w, bias(b), options([2, 1], [1, 1], [1, 0]), [11, 5]),
    );
    compare(
        "volumes",
        [[1, 6, 3, 4, 2], [6, 8, 2, 3, 4], [1, 8, 1, 1, 1]],
        |[x, w, b]| ops::conv_transpose3d(x, w, bias(b), options([1, 2, 2], [0, 1, 1], [0, 1, 1]), [0, 1, 0]),
        |[x, w, b]| {
            reference::conv_transpose3d(x, w, bias(b), options([1, 2, 2], [0, 1, 1], [0, 1, 1]), [4, 8, 4])
        },
    );
}
