//! Kernels for `bfloat16` activations and weights, computing in `f32`.
//!
//! A [`Bf16`] is the upper half of an `f32`: eight bits of exponent, eight of precision (relative rounding error at
//! most 2⁻⁸). Layers read and write channels-last slices in this format. Norms, activation functions and sums are
//! computed in `f32` and rounded once, to nearest even, when they are stored.
//!
//! Products are those of the instruction `vdpbf16ps` if the machine supports it: `acc + a₁·b₁`, then `+ a₀·b₀`, each
//! rounded to nearest even, with subnormal numbers treated as zero. Other instruction sets compute the same two
//! multiply-adds in `f32` and keep subnormal numbers. The algorithm of a convolution is chosen by the layer and its
//! map size ([`conv::Algorithm::of`]), not by the batch, so a sample's bits depend neither on its batch nor on the
//! number of threads.

pub mod attention;
pub mod conv;
pub mod convert;
mod direct;
pub mod elementwise;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
mod micro;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
pub mod resample;
mod simd;
mod transform;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use half::bf16 as Bf16;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for super::Bf16 {}
}

/// Element type that a kernel may read or write: `f32` or [`Bf16`].
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    #[doc(hidden)]
    const HALF: bool;
}

impl Element for f32 {
    const HALF: bool = false;
}

impl Element for Bf16 {
    const HALF: bool = true;
}

/// What is added to a layer's sums before they are rounded and stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value per output channel, or per sample and output channel (`[batch, channels]`: a bias that includes each
    /// sample's embedding).
    pub bias: Option<&'a [f32]>,
    /// The other branch of a residual block, of the output's shape.
    pub residual: Option<&'a [Bf16]>,
}

impl<'a> Epilogue<'a> {
    /// Only a bias.
    pub fn bias(bias: &'a [f32]) -> Self {
        Self { bias: Some(bias), residual: None }
    }

    /// Number of output rows that share a bias; checks lengths for `rows` rows of `n` channels.
    fn rows_per_bias(&self, rows: usize, n: usize) -> usize {
        assert!(
            self.residual.is_none_or(|r| r.len() == rows * n),
            "the residual must have the output's shape"
        );
        let samples = self.bias.map_or(1, |b| b.len() / n.max(1));
        let fits = self.bias.is_none_or(|b| b.len() == samples * n) && rows.is_multiple_of(samples.max(1));
        assert!(
            fits && (samples > 0 || n == 0),
            "expected a bias per output channel, or per sample and output channel"
        );
        (rows / samples.max(1)).max(1)
    }
}
