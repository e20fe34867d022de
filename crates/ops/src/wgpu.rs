//! Graphics cards through Vulkan, Metal or DirectX 12. Their drivers are found at run time.

use std::sync::{LazyLock, Mutex, PoisonError};

use burn::tensor::{
    Device, DeviceKind, try_read_sync,
    wgpu::{
        WgpuBackend, WgpuInitError,
        wgpu::{AdapterInfo, Backend, Backends, DeviceType, Instance, InstanceDescriptor},
    },
};

use crate::{Adapter, DeviceError, failure};

/// OpenGL is left out: its compute shaders are too limited.
const BACKENDS: Backends = if cfg!(target_vendor = "apple") {
    Backends::METAL
} else if cfg!(windows) {
    Backends::VULKAN.union(Backends::DX12)
} else {
    Backends::VULKAN
};

/// What Burn is asked for. On Windows, it takes Vulkan before DirectX 12.
const ASKED: WgpuBackend =
    if cfg!(any(windows, target_vendor = "apple")) { WgpuBackend::Auto } else { WgpuBackend::Vulkan };

/// All adapters of the first backend that has any, as Burn numbers them.
fn found() -> Vec<AdapterInfo> {
    static INSTANCE: LazyLock<Instance> = LazyLock::new(|| {
        let description = InstanceDescriptor::new_without_display_handle();
        Instance::new(InstanceDescriptor { backends: BACKENDS, ..description })
    });
    [Backends::VULKAN, Backends::METAL, Backends::DX12]
        .into_iter()
        .filter(|backend| BACKENDS.contains(*backend))
        .map(|backend| try_read_sync(INSTANCE.enumerate_adapters(backend)).unwrap_or_default())
        .find(|adapters| !adapters.is_empty())
        .map_or(Vec::new(), |adapters| adapters.iter().map(|adapter| adapter.get_info()).collect())
}

pub(crate) fn adapters() -> Vec<Adapter> {
    let described = |info: AdapterInfo| Adapter {
        backend: match info.backend {
            Backend::Metal => "Metal",
            Backend::Dx12 => "DirectX 12",
            _ => "Vulkan",
        },
        kind: match info.device_type {
            DeviceType::DiscreteGpu => "discrete GPU",
            DeviceType::IntegratedGpu => "integrated GPU",
            DeviceType::VirtualGpu => "virtual GPU",
            DeviceType::Cpu => "CPU",
            DeviceType::Other => "other",
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        name: info.name,
    };
    found().into_iter().map(described).collect()
}

/// How Burn calls adapter `number`: by its type, and its number among those of this type.
fn kind_of(number: usize, found: &[AdapterInfo]) -> Option<DeviceKind> {
    let kind = found.get(number)?.device_type;
    let same = found[..number].iter().filter(|info| info.device_type == kind).count();
    match kind {
        DeviceType::DiscreteGpu => Some(DeviceKind::DiscreteGpu(same)),
        DeviceType::IntegratedGpu => Some(DeviceKind::IntegratedGpu(same)),
        DeviceType::VirtualGpu => Some(DeviceKind::VirtualGpu(same)),
        DeviceType::Cpu if same == 0 => Some(DeviceKind::Cpu),
        DeviceType::Cpu | DeviceType::Other => None,
    }
}

/// Adapter `number`, or the fastest. Burn sets up each of them once in a process.
pub(crate) fn open(name: &str, number: Option<usize>) -> Result<Device, DeviceError> {
    static OPEN: Mutex<Vec<(Option<usize>, Device)>> = Mutex::new(Vec::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = open.iter().find(|(other, _)| *other == number) {
        return Ok(device.clone());
    }
    let unavailable = |reason: String| DeviceError::Unavailable { name: name.into(), reason };
    let kind = match number {
        None => DeviceKind::DefaultDevice,
        Some(number) => {
            let found = found();
            kind_of(number, &found).ok_or_else(|| match found.len() {
                0 => unavailable(MISSING.into()),
                count => unavailable(format!(
                    "there is no such adapter; `tweedie devices` lists {count}, counted from 0"
                )),
            })?
        }
    };
    failure::watch();
    let options = Device::wgpu_options().device_kind(kind).graphics_api(ASKED);
    let device = options.init().map_err(|error| match error {
        WgpuInitError::AdapterUnavailable { .. } => unavailable(MISSING.into()),
        other => unavailable(other.to_string()),
    })?;
    open.push((number, device.clone()));
    Ok(device)
}

const MISSING: &str = if cfg!(target_os = "linux") {
    "no graphics card with a Vulkan driver was found (on Debian and Ubuntu: install `mesa-vulkan-drivers`, or the driver of \
     the card's maker)"
} else {
    "no graphics card was found; install the driver of its maker"
};
