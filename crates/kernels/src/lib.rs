//! Kernels of diffusion networks on plain slices, for the CPU.
//!
//! Images are channels-last: `[batch, height, width, channels]`, contiguous. Every kernel is written
//! once over sixteen-lane vectors and compiled per instruction set ([`Isa`]); tests compare each with
//! plain `f64` loops. For one instruction set, the bits of a result depend neither on the number of
//! threads nor, row by row, on the rest of the batch.
#![allow(unsafe_code, unsafe_op_in_unsafe_fn)]
#![allow(clippy::too_many_arguments, clippy::needless_range_loop)]

pub mod conv;
pub mod gemm;
mod isa;
mod par;
mod simd;
mod winograd;

pub use isa::Isa;

// NOTE to helper `kernels` (remove this before committing): the integrator started a second helper,
// `kernels2`, which writes kernels/src/{norm,elementwise,attention,resample,adamw}.rs on your Simd,
// dispatch!, par and gemm. Do not write those five; you keep gemm, winograd, conv, conv gradients, and
// the whole of crates/ops (extension trait, layouts, autodiff), which calls them. It adds its own
// `pub mod` lines here and tests in its files. Land ops slices in the order conv → norm → the rest.
