//! Cached tensors: a damaged or outdated file counts as missing.

use std::{collections::BTreeMap, path::Path};

use tweedie_models::params::{HostTensor, TensorSource};

use crate::{
    error::HubError,
    weights::{self, Precision, SafetensorsFile},
};

const SUM: &str = "crc32c";
const KEY: &str = "fingerprint";

/// Writes `tensors` with a checksum and the `fingerprint` of what they were computed from.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, fingerprint: &str, tensors: &BTreeMap<String, HostTensor>) -> Result<(), HubError> {
    let metadata = [(KEY, fingerprint.to_owned()), (SUM, sum(tensors).to_string())];
    let metadata = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    weights::write(path, tensors, Precision::F32, &metadata)
}

/// All tensors in the file at `path`; `None` if there is no such file, its fingerprint differs, or any bit of it is
/// damaged.
pub fn read(path: &Path, fingerprint: &str) -> Option<BTreeMap<String, HostTensor>> {
    let file = SafetensorsFile::open(path).ok()?;
    if file.metadata().get(KEY).map(String::as_str) != Some(fingerprint) {
        return None;
    }
    let read = |name: String| file.read(&name).ok().map(|tensor| (name, tensor));
    let tensors = file.names().into_iter().map(read).collect::<Option<BTreeMap<_, _>>>()?;
    (file.metadata().get(SUM) == Some(&sum(&tensors).to_string())).then_some(tensors)
}

/// CRC-32C of names, shapes and values.
fn sum(tensors: &BTreeMap<String, HostTensor>) -> u32 {
    let mut sum = 0;
    for (name, tensor) in tensors {
        sum = crc32c::crc32c_append(sum, format!("{name} {:?}", tensor.shape).as_bytes());
        for values in tensor.values.chunks(1 << 12) {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            sum = crc32c::crc32c_append(sum, &bytes);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_outdated_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.safetensors");
        let tensor = HostTensor { shape: vec![2, 3], values: vec![0.5, 1.0, -2.0, 0.0, 7.0, 1e-3] };
        let tensors = BTreeMap::from([("a".to_owned(), tensor)]);
        assert_eq!(read(&path, "of x"), None);
        write(&path, "of x", &tensors).unwrap();
        assert_eq!(read(&path, "of x"), Some(tensors));
        assert_eq!(read(&path, "of y"), None);
        let whole = std::fs::read(&path).unwrap();
        for byte in (0..whole.len()).rev().take(24) {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(read(&path, "of x"), None, "byte {byte}");
        }
    }
}
