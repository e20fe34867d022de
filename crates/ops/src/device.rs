//! Choosing where tensors live, at run time.

use burn::tensor::Device;

/// A device name that this build cannot serve.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceError {
    /// The name asked for.
    pub name: String,
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "device `{}` is not available; this build has: {}", self.name, devices().join(", "))
    }
}

impl std::error::Error for DeviceError {}

/// The names of the devices compiled into this build.
pub fn devices() -> Vec<&'static str> {
    vec![
        "cpu",
        #[cfg(feature = "wgpu")]
        "wgpu",
        #[cfg(feature = "cuda")]
        "cuda",
    ]
}

/// The device called `name`: `cpu`, or what the build's features add.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(Default::default())),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        _ => Err(DeviceError { name: name.into() }),
    }
}

/// Whether layers on this device run the CPU's kernels: they alone take `bf16` activations with `f32` weights, and
/// compute in eight bits ([`crate::in_int8`]).
pub fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// The instruction set that the CPU's kernels use: `avx512`, `avx2` or `scalar`. The environment variable
/// `TWEEDIE_ISA` asks for another one than the best: see [`check_instruction_set`].
pub fn instruction_set() -> &'static str {
    tweedie_kernels::Isa::active().name()
}

/// Whether this machine has the instruction set that `TWEEDIE_ISA` asks for, if it asks. Where it has not, kernels
/// use the best one: a program that would rather stop calls this at its start.
///
/// # Errors
/// Names the variable, its value, and what it may be here.
pub fn check_instruction_set() -> Result<(), tweedie_kernels::IsaError> {
    tweedie_kernels::Isa::wanted().map(|_| ())
}
