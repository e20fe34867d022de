//! Linear maps and convolutions in 8-bit integers, and convolutions with 8-bit weights.
//!
//! A row of activations is `s·q` with integral `q` in -127..=127 and `s = max|x|/127`, made anew for every row; the
//! weights of an output channel are `s·q` with one `s` for all of them (Jacob et al. 2018, arXiv:1712.05877, without
//! zero points). In linear maps weights have `q` in -63..=63: AVX2 adds two products of an unsigned and a signed byte
//! in sixteen bits, and `2·255·63` is within them. Sums are of integers, so every instruction set has the same ones,
//! in any order.
//!
//! Convolutions take one of two ways. With VNNI, an instruction adds four products of bytes to a 32-bit sum, four
//! times the multiply-adds of `f32`: [`Direct`] convolves pixels in eight bits with weights in eight bits. Without it,
//! minimal filtering, which spares three quarters of a 3×3 kernel's multiply-adds but whose transformed inputs need
//! more than eight bits, is faster: [`Kernels`] only stores weights in eight bits and convolves in `f32`.

mod direct;
mod kernels;
mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod quantize;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use direct::Direct;
pub use kernels::Kernels;
pub use linear::Linear;

/// The largest `q` of activations, and of a convolution's weights.
const MOST: f32 = 127.0;
/// The largest `q` of a linear map's weights.
const MOST_OF_PAIRS: f32 = 63.0;
