//! Linear maps in integers of eight bits, and convolutions with weights of eight bits.
//!
//! A row of activations is `s·q` with integral `q` in -127..=127 and `s = max|x|/127`, made anew for every row; the
//! weights of an output channel are `s·q` with one `s` for all of them (Jacob et al. 2018, arXiv:1712.05877, without
//! zero points). In linear maps weights have `q` in -63..=63: AVX2 adds two products of an unsigned and a signed byte
//! in sixteen bits, and `2·255·63` is within them. Sums are of integers, so every instruction set has the same ones,
//! in any order.
//!
//! A 3×3 convolution has a quarter of its multiplications by minimal filtering, more than integers of eight bits save,
//! and transformed inputs need more than eight bits. So [`Kernels`] only hold weights in eight bits, a fourth of the
//! memory, and convolve in `f32`.

mod kernels;
mod linear;
#[cfg(target_arch = "aarch64")]
mod neon;
mod quantize;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernels::Kernels;
pub use linear::Linear;

/// The largest `q` of activations, and of a convolution's weights.
const MOST: f32 = 127.0;
/// The largest `q` of a linear map's weights.
const MOST_OF_PAIRS: f32 = 63.0;
