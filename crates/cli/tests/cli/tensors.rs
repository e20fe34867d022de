//! The safetensors format, written and read without the library under test: eight bytes of the header's
//! length, the header in JSON, the data.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

/// The tensors of a file: name, shape, data.
pub type Tensors = Vec<(String, Vec<usize>, Vec<u8>)>;

/// Shape and values.
pub type Tensor = (Vec<usize>, Vec<f32>);

/// Values in -1..1 that repeat only after a long time.
pub fn ramp(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    (shape.to_vec(), (0..count).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect())
}

/// A file of f32 tensors.
pub fn file(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
    pack(tensors.iter().map(|(n, (shape, values))| (n.to_string(), shape.clone(), bytes(values))).collect())
}

/// A file of f32 tensors given as bytes.
pub fn pack(tensors: Tensors) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets }));
        data.extend(bytes);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// All tensors of a file.
pub fn unpack(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let tensor = |(name, entry): (String, Value)| {
        assert_eq!(entry["dtype"], "F32");
        let list = |key: &str| serde_json::from_value::<Vec<usize>>(entry[key].clone()).unwrap();
        let at = list("data_offsets");
        (name, list("shape"), data[at[0]..at[1]].to_vec())
    };
    header.into_iter().filter(|(name, _)| name != "__metadata__").map(tensor).collect()
}

/// The one tensor `name` of a file that holds no other.
pub fn only(path: &Path, name: &str) -> (Vec<usize>, Vec<u8>) {
    let tensors = unpack(path);
    let [(found, shape, data)] = &tensors[..] else { panic!("{} tensors", tensors.len()) };
    assert_eq!(found, name);
    (shape.clone(), data.clone())
}

/// As values.
pub fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
