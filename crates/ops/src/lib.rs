//! Tensor operations of diffusion networks, one function each.
//!
//! Models call these functions and know no more: which kernel runs, and in which memory layout,
//! is decided here. Images are `[B, C, H, W]` by shape, whatever their strides.

#![allow(unsafe_code)]

mod batch;
mod device;
pub mod engine;
mod file_map;
mod host;
mod memory;
pub mod reference;
mod update;

use burn::{
    backend::Dispatch,
    tensor::{DType, FloatDType},
};
use engine::Engine;

pub use batch::{Batch, RowNoise};
pub use burn::tensor::{Device, Tensor};
pub use device::{DeviceError, check_instruction_set, device, devices, has_bf16, instruction_set};
pub use file_map::FileMap;
pub use host::{from_host, to_host};
pub use memory::init;
pub use update::{AdamW, adamw, lerp};

/// Stride, padding and dilation of a 2-D convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions {
    /// Step between output pixels, for height and width.
    pub stride: [usize; 2],
    /// Zeros added before (top, left).
    pub pad_before: [usize; 2],
    /// Zeros added after (bottom, right).
    pub pad_after: [usize; 2],
    /// Distance between kernel taps.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

impl ConvOptions {
    /// Stride 1, `padding` on all sides.
    pub fn same(padding: usize) -> Self {
        Self::strided(1, padding)
    }

    /// The same stride and padding in both directions.
    pub fn strided(stride: usize, padding: usize) -> Self {
        Self {
            stride: [stride; 2],
            pad_before: [padding; 2],
            pad_after: [padding; 2],
            dilation: [1; 2],
            groups: 1,
        }
    }
}

/// The same numbers rounded to `bf16`. From here on layers read and write `bf16` activations, with `f32` weights
/// (rounded as they are read), sums and norms. The CPU alone does so: see [`has_bf16`].
pub fn to_bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::BF16)
}

/// The same numbers in `f32`.
pub fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::F32)
}

/// `x` in the type of `like`, one of these two.
pub fn cast_like<const D: usize, const E: usize>(x: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    cast(x, FloatDType::from(like.dtype()))
}

fn cast<const D: usize>(x: Tensor<D>, to: FloatDType) -> Tensor<D> {
    if x.dtype() == DType::from(to) || !engine::takes(&x) {
        return x.cast(to);
    }
    Tensor::from_dispatch(Dispatch::engine_cast(x.into_dispatch(), to))
}

/// Zeros where a layer has no bias: one kernel serves both.
fn bias_or_zeros<const D: usize>(bias: Option<Tensor<1>>, like: &Tensor<D>, len: usize) -> Tensor<1> {
    bias.unwrap_or_else(|| Tensor::zeros([len], (&like.device().inner(), DType::F32)))
}

/// 2-D convolution. `x: [B, Cin, H, W]`, `weight: [Cout, Cin/groups, kh, kw]`, `bias: [Cout]`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: ConvOptions) -> Tensor<4> {
    if !engine::takes(&x) || !engine::serves(&weight) {
        return reference::conv2d(x, weight, bias, options);
    }
    let bias = bias_or_zeros(bias, &weight, weight.dims()[0]);
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_conv2d(x, weight, bias, options))
}

/// `x·weightᵀ + bias`. `x: [..., in]`, `weight: [out, in]`, `bias: [out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if !engine::takes(&x) || !engine::serves(&weight) {
        return reference::linear(x, weight, bias);
    }
    let bias = bias_or_zeros(bias, &weight, weight.dims()[0]);
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_linear(x, weight, bias))
}

/// Group normalization over channels and positions. `x: [B, C, H, W]` or `[B, C, T]`; `weight, bias: [C]`.
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    norm(x, groups, weight, bias, eps, false)
}

/// `silu(group_norm(x))`.
pub fn group_norm_silu<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    norm(x, groups, weight, bias, eps, true)
}

