//! Weights in safetensors files: an 8-byte header length, a JSON header (name → type, shape, byte range) and raw
//! little-endian values.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::Metadata};
use serde_json::{Map, Value, json};
use tweedie_models::params::{HostTensor, TensorSource};

use tweedie_ops::FileMap;
use tweedie_system::files::open;

use crate::{error::HubError, files};

/// Storage format of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits, as computed.
    #[default]
    F32,
    /// IEEE half precision, at most 65504 in magnitude.
    F16,
    /// 8 bits of significand and the range of `F32`.
    BF16,
}

/// A safetensors file, or several joined by an index, memory-mapped. Opening only reads the header.
pub struct SafetensorsFile {
    path: PathBuf,
    shards: Vec<Shard>,
    owner: BTreeMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

struct Shard {
    path: PathBuf,
    bytes: Bytes,
    header: Metadata,
    data: usize,
}

/// The content of a file or a built-in file.
enum Bytes {
    Mapped(FileMap),
    Static(&'static [u8]),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

impl SafetensorsFile {
    /// Opens `*.safetensors`, or `*.safetensors.index.json` with its shards.
    ///
    /// # Errors
    /// If a file is missing, truncated or corrupt, or lacks a tensor that the index lists.
    pub fn open(path: &Path) -> Result<Self, HubError> {
        if path.extension().is_some_and(|e| e == "json") {
            return Self::open_index(path);
        }
        Ok(Self::single(Shard::open(path)?))
    }

    /// Opens a built-in safetensors file; errors call it `name`.
    ///
    /// # Errors
    /// If it is truncated or corrupt.
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, HubError> {
        Ok(Self::single(Shard::parse(Path::new(name), Bytes::Static(bytes))?))
    }

    fn single(shard: Shard) -> Self {
        let owner = shard.header.tensors().into_keys().map(|name| (name, 0)).collect();
        let metadata = shard.header.metadata().clone().unwrap_or_default().into_iter().collect();
        Self { path: shard.path.clone(), shards: vec![shard], owner, metadata }
    }

    fn open_index(path: &Path) -> Result<Self, HubError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let index: Index = files::read_json(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let (mut shards, mut numbers, mut owner) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for (name, file) in index.weight_map {
            let number = match numbers.get(&file) {
                Some(&n) => n,
                None => {
                    if Path::new(&file).file_name() != Some(file.as_ref()) {
                        let reason = format!("`{file}` is not a file name in the same folder");
                        return Err(HubError::tensor(path, &name, reason));
                    }
                    shards.push(Shard::open(&dir.join(&file))?);
                    numbers.insert(file.clone(), shards.len() - 1);
                    shards.len() - 1
                }
            };
            let shard = &shards[number];
            if shard.header.info(&name).is_none() {
                return Err(HubError::tensor(
                    &shard.path,
                    &name,
                    "missing, but listed in the index for this file",
                ));
            }
            owner.insert(name, number);
        }
        Ok(Self { path: path.into(), shards, owner, metadata: BTreeMap::new() })
    }

    /// The path of the file or the index.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header's metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        self.owner.get(name).and_then(|&n| self.shards.get(n))
    }
}

impl TensorSource for SafetensorsFile {
    fn names(&self) -> Vec<String> {
        self.owner.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.shard(name)?.header.info(name)?.shape.clone())
    }

