//! Devices, selected at run time.

use burn::tensor::Device;

/// A device that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device.
    #[error("unknown device `{name}`; expected {}", expected())]
    Unknown {
        /// The requested name.
        name: String,
    },
    /// The build does not support it.
    #[error("this build does not support the device `{name}`; build with `--features {name}`, or use `cpu`")]
    NotBuilt {
        /// The requested name.
        name: &'static str,
    },
    /// This machine does not have it, or its driver fails.
    #[error("device `{name}`: {reason}")]
    Unavailable {
        /// The requested name.
        name: String,
        /// What is missing or failed.
        reason: String,
    },
}

fn expected() -> String {
    let numbered = if cfg!(feature = "wgpu") { " or `wgpu:N`" } else { "" };
    let names: Vec<_> = devices().iter().map(|name| format!("`{name}`")).collect();
    names.join(", ") + numbered
}

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

/// The device called `name`: `cpu`, or one of those that the build's features add. `wgpu` is the fastest of the
/// [`adapters`], `wgpu:N` the one of number `N`, counted from 0.
///
/// # Errors
/// If there is no such device, or it cannot be used.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    match (name, name.strip_prefix("wgpu:").map(str::parse)) {
        ("cpu", _) => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        ("wgpu", _) => crate::wgpu::open(name, None),
        #[cfg(feature = "wgpu")]
        (_, Some(Ok(number))) => crate::wgpu::open(name, Some(number)),
        #[cfg(not(feature = "wgpu"))]
        ("wgpu", _) | (_, Some(Ok::<usize, _>(_))) => Err(DeviceError::NotBuilt { name: "wgpu" }),
        #[cfg(feature = "cuda")]
        ("cuda", _) => Ok(Device::cuda(0)),
        #[cfg(not(feature = "cuda"))]
        ("cuda", _) => Err(DeviceError::NotBuilt { name: "cuda" }),
        _ => Err(DeviceError::Unknown { name: name.into() }),
    }
}

/// A graphics card, or a program that acts as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// How it is reached: `Vulkan`, `Metal` or `DirectX 12`.
    pub backend: &'static str,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `CPU` for a program that computes on the CPU, or `other`.
    pub kind: &'static str,
    /// Name and version of its driver.
    pub driver: String,
}

/// The graphics cards that the device `wgpu` can use, in the order of their numbers. Empty if the build does not support
/// them.
pub fn adapters() -> Vec<Adapter> {
    #[cfg(feature = "wgpu")]
    return crate::wgpu::adapters();
    #[cfg(not(feature = "wgpu"))]
    Vec::new()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_can_be_done() {
        assert!(device("cpu").is_ok());
        for name in ["gpu", "cpu:0", "", "wgpu2", "wgpu:", "wgpu:x", "wgpu:-1"] {
            let error = device(name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unknown device `{name}`; expected `cpu`")), "{error}");
        }
        if cfg!(not(feature = "wgpu")) {
            let error = device("wgpu").unwrap_err().to_string();
            assert!(error.contains("build with `--features wgpu`, or use `cpu`"), "{error}");
            assert_eq!(adapters(), []);
        }
    }
}