fn norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
    silu: bool,
) -> Tensor<D> {
    if D < 3 || !engine::takes(&x) || !engine::serves(&weight) {
        let y = reference::group_norm(x, groups, weight, bias, eps);
        return if silu { reference::silu(y) } else { y };
    }
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_group_norm(x, weight, bias, groups, eps, silu).0)
}

/// Normalization over the last dimension, then a scale and a shift: `x: [..., C]`, `weight, bias: [C]`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    if !engine::serves(&x) || !engine::serves(&weight) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_layer_norm(x, weight, bias, eps).0)
}

/// `h·gelu(g)` of rows `[h, g]` (Shazeer 2020, arXiv:2002.05202): `[..., 2·width]` to `[..., width]`.
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !engine::serves(&x) {
        return reference::geglu(x);
    }
    Tensor::from_dispatch(Dispatch::engine_geglu(x.into_dispatch()))
}

/// `x·sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !engine::takes(&x) {
        return reference::silu(x);
    }
    Tensor::from_dispatch(Dispatch::engine_silu(x.into_dispatch()))
}

/// `x + y`, same shapes.
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    if !engine::takes(&x) || !engine::takes(&y) || x.dims() != y.dims() {
        return x + y;
    }
    Tensor::from_dispatch(Dispatch::engine_add(x.into_dispatch(), y.into_dispatch()))
}

/// Adds one number per sample and channel. `x: [B, C, H, W]`, `shift: [B, C]`.
pub fn add_channels(x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
    if !engine::takes(&x) || !engine::serves(&shift) || x.dims()[..2] != shift.dims() {
        return reference::add_channels(x, shift);
    }
    Tensor::from_dispatch(Dispatch::engine_add_channels(x.into_dispatch(), shift.into_dispatch()))
}

/// `x·(1 + scale) + shift`, per sample and channel. `x: [B, C, H, W]`, `scale, shift: [B, C]`.
pub fn scale_shift_channels(x: Tensor<4>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<4> {
    let served = engine::takes(&x) && engine::serves(&scale) && engine::serves(&shift);
    if !served || x.dims()[..2] != shift.dims() || scale.dims() != shift.dims() {
        return reference::scale_shift_channels(x, scale, shift);
    }
    let (x, scale, shift) = (x.into_dispatch(), scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_scale_shift(x, scale, shift))
}

/// Concatenation along channels. `[B, C1, H, W]`, `[B, C2, H, W]` to `[B, C1+C2, H, W]`.
pub fn cat_channels(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    if !engine::takes(&x) || !engine::takes(&y) {
        return Tensor::cat(vec![x, y], 1);
    }
    Tensor::from_dispatch(Dispatch::engine_cat(x.into_dispatch(), y.into_dispatch()))
}

/// Nearest-neighbour resizing to `size = [H, W]`, as PyTorch's `nearest`.
pub fn upsample_nearest2d(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    if !engine::takes(&x) {
        return reference::upsample_nearest2d(x, size);
    }
    Tensor::from_dispatch(Dispatch::engine_upsample(x.into_dispatch(), size))
}

/// Mean over `k×k` windows with stride `k`; a remainder is dropped.
pub fn avg_pool2d(x: Tensor<4>, k: usize) -> Tensor<4> {
    if !engine::takes(&x) {
        return reference::avg_pool2d(x, k);
    }
    Tensor::from_dispatch(Dispatch::engine_avg_pool(x.into_dispatch(), k))
}

/// Scaled dot-product attention without mask. `q: [B, heads, T, d]`, `k, v: [B, heads, S, d]`,
/// result `[B, heads, T, d]`. Scores are multiplied by `scale`. No `T×S` matrix is kept.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    let served = engine::takes(&q) && engine::takes(&k) && engine::takes(&v);
    let fits = q.dims()[3] == v.dims()[3] && k.dims() == v.dims();
    if !served || !fits {
        return reference::attention(q, k, v, scale);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_attention(q, k, v, scale))
}
