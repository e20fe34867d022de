//! Tensor operations of diffusion networks, one function each.
//!
//! Models only call these functions; which kernel runs in which memory layout is decided here. Images have the shape
//! `[B, C, H, W]`, with any strides.

#![allow(unsafe_code)]

mod batch;
mod context;
mod conv;
mod device;
mod dimensions;
pub mod engine;
mod failure;
mod file_map;
mod finite;
mod host;
mod memory;
mod norm;
mod precision;
pub mod profile;
pub mod reference;
mod update;
#[cfg(feature = "wgpu")]
mod wgpu;

use burn::{
    backend::Dispatch,
    tensor::{DType, FloatDType},
};
use engine::Engine;

pub use batch::{Batch, RowNoise, SampleShape};
pub use burn::tensor::{Device, Tensor};
pub use context::{ExecContext, of_primitives};
pub use conv::{Added, ConvOptions, Kernel, Maps, conv2d, conv2d_with, norm_conv2d, upsample_conv2d};
pub use device::{
    Adapter, DeviceError, adapters, check_instruction_set, device, devices, instruction_set, is_cpu,
};
pub use dimensions::{conv_transpose1d, conv_transpose2d, conv_transpose3d, conv1d, conv3d};
pub use engine::PackedWeights;
pub use failure::{DeviceFailure, failure, guarded};
pub use file_map::FileMap;
pub use finite::FiniteWatch;
pub use host::{from_host, to_host};
pub use memory::{init, set_packed_weights};
pub use norm::{Norm, group_norm, group_norm_silu, normalize};
pub use precision::Precision;
pub use update::{AdamW, adamw, adamw_averaged, lerp};

/// Rounds to `bf16`. The following layers then read and write `bf16` activations, with `f32` weights (rounded when they
/// are packed), sums and norms. Only the CPU supports this: see [`is_cpu`].
pub fn to_bf16<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::BF16)
}

/// Converts to `f32`.
pub fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, FloatDType::F32)
}

/// Converts `x` to the type of `like`, `f32` or `bf16`.
pub fn cast_like<const D: usize, const E: usize>(x: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    cast(x, FloatDType::from(like.dtype()))
}

fn cast<const D: usize>(x: Tensor<D>, to: FloatDType) -> Tensor<D> {
    if x.dtype() == DType::from(to) || !engine::takes(&x) {
        return x.cast(to);
    }
    Tensor::from_dispatch(Dispatch::engine_cast(x.into_dispatch(), to))
}

/// Zeros if a layer has no bias, so that one kernel handles both.
fn bias_or_zeros<const D: usize>(bias: Option<Tensor<1>>, like: &Tensor<D>, len: usize) -> Tensor<1> {
    bias.unwrap_or_else(|| Tensor::zeros([len], (&like.device().inner(), DType::F32)))
}

/// Represents an absent argument.
fn absent(device: &Device) -> Tensor<1> {
    Tensor::empty([0], (&device.clone().inner(), DType::F32))
}

/// `x·weightᵀ + bias`. `x: [..., in]`, `weight: [out, in]`, `bias: [out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    linear_with(x, weight, bias, None)
}

/// `x·weightᵀ + bias + residual` in one pass, with a `residual: [..., out]`.
pub fn linear_add<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Tensor<D>,
) -> Tensor<D> {
    linear_with(x, weight, bias, Some(residual))
}

fn linear_with<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let fits = residual.as_ref().is_none_or(|r| engine::takes(r) && r.dtype() == x.dtype());
    if !engine::takes(&x) || !engine::serves(&weight) || !fits {
        let y = reference::linear(x, weight, bias);
        return if let Some(residual) = residual { residual + y } else { y };
    }
    let device = x.device();
    let bias = bias_or_zeros(bias, &weight, weight.dims()[0]);
    let residual = residual.map_or_else(|| absent(&device).into_dispatch(), Tensor::into_dispatch);
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_linear(x, weight, bias, residual))
}

/// Normalization over the last dimension, then a scale and a shift: `x: [..., C]`, `weight, bias: [C]`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    if !engine::takes(&x) || !engine::serves(&weight) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_layer_norm(x, weight, bias, eps).0)
}

/// `h·gelu(g)` of rows `[h, g]` (Shazeer 2020, arXiv:2002.05202): `[..., 2·width]` to `[..., width]`.
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !engine::takes(&x) {
        return reference::geglu(x);
    }
    Tensor::from_dispatch(Dispatch::engine_geglu(x.into_dispatch()))
}

/// `x·(1 + erf(x/√2))/2` (Hendrycks & Gimpel 2016, arXiv:1606.08415).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !engine::takes(&x) {
        return reference::gelu(x);
    }
    Tensor::from_dispatch(Dispatch::engine_gelu(x.into_dispatch()))
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

/// Adds one value per sample and channel. `x: [B, C, H, W]`, `shift: [B, C]`.
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

/// Nearest-neighbour resizing to `size = [H, W]`, like PyTorch's `nearest`.
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

/// Scaled dot-product attention without mask. `q: [B, heads, T, d]`, `k, v: [B, heads, S, d]`, result
/// `[B, heads, T, d]`. Scores are multiplied by `scale`. The `T×S` matrix of scores is never stored.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    if [q.dims()[2], k.dims()[2]] == [1, 1] {
        // The only weight is 1, whatever the scores, whose gradient is zero.
        return v + (q + k).mul_scalar(0.0);
    }
    let served = engine::takes(&q) && engine::takes(&k) && engine::takes(&v);
    let fits = q.dims()[3] == v.dims()[3] && k.dims() == v.dims();
    if !served || !fits {
        return reference::attention(q, k, v, scale);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::engine_attention(q, k, v, scale))
}
