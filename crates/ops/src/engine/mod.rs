//! The CPU engine: operations with their own kernels and backward passes.

mod autodiff;
mod choice;
mod conv;
mod elementwise;
mod flex;
mod half;
mod int8;
mod layout;
mod norm;
mod prepared;
mod resample;
mod steps;
mod tokens;
mod update;

use burn::{
    backend::flex::FlexTensor,
    backend::{
        Backend, BackendTensor, DispatchTensor, DispatchTensorKind, backend_extension, tensor::FloatTensor,
    },
    tensor::{DType, FloatDType, Tensor},
};
use tweedie_kernels::Isa;

pub(crate) use update::{adamw, adamw_averaged, is_finite, lerp, linear_combination};

use crate::{ConvOptions, context};

/// Settings of a group normalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOptions {
    /// Number of channel groups.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// Whether SiLU follows.
    pub silu: bool,
    /// Whether the gradient recomputes the result instead of storing it.
    pub recompute: bool,
}

/// CPU operations and their gradients. Images have the shape `[B, C, H, W]`. Activations are `f32` or `bf16`, and
/// results have the type of the first argument; weights, biases, per-channel values and the gradients of all these are
/// `f32`. A tensor without elements represents an absent argument.
#[backend_extension(Flex, Autodiff)]
pub trait Engine: Backend {
    /// An absent argument on the device of `like`.
    fn engine_absent(like: FloatTensor<Self>) -> FloatTensor<Self>;
    /// To `f32` or to `bf16`.
    fn engine_cast(x: FloatTensor<Self>, to: FloatDType) -> FloatTensor<Self>;

    /// See [`crate::conv2d_with`]. `y` holds channels that follow those of `x`; with `doubled`, both are upsampled by 2.
    /// `y`, `shift` and `residual` may be absent.
    #[allow(clippy::too_many_arguments)]
    fn engine_conv2d(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        options: ConvOptions,
        doubled: bool,
    ) -> FloatTensor<Self>;
    /// The gradient of some input channels, `channels = [first, count]`. `size` is the size of the convolution's input,
    /// twice the result's if that is `doubled`.
    fn engine_conv2d_input(
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        size: [usize; 2],
        channels: [usize; 2],
        options: ConvOptions,
        doubled: bool,
    ) -> FloatTensor<Self>;
    /// The convolution's weight gradient; `kernel` is the weight's size. `y` may be absent.
    fn engine_conv2d_weight(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 2],
        options: ConvOptions,
        doubled: bool,
    ) -> FloatTensor<Self>;
    /// See [`crate::norm_conv2d`]. All but `x`, `weight`, `bias` and the parameters of the norm may be absent.
    #[allow(clippy::too_many_arguments)]
    fn engine_norm_conv2d(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        norm_weight: FloatTensor<Self>,
        norm_bias: FloatTensor<Self>,
        norm_scale: FloatTensor<Self>,
        norm_shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        norm: NormOptions,
        options: ConvOptions,
    ) -> FloatTensor<Self>;
    /// See [`crate::conv1d`] and [`crate::conv3d`].
    fn engine_conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions<3>,
    ) -> FloatTensor<Self>;
    /// The input gradient of [`Engine::engine_conv`] with input size `size`, and a bias that may be absent: the transposed
    /// convolution.
    fn engine_conv_input(
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        size: [usize; 3],
        options: ConvOptions<3>,
    ) -> FloatTensor<Self>;
    /// The weight gradient of [`Engine::engine_conv`]; `kernel` is the weight's size.
    fn engine_conv_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 3],
        options: ConvOptions<3>,
    ) -> FloatTensor<Self>;
    /// Sums per channel, over samples and positions: `[B, C, ...]` to `[C]`.
    fn engine_channel_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Sums per sample and channel, over positions: `[B, C, ...]` to `[B, C]`.
    fn engine_position_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Like [`Engine::engine_position_sums`], for `x·y`.
    fn engine_position_dots(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::linear_add`]; `residual` may be absent.
    fn engine_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// The input gradient of [`Engine::engine_linear`].
    fn engine_linear_input(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The weight gradient of [`Engine::engine_linear`].
    fn engine_linear_weight(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Sums over all but the last dimension.
    fn engine_row_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::group_norm`] and [`crate::group_norm_silu`]; `y` (channels that follow those of `x`), `scale` and
    /// `shift` may be absent. Returns the result, and the mean and reciprocal standard deviation of each group,
    /// `[B, groups]`, which are absent for `bf16`.
    fn engine_group_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        norm: NormOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of both inputs, weight, bias, scale and shift, as far as they are present.
    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn engine_group_norm_backward(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        norm: NormOptions,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// See [`crate::layer_norm`]. Returns the result, and the mean and reciprocal standard deviation of each row, which are
    /// absent for `bf16`.
    fn engine_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of input, weight and bias.
    fn engine_layer_norm_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`crate::geglu`].
    fn engine_geglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of [`Engine::engine_geglu`].
    fn engine_geglu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::gelu`].
    fn engine_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of [`Engine::engine_gelu`].
    fn engine_gelu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::silu`].
    fn engine_silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of [`Engine::engine_silu`].
    fn engine_silu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::add`].
    fn engine_add(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::add_channels`].
    fn engine_add_channels(x: FloatTensor<Self>, shift: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`crate::scale_shift_channels`].
    fn engine_scale_shift(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// `x·(1 + scale)`: the input gradient of [`Engine::engine_scale_shift`].
    fn engine_scale(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::cat_channels`].
    fn engine_cat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Channels `first..first + count`.
    fn engine_channels(x: FloatTensor<Self>, first: usize, count: usize) -> FloatTensor<Self>;
    /// See [`crate::upsample_nearest2d`].
    fn engine_upsample(x: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self>;
    /// The gradient of [`Engine::engine_upsample`]; `size` is the input's.
    fn engine_upsample_backward(dy: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self>;
    /// See [`crate::avg_pool2d`].
    fn engine_avg_pool(x: FloatTensor<Self>, k: usize) -> FloatTensor<Self>;
    /// The gradient of [`Engine::engine_avg_pool`]; `size` is the input's.
    fn engine_avg_pool_backward(dy: FloatTensor<Self>, k: usize, size: [usize; 2]) -> FloatTensor<Self>;

    /// See [`crate::attention`].
    fn engine_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
    /// Gradients of queries, keys and values.
    fn engine_attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

pub use prepared::PackedWeights;
pub(crate) use prepared::set_limit as set_packed_limit;

/// Whether the engine supports this tensor, in `f32`.
pub(crate) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_here(x)
}

/// Whether the engine supports these activations.
pub(crate) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::BF16) && is_here(x)
}

fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    !context::is_of_primitives()
        && matches!(x.device().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// The CPU tensor, for operations without gradients.
pub(crate) fn plain<const D: usize>(x: Tensor<D>) -> Option<FlexTensor> {
    match x.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(t)) => Some(t),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// Whether [`plain`] returns a tensor.
pub(crate) fn is_plain<const D: usize>(x: &Tensor<D>) -> bool {
    serves(x) && !x.device().is_autodiff()
}

/// The inverse of [`plain`].
pub(crate) fn wrap<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(x)),
        autodiff: Default::default(),
    })
}

fn isa() -> Isa {
    Isa::active()
}
