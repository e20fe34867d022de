//! Devices, selected at run time.

use burn::tensor::Device;

/// A device that this build does not support.
#[derive(Debug, PartialEq, Eq)]
pub struct DeviceError {
    /// The requested name.
    pub name: String,
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unknown device `{}`; this build supports: {}", self.name, devices().join(", "))
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

/// The device called `name`: `cpu`, or one of those that the build's features add.
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

/// Whether layers on this device use the CPU kernels. Only those support `bf16` activations with `f32` weights and
/// 8-bit weights ([`crate::Precision::Int8`]).
pub fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
}

/// The instruction set of the CPU kernels: `avx512`, `avx2`, `neon` or `scalar`. The environment variable `TWEEDIE_ISA`
/// selects another one than the best; see [`check_instruction_set`].
pub fn instruction_set() -> &'static str {
    tweedie_kernels::Isa::active().name()
}

/// Checks that this machine supports the instruction set in `TWEEDIE_ISA`, if that is set. If it does not, kernels use
/// the best one, so programs that should stop instead call this at their start.
///
/// # Errors
/// Names the variable, its value and the supported values.
pub fn check_instruction_set() -> Result<(), tweedie_kernels::IsaError> {
    tweedie_kernels::Isa::wanted().map(|_| ())
}
