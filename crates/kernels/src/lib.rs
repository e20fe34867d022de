//! CPU kernels for diffusion networks on plain slices.
//!
//! Images are channels-last: `[batch, height, width, channels]`, contiguous. Every kernel is written once over
//! sixteen-lane vectors and compiled for each instruction set ([`Isa`]); tests compare each with plain `f64` loops.
//! For one instruction set, the bits of a result depend neither on the number of threads nor, for each sample, on the
//! rest of the batch.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn)]
#![allow(clippy::too_many_arguments, clippy::needless_range_loop)]

pub mod adamw;
pub mod attention;
pub mod bf16;
pub mod conv;
pub mod elementwise;
pub mod geglu;
pub mod gemm;
pub mod group_norm;
pub mod int8;
mod isa;
pub mod layer_norm;
pub mod layout;
mod linear_combination;
pub mod maps;
mod par;
pub mod peak;
mod pool;
pub mod resample;
mod simd;
mod split;
mod winograd;

pub use isa::{Isa, IsaError};
pub use linear_combination::linear_combination;
