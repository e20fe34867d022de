//! The arithmetic of networks.

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
    /// 8-bit weights in all wide layers, and 8-bit inputs of linear layers. With VNNI, so for convolutions; with `bf16`
    /// instructions, attention computes in `bf16`. Everything else is in 32 bits, narrow layers and linear layers on vectors
    /// (`[B, C]`: times, classes) too. CPU only, and not for training: gradients would belong to other weights.
    Int8,
}

impl Precision {
    /// Converts activations to the type that layers use.
    pub fn lower<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => x,
            Self::Bf16 => crate::to_bf16(x),
        }
    }

    /// Converts activations back to 32 bits.
    pub fn raise<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::F32 | Self::Int8 => x,
            Self::Bf16 => crate::to_f32(x),
        }
    }

    /// Checks that networks on this device support it. All but `f32` need the CPU.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn check(self, device: &Device) -> Result<(), String> {
        if self == Self::F32 || crate::is_cpu(device) {
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
