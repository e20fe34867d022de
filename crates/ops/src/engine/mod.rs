//! The CPU engine: the operations that have kernels and backward passes of their own.

mod autodiff;
mod flex;
mod half;
mod layout;
mod prepared;
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

pub(crate) use update::{adamw, lerp, linear_combination};

use crate::ConvOptions;

/// Operations on tensors of the CPU, and their gradients. Images are `[B, C, H, W]` by shape. Activations are
/// `f32` or `bf16`, and results are what their first argument is; weights, biases, what is added or multiplied
/// per channel, and the gradients of all these are `f32`.
#[backend_extension(Flex, Autodiff)]
pub trait Engine: Backend {
    /// To `f32` or to `bf16`.
    fn engine_cast(x: FloatTensor<Self>, to: FloatDType) -> FloatTensor<Self>;

    /// See [`crate::conv2d`].
    fn engine_conv2d(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        options: ConvOptions,
    ) -> FloatTensor<Self>;
    /// The convolution's input gradient; `size` is the input's.
    fn engine_conv2d_input(
        dy: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        size: [usize; 2],
        options: ConvOptions,
    ) -> FloatTensor<Self>;
    /// The convolution's weight gradient; `kernel` is the weight's size.
    fn engine_conv2d_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: [usize; 2],
        options: ConvOptions,
    ) -> FloatTensor<Self>;
    /// Sums per channel, over samples and positions: `[B, C, ...]` to `[C]`.
    fn engine_channel_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Sums per sample and channel, over positions: `[B, C, ...]` to `[B, C]`.
    fn engine_position_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// As [`Engine::engine_position_sums`], of `x·y`.
    fn engine_position_dots(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::linear`].
    fn engine_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    /// The linear map's input gradient.
    fn engine_linear_input(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The linear map's weight gradient.
    fn engine_linear_weight(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Sums over all but the last dimension.
    fn engine_row_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::group_norm`] and [`crate::group_norm_silu`]. Returns the result and the mean and
    /// reciprocal standard deviation of each group, `[B, groups]`; nothing of these for `bf16`.
    fn engine_group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// Gradients of input, weight and bias.
    #[allow(clippy::too_many_arguments)]
    fn engine_group_norm_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        rstd: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        eps: f64,
        silu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`crate::layer_norm`]. Returns the result and the mean and reciprocal standard deviation of each row.
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
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// See [`crate::geglu`].
    fn engine_geglu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of the above.
    fn engine_geglu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::silu`].
    fn engine_silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// SiLU's gradient.
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
    /// `x·(1 + scale)`: the input gradient of the above.
    fn engine_scale(x: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`crate::cat_channels`].
    fn engine_cat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Channels `first..first + count`.
    fn engine_channels(x: FloatTensor<Self>, first: usize, count: usize) -> FloatTensor<Self>;
    /// See [`crate::upsample_nearest2d`].
    fn engine_upsample(x: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self>;
    /// The gradient of the above; `size` is the input's.
    fn engine_upsample_backward(dy: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self>;
    /// See [`crate::avg_pool2d`].
    fn engine_avg_pool(x: FloatTensor<Self>, k: usize) -> FloatTensor<Self>;
    /// The gradient of the above; `size` is the input's.
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

/// Whether the engine computes with this tensor in `f32`.
pub(crate) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_here(x)
}

/// Whether the engine computes on these activations.
pub(crate) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::BF16) && is_here(x)
}

fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// The CPU tensor inside, for operations that no gradient passes through.
pub(crate) fn plain<const D: usize>(x: Tensor<D>) -> Option<FlexTensor> {
    match x.into_dispatch().kind {
        DispatchTensorKind::Flex(BackendTensor::Float(t)) => Some(t),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// Whether [`plain`] finds a tensor.
pub(crate) fn is_plain<const D: usize>(x: &Tensor<D>) -> bool {
    serves(x) && !x.device().is_autodiff()
}

/// The opposite of [`plain`].
pub(crate) fn wrap<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_dispatch(DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(x)),
        autodiff: Default::default(),
    })
}

fn isa() -> Isa {
    Isa::active()
}
