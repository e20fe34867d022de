//! Convolutions in one and three dimensions, as for audio and video, and transposed ones.
//!
//! Memory is channels-last: tensors `[B, C, T]` and `[B, C, D, H, W]` are stored as `[B, T, C]` and `[B, D, H, W, C]`.
//! Inputs are not unfolded.

use burn::{backend::Dispatch, tensor::Tensor};

use crate::{
    ConvOptions, bias_or_zeros,
    engine::{self, Engine},
    reference,
};

/// The same options in three dimensions, with size 1 in the first ones.
fn lifted<const N: usize>(o: ConvOptions<N>) -> ConvOptions<3> {
    let lift = |from: [usize; N], first: usize| {
        std::array::from_fn(|i| if i + N >= 3 { from[i + N - 3] } else { first })
    };
    ConvOptions {
        stride: lift(o.stride, 1),
        pad_before: lift(o.pad_before, 0),
        pad_after: lift(o.pad_after, 0),
        dilation: lift(o.dilation, 1),
        groups: o.groups,
    }
}

macro_rules! convolution {
    ($name:ident, $rank:literal, $n:literal, $about:literal) => {
        #[doc = $about]
        ///
        /// # Panics
        /// If shapes and options do not match.
        pub fn $name(
            x: Tensor<$rank>,
            weight: Tensor<$rank>,
            bias: Option<Tensor<1>>,
            options: ConvOptions<$n>,
        ) -> Tensor<$rank> {
            if !engine::serves(&x) || !engine::serves(&weight) {
                return reference::$name(x, weight, bias, options);
            }
            let bias = bias_or_zeros(bias, &weight, weight.dims()[0]);
            let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
            Tensor::from_dispatch(Dispatch::engine_conv(x, weight, bias, lifted(options)))
        }
    };
}

convolution!(
    conv1d,
    3,
    1,
    "1-D convolution. `x: [B, Cin, T]`, `weight: [Cout, Cin/groups, k]`, `bias: [Cout]`; `[B, Cout, T']` with \
     `T' = (T + pad_before + pad_after - dilation·(k - 1) - 1) / stride + 1`, rounded down."
);
convolution!(
    conv3d,
    5,
    3,
    "3-D convolution. `x: [B, Cin, D, H, W]`, `weight: [Cout, Cin/groups, kd, kh, kw]`, `bias: \
     [Cout]`; sizes follow [`conv1d`] in each dimension. Padding before but not after the time dimension makes it causal."
);

macro_rules! transposed {
    ($name:ident, $rank:literal, $n:literal, $about:literal) => {
        #[doc = $about]
        ///
        /// # Panics
        /// If shapes and options do not match, or the padding exceeds the result.
        pub fn $name(
            x: Tensor<$rank>,
            weight: Tensor<$rank>,
            bias: Option<Tensor<1>>,
            options: ConvOptions<$n>,
            out_padding: [usize; $n],
        ) -> Tensor<$rank> {
            let (from, kernel) = (x.dims(), weight.dims());
            let size: [usize; $n] = std::array::from_fn(|i| {
                let span = (from[i + 2].max(1) - 1) * options.stride[i] + out_padding[i] + 1;
                let whole = span + options.dilation[i] * (kernel[i + 2].max(1) - 1);
                let cut = options.pad_before[i] + options.pad_after[i];
                assert!(
                    whole > cut,
                    "a transposed convolution of {from:?} by {kernel:?} has padding {cut} for a size of {whole}"
                );
                whole - cut
            });
            let fits = (0..$n).all(|i| out_padding[i] < options.stride[i]);
            assert!(fits, "out_padding {out_padding:?} must be less than the stride {:?}", options.stride);
            if !engine::serves(&x) || !engine::serves(&weight) {
                return reference::$name(x, weight, bias, options, size);
            }
            let bias = bias_or_zeros(bias, &weight, kernel[1] * options.groups);
            let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
            let size = std::array::from_fn(|i| if i + $n >= 3 { size[i + $n - 3] } else { 1 });
            Tensor::from_dispatch(Dispatch::engine_conv_input(x, weight, bias, size, lifted(options)))
        }
    };
}

transposed!(
    conv_transpose1d,
    3,
    1,
    "Transposed 1-D convolution: the input gradient of a convolution, as a layer. `x: [B, Cin, T]`, \
     `weight: [Cin, Cout/groups, k]`, `bias: [Cout]`; `[B, Cout, T']` with `T' = (T - 1)·stride + dilation·(k - 1) + 1 + \
     out_padding - pad_before - pad_after`. `out_padding` must be less than the stride."
);
transposed!(
    conv_transpose2d,
    4,
    2,
    "Transposed 2-D convolution, `[B, Cin, H, W]` with `weight: [Cin, Cout/groups, kh, kw]`; see \
     [`conv_transpose1d`]."
);
transposed!(
    conv_transpose3d,
    5,
    3,
    "Transposed 3-D convolution, `[B, Cin, D, H, W]` with `weight: [Cin, Cout/groups, kd, kh, kw]`; \
     see [`conv_transpose1d`]."
);