    fn data(&self, name: &str) -> Result<TensorData, String> {
        if let Some(shard) = self.shard(name)
            && let (Some(info), Bytes::Mapped(map)) = (shard.header.info(name), &shard.bytes)
            && info.dtype == Dtype::F32
        {
            let (start, end) = info.data_offsets;
            let range = shard.data + start..shard.data + end;
            if let Some(data) = map.floats(range, info.shape.clone()) {
                return Ok(data);
            }
        }
        self.read(name)?.into_data()
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        let found = self.shard(name).and_then(|s| Some((s, s.header.info(name)?)));
        let (shard, info) = found.ok_or_else(|| "missing".to_string())?;
        let (start, end) = info.data_offsets;
        let bytes = shard
            .bytes
            .get(shard.data + start..shard.data + end)
            .ok_or_else(|| "its values extend beyond the end of the file".to_string())?;
        let values = decode(info.dtype, bytes)?;
        Ok(HostTensor { shape: info.shape.clone(), values })
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, HubError> {
        let size = fs::metadata(path).map_err(|e| HubError::read(path, e))?;
        if size.is_dir() {
            return Err(HubError::format(path, "this is a folder, expected a safetensors file"));
        }
        let size = open(path).and_then(|file| file.metadata()).map_err(|e| HubError::read(path, e))?;
        // Mapping an empty file is an error on some systems.
        let bytes = match size.len() {
            0 => Bytes::Static(&[]),
            _ => Bytes::Mapped(FileMap::open(path).map_err(|e| HubError::read(path, e))?),
        };
        if is_pickle(&bytes) {
            return Err(HubError::pickle(path));
        }
        Self::parse(path, bytes)
    }

    fn parse(path: &Path, bytes: Bytes) -> Result<Self, HubError> {
        if bytes.len() < 8 {
            let reason = format!("too short for a safetensors file ({} bytes)", bytes.len());
            return Err(HubError::format(path, reason));
        }
        let (length, header) = SafeTensors::read_metadata(&bytes).map_err(|e| {
            let reason = match truncation(&bytes) {
                Some((need, have)) => {
                    format!("truncated: the header needs {need} bytes, the file has {have}")
                }
                None => format!("not a safetensors file: {e}"),
            };
            HubError::format(path, reason)
        })?;
        Ok(Self { path: path.into(), bytes, header, data: 8 + length })
    }
}

/// PyTorch's files are ZIP archives with a pickle, older ones a bare pickle of protocol 1 to 5. Safetensors files start
/// with a length whose higher bytes are zero.
fn is_pickle(bytes: &[u8]) -> bool {
    let bare = matches!(bytes, [0x80, 1..=5, ..]) && bytes.get(4..8).is_none_or(|high| high != [0; 4]);
    bytes.starts_with(b"PK\x03\x04") || bare
}

/// If the file is shorter than its header says, the bytes needed and present.
fn truncation(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let header = bytes.get(8..length.checked_add(8)?)?;
    let header: Map<String, Value> = serde_json::from_slice(header).ok()?;
    let ends = header.values().filter_map(|v| v.get("data_offsets")?.get(1)?.as_u64());
    let need = usize::try_from(ends.max()?).ok()?.checked_add(8 + length)?;
    (need > bytes.len()).then_some((need, bytes.len()))
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, String> {
    fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
    }
    fn whole<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i128) -> Result<Vec<f32>, String> {
        let exact = |v: i128| (v.unsigned_abs() <= 1 << 24).then_some(v as f32);
        let read = |&b: &[u8; N]| {
            let v = read(b);
            exact(v).ok_or_else(|| format!("the integer {v} has no exact 32-bit floating-point value"))
        };
        bytes.as_chunks::<N>().0.iter().map(read).collect()
    }
    Ok(match dtype {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        Dtype::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F8_E5M2 => each(bytes, |[b]: [u8; 1]| e5m2(b)),
        Dtype::F8_E4M3 => each(bytes, |[b]: [u8; 1]| e4m3fn(b)),
        Dtype::BOOL | Dtype::U8 => each(bytes, |[b]: [u8; 1]| f32::from(b)),
        Dtype::I8 => each(bytes, |b| f32::from(i8::from_le_bytes(b))),
        Dtype::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
        Dtype::I32 => whole(bytes, |b| i32::from_le_bytes(b).into())?,
        Dtype::I64 => whole(bytes, |b| i64::from_le_bytes(b).into())?,
        Dtype::U32 => whole(bytes, |b| u32::from_le_bytes(b).into())?,
        Dtype::U64 => whole(bytes, |b| u64::from_le_bytes(b).into())?,
        other => {
            return Err(format!(
                "unsupported type {other}; expected F32, F16, BF16, F64, F8_E4M3 or F8_E5M2"
            ));
        }
    })
}

/// Five exponent bits and two significand bits: the upper half of a half-precision value.
fn e5m2(bits: u8) -> f32 {
    f16::from_bits(u16::from(bits) << 8).to_f32()
}

/// Four exponent bits and three significand bits, without infinities (Micikevicius et al. 2022, arXiv:2209.05433).
fn e4m3fn(bits: u8) -> f32 {
    let (exponent, significand) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => significand * 2f32.powi(-9),
        _ => (8.0 + significand) * 2f32.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Writes tensors to a safetensors file, in the order of their names; the same tensors give the same
/// bytes. `metadata` gains `format = "pt"`, which Python's loaders ask for, unless it has a `format`.
///
/// # Errors
/// If the file cannot be written (then it does not exist), a shape does not match its values, or a finite value is too
/// large for `precision`.
pub fn write(
    path: &Path,
    tensors: &BTreeMap<String, HostTensor>,
    precision: Precision,
    metadata: &BTreeMap<String, String>,
) -> Result<(), HubError> {
    let (name_of_type, size) = match precision {
        Precision::F32 => ("F32", 4),
        Precision::F16 => ("F16", 2),
        Precision::BF16 => ("BF16", 2),
    };
    let mut entries = metadata.clone();
    entries.entry("format".into()).or_insert_with(|| "pt".into());
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!(entries));
    let mut offset = 0;
    for (name, tensor) in tensors {
        check(tensor, precision).map_err(|reason| HubError::tensor(path, name, reason))?;
        let end = offset + tensor.values.len() * size;
        let entry = json!({ "dtype": name_of_type, "shape": tensor.shape, "data_offsets": [offset, end] });
        header.insert(name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string();
    // Values start at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    files::write_atomic_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for tensor in tensors.values() {
            for &v in &tensor.values {
                match precision {
                    Precision::F32 => out.write_all(&v.to_le_bytes())?,
                    Precision::F16 => out.write_all(&f16::from_f32(v).to_le_bytes())?,
                    Precision::BF16 => out.write_all(&bf16::from_f32(v).to_le_bytes())?,
                }
            }
        }
        Ok(())
    })
}

fn check(tensor: &HostTensor, precision: Precision) -> Result<(), String> {
    let (shape, count) = (&tensor.shape, tensor.values.len());
    if shape.iter().product::<usize>() != count {
        return Err(format!("shape {shape:?} does not match {count} values"));
    }
    let overflows = |v: &&f32| match precision {
        Precision::F32 => false,
        Precision::F16 => v.is_finite() && f16::from_f32(**v).is_infinite(),
        Precision::BF16 => v.is_finite() && bf16::from_f32(**v).is_infinite(),
    };
    match tensor.values.iter().find(overflows) {
        Some(v) => Err(format!("value {v} is too large for {precision:?}")),
        None => Ok(()),
    }
}
