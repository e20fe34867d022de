//! Layers with PyTorch's layouts and initial distributions.
//!
//! `tweedie_ops` does the computations; these structs hold parameters and call it.

mod activation;
mod basic;
mod clip;
mod conv1d;
mod dropout;
mod either;
mod init;
mod norm;
mod transformer;

pub use activation::Activation;
pub use basic::{Conv2d, Embedding, GroupNorm, Linear};
pub use clip::{ClipLayer, ClipLayerSpec, Mlp, SelfAttention};
pub use conv1d::Conv1d;
pub use dropout::Dropout;
pub use either::Either;
pub use init::Init;
pub use norm::{LayerNorm, RmsNorm};
pub use transformer::{FeedForward, FeedForwardActivation, TokenAttention, Widen};

use burn::tensor::Tensor;

/// Applies an elementwise function to `[B, C, H, W]` as `[B, H, W, C]`, the layout of the CPU kernels, in which the
/// memory is dense.
pub fn channels_last(x: Tensor<4>, f: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    f(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
}
