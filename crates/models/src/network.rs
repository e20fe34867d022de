//! What every denoising network has in common.

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// What a network computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// `bfloat16`, with sums and norms in 32 bits; parameters and their gradients keep 32 bits. On the CPU.
    Bf16,
    /// 32 bits, but the weights of all wide layers in eight, and in linear maps what they are multiplied with, too: see
    /// [`tweedie_ops::in_int8`]. For sampling, on the CPU.
    Int8,
}

impl Precision {
    /// Activations as layers are to read them.
    pub(crate) fn lower<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => x,
            Self::Bf16 => tweedie_ops::to_bf16(x),
        }
    }

    /// Their 32-bit form.
    pub(crate) fn raise<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => x,
            Self::Bf16 => tweedie_ops::to_f32(x),
        }
    }

    /// Runs what computes with it.
    pub(crate) fn run<T>(self, f: impl FnOnce() -> T) -> T {
        tweedie_ops::in_int8(self == Self::Int8, f)
    }

    /// Whether networks on this device compute with it: all but `f32` is the CPU's.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn check(self, device: &Device) -> Result<(), String> {
        if self == Self::F32 || tweedie_ops::is_cpu(device) {
            return Ok(());
        }
        Err(format!("{self}: only the CPU computes with it, expected f32"))
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            _ => Err(format!("`{text}`: expected `f32`, `bf16` or `int8`")),
        }
    }
}

/// Whether a network is being trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Inference: no dropout.
    Eval,
    /// Training: dropout masks depend on the seed, the layer and the row of the batch alone.
    Train {
        /// A different number for every training step.
        dropout_seed: u64,
    },
}

/// What a network is told besides the noisy sample and the time.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// One class per row.
    pub classes: Option<Vec<usize>>,
    /// Added to the time embedding, `[B, time embedding width]`.
    pub embedding: Option<Tensor<2>>,
    /// Features of a text, `[B, tokens, width]`.
    pub text: Option<Tensor<3>>,
    /// Pooled features of the text, and sizes.
    pub added: Option<Added>,
}

/// What SDXL is told besides the text.
#[derive(Clone, Debug)]
pub struct Added {
    /// Pooled features of the text, `[B, width]`.
    pub text_embeds: Tensor<2>,
    /// For each row: height and width of the original, top and left of the crop, height and width of the
    /// target; or, for its refiner, the first four and an aesthetic score.
    pub time_ids: Vec<Vec<f32>>,
}

impl Condition {
    /// One class per row, nothing else.
    pub fn classes(classes: Vec<usize>) -> Self {
        Self { classes: Some(classes), ..Self::default() }
    }
}

/// An input that a network cannot take.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InputError(pub String);

/// A network that looks at a noisy sample.
pub trait Network {
    /// Whether [`Network::forward`] takes inputs like these: `shape` is that of `x`.
    ///
    /// # Errors
    /// Says which input is wrong and what was expected.
    fn check(&self, shape: [usize; 4], times: &[f32], condition: &Condition) -> Result<(), InputError>;

    /// The raw output for `x: [B, C, H, W]` at `times`, one per row. Output `[B, C', H, W]`.
    ///
    /// # Panics
    /// On inputs that [`Network::check`] refuses.
    fn forward(&self, x: Tensor<4>, times: &[f32], condition: &Condition, mode: Mode) -> Tensor<4>;
}

impl<N: Network + ?Sized> Network for &N {
    fn check(&self, shape: [usize; 4], times: &[f32], condition: &Condition) -> Result<(), InputError> {
        (**self).check(shape, times, condition)
    }

    fn forward(&self, x: Tensor<4>, times: &[f32], condition: &Condition, mode: Mode) -> Tensor<4> {
        (**self).forward(x, times, condition, mode)
    }
}
