//! The common interface of denoising networks.

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// The arithmetic of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// `bfloat16` activations with sums and norms in 32 bits; parameters and their gradients stay in 32 bits. CPU only.
    Bf16,
    /// 8-bit weights in all wide layers, also with 8-bit inputs in linear layers; everything else in 32 bits. See
    /// [`tweedie_ops::in_int8`]. For sampling on the CPU only.
    Int8,
}

impl Precision {
    /// Converts activations to the type that layers use.
    pub(crate) fn lower<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => x,
            Self::Bf16 => tweedie_ops::to_bf16(x),
        }
    }

    /// Converts activations back to 32 bits.
    pub(crate) fn raise<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => x,
            Self::Bf16 => tweedie_ops::to_f32(x),
        }
    }

    /// Runs `f` with this precision.
    pub(crate) fn run<T>(self, f: impl FnOnce() -> T) -> T {
        tweedie_ops::in_int8(self == Self::Int8, f)
    }

    /// Checks that networks on this device support it. All but `f32` need the CPU.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn check(self, device: &Device) -> Result<(), String> {
        if self == Self::F32 || tweedie_ops::is_cpu(device) {
            return Ok(());
        }
        Err(format!("precision `{self}` is only supported on the CPU; use `f32` on this device"))
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
            _ => Err(format!("unknown precision `{text}`; expected `f32`, `bf16` or `int8`")),
        }
    }
}

/// Whether a network is used for training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Inference: no dropout.
    Eval,
    /// Training: dropout masks depend on the seed, the layer and the row of the batch.
    Train {
        /// A seed that differs for every training step.
        dropout_seed: u64,
    },
}

/// A network's inputs besides the noisy sample and the time.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// One class per row.
    pub classes: Option<Vec<usize>>,
    /// A vector added to the time embedding, `[B, time embedding width]`.
    pub embedding: Option<Tensor<2>>,
    /// Text features, `[B, tokens, width]`.
    pub text: Option<Tensor<3>>,
    /// SDXL's additional conditions: pooled text features, and sizes.
    pub added: Option<Added>,
    /// The guidance scale of each row, for guidance-distilled networks.
    pub guidance: Option<Vec<f32>>,
}

/// SDXL's conditions besides the text features.
#[derive(Clone, Debug)]
pub struct Added {
    /// Pooled text features, `[B, width]`.
    pub text_embeds: Tensor<2>,
    /// For each row: height and width of the original image, top and left of the crop, height and width of the target. For
    /// the refiner: the first four and an aesthetic score.
    pub time_ids: Vec<Vec<f32>>,
}

impl Condition {
    /// A condition of one class per row.
    pub fn classes(classes: Vec<usize>) -> Self {
        Self { classes: Some(classes), ..Self::default() }
    }
}

/// An input that a network does not support.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InputError(pub String);

/// A network with a noisy sample as input.
pub trait Network {
    /// Checks inputs for [`Network::forward`]; `shape` is that of `x`.
    ///
    /// # Errors
    /// Says which input is wrong and what was expected.
    fn check(&self, shape: [usize; 4], times: &[f32], condition: &Condition) -> Result<(), InputError>;

    /// The raw output `[B, C', H, W]` for `x: [B, C, H, W]` at `times`, one per row.
    ///
    /// # Panics
    /// For inputs that [`Network::check`] rejects.
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
