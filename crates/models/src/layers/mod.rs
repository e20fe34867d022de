//! Layers in PyTorch's layout and with PyTorch's initial distributions.
//!
//! Tensor work is done by `tweedie_ops`; these structs hold parameters and call it.

mod activation;
mod basic;
mod dropout;
mod either;
mod init;

pub use activation::Activation;
pub use basic::{Conv2d, Embedding, GroupNorm, Linear};
pub use dropout::Dropout;
pub use either::Either;
pub use init::Init;
