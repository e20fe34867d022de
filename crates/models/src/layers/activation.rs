//! Activation functions by their names in configurations.

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// An elementwise activation. Names in configurations are case-insensitive; `swish` means `silu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Activation {
    /// `x·sigmoid(x)`.
    #[default]
    Silu,
    /// `x·Φ(x)`, exact.
    Gelu,
    /// GELU with the tanh approximation.
    GeluTanh,
    /// `x·sigmoid(1.702·x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x·tanh(ln(1 + eˣ))`.
    Mish,
}

impl Activation {
    /// Applies the activation to every element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => tweedie_ops::silu(x),
            Self::Gelu => tweedie_ops::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => tweedie_ops::silu(x.mul_scalar(1.702f32)).div_scalar(1.702f32),
            Self::Relu => activation::relu(x),
            Self::Mish => activation::mish(x),
        }
    }
}

impl TryFrom<String> for Activation {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "silu" | "swish" => Ok(Self::Silu),
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu-approximate" => Ok(Self::GeluTanh),
            "quick_gelu" => Ok(Self::QuickGelu),
            "relu" => Ok(Self::Relu),
            "mish" => Ok(Self::Mish),
            _ => Err(format!(
                "unknown activation `{name}`; expected `silu`, `swish`, `gelu`, \
                            `gelu_pytorch_tanh`, `quick_gelu`, `relu` or `mish`"
            )),
        }
    }
}

impl From<Activation> for &'static str {
    fn from(a: Activation) -> Self {
        match a {
            Activation::Silu => "silu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
            Activation::QuickGelu => "quick_gelu",
            Activation::Relu => "relu",
            Activation::Mish => "mish",
        }
    }
}
