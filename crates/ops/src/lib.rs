//! Tensor operations of diffusion networks, one function each.
//!
//! Models call these functions and know no more: which kernel runs, and in which memory layout,
//! is decided here. Images are `[B, C, H, W]` by shape, whatever their strides.

mod batch;
mod device;
mod host;
pub mod reference;
mod update;

use burn::tensor::Tensor;

pub use batch::{Batch, RowNoise};
pub use burn::tensor::Device;
pub use device::{DeviceError, device, devices};
pub use host::{from_host, to_host};
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

/// 2-D convolution. `x: [B, Cin, H, W]`, `weight: [Cout, Cin/groups, kh, kw]`, `bias: [Cout]`.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, options: ConvOptions) -> Tensor<4> {
    reference::conv2d(x, weight, bias, options)
}

/// `x·weightᵀ + bias`. `x: [..., in]`, `weight: [out, in]`, `bias: [out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    reference::linear(x, weight, bias)
}

/// Group normalization over channels and pixels. `x: [B, C, H, W]` or `[B, C, T]`; `weight, bias: [C]`.
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    reference::group_norm(x, groups, weight, bias, eps)
}

/// `silu(group_norm(x))`.
pub fn group_norm_silu<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    weight: Tensor<1>,
    bias: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    reference::silu(reference::group_norm(x, groups, weight, bias, eps))
}

/// `x·sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    reference::silu(x)
}

/// `x + y`, same shapes.
pub fn add<const D: usize>(x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
    x + y
}

/// Adds one number per sample and channel. `x: [B, C, H, W]`, `shift: [B, C]`.
pub fn add_channels(x: Tensor<4>, shift: Tensor<2>) -> Tensor<4> {
    let [b, c] = shift.dims();
    x + shift.reshape([b, c, 1, 1])
}

/// `x·(1 + scale) + shift`, per sample and channel. `x: [B, C, H, W]`, `scale, shift: [B, C]`.
pub fn scale_shift_channels(x: Tensor<4>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<4> {
    let [b, c] = shift.dims();
    x * (scale.reshape([b, c, 1, 1]) + 1.0) + shift.reshape([b, c, 1, 1])
}

/// Concatenation along channels. `[B, C1, H, W]`, `[B, C2, H, W]` to `[B, C1+C2, H, W]`.
pub fn cat_channels(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    Tensor::cat(vec![x, y], 1)
}

/// Nearest-neighbour resizing to `size = [H, W]`, as PyTorch's `nearest`.
pub fn upsample_nearest2d(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    reference::upsample_nearest2d(x, size)
}

/// Mean over `k×k` windows with stride `k`; a remainder is dropped.
pub fn avg_pool2d(x: Tensor<4>, k: usize) -> Tensor<4> {
    reference::avg_pool2d(x, k)
}

/// Scaled dot-product attention without mask. `q: [B, heads, T, d]`, `k, v: [B, heads, S, d]`,
/// result `[B, heads, T, d]`. Scores are multiplied by `scale`.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, scale: f64) -> Tensor<4> {
    reference::attention(q, k, v, scale)
}
