//! Weight files: exact round trips, and errors that name the file and the tensor.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use tweedie_hub::weights::{Precision, SafetensorsFile, write};
use tweedie_models::params::{HostTensor, TensorSource};

fn tensors() -> BTreeMap<String, HostTensor> {
    let values = vec![0.0, -0.0, 1.5, f32::MIN_POSITIVE, 2.7321234, -65504.0];
    BTreeMap::from([
        ("b.weight".to_string(), HostTensor { shape: vec![2, 3], values }),
        ("a.bias".to_string(), HostTensor { shape: vec![], values: vec![0.1] }),
        ("empty".to_string(), HostTensor { shape: vec![0, 4], values: vec![] }),
    ])
}

fn saved(dir: &Path, precision: Precision) -> std::path::PathBuf {
    let path = dir.join("w.safetensors");
    write(&path, &tensors(), precision, &BTreeMap::from([("by".into(), "test".into())])).unwrap();
    path
}

fn read_all(file: &SafetensorsFile) -> BTreeMap<String, HostTensor> {
    file.names().into_iter().map(|n| (n.clone(), file.read(&n).unwrap())).collect()
}

#[test]
fn f32_round_trips_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path(), Precision::F32);
    let file = SafetensorsFile::open(&path).unwrap();
    let bits = |t: &BTreeMap<String, HostTensor>| -> Vec<u32> {
        t.values().flat_map(|t| t.values.iter().map(|v| v.to_bits())).collect()
    };
    let back = read_all(&file);
    assert_eq!(back, tensors());
    assert_eq!(bits(&back), bits(&tensors()));
    assert_eq!(file.shape("b.weight"), Some(vec![2, 3]));
    assert_eq!(file.metadata()["format"], "pt");
    assert_eq!(file.metadata()["by"], "test");
    let first = fs::read(&path).unwrap();
    saved(dir.path(), Precision::F32);
    assert_eq!(first, fs::read(&path).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn half_precisions_round_to_nearest() {
    let dir = tempfile::tempdir().unwrap();
    for (precision, relative) in [(Precision::F16, 1.0 / 2048.0), (Precision::BF16, 1.0 / 256.0)] {
        let back = read_all(&SafetensorsFile::open(&saved(dir.path(), precision)).unwrap());
        for (name, t) in tensors() {
            for (a, b) in t.values.iter().zip(&back[&name].values) {
                assert!((a - b).abs() <= a.abs() * relative + 1e-37, "{precision:?} {a} {b}");
            }
        }
    }
}

#[test]
fn a_value_too_large_for_f16_is_an_error_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let large = BTreeMap::from([("x".to_string(), HostTensor { shape: vec![1], values: vec![7e4] })]);
    let path = dir.path().join("w.safetensors");
    let error = write(&path, &large, Precision::F16, &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("`x`") && error.contains("70000") && error.contains("F16"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn shards_are_joined_by_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let (all, none) = (tensors(), BTreeMap::new());
    let mut weight_map = serde_json::Map::new();
    for (i, (name, tensor)) in all.iter().enumerate() {
        let shard = format!("m-{i}.safetensors");
        let one = BTreeMap::from([(name.clone(), tensor.clone())]);
        write(&dir.path().join(&shard), &one, Precision::F32, &none).unwrap();
        weight_map.insert(name.clone(), shard.into());
    }
    let index = dir.path().join("m.safetensors.index.json");
    let save = |map: &serde_json::Map<String, serde_json::Value>| {
        fs::write(&index, serde_json::json!({ "metadata": {}, "weight_map": map }).to_string()).unwrap();
    };
    save(&weight_map);
    assert_eq!(read_all(&SafetensorsFile::open_in(dir.path(), "m", None).unwrap()), all);

    weight_map.insert("lost".into(), "m-0.safetensors".into());
    save(&weight_map);
    let error = SafetensorsFile::open(&index).err().unwrap().to_string();
    assert!(error.contains("m-0.safetensors") && error.contains("`lost`"), "{error}");

    weight_map.insert("lost".into(), "../../etc/passwd".into());
    save(&weight_map);
    let error = SafetensorsFile::open(&index).err().unwrap().to_string();
    assert!(error.contains("../../etc/passwd"), "{error}");
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = saved(dir.path(), Precision::F32);
    let whole = fs::read(&path).unwrap();
    let error = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let text = SafetensorsFile::open(&path).err().expect("a damaged file").to_string();
        assert!(text.contains("w.safetensors"), "{text}");
        text
    };
    assert!(error(&whole[..whole.len() - 1]).contains("truncated"));
    assert!(error(&whole[..20]).contains("header"));
    assert!(error(&[]).contains("0 bytes"));
    assert!(error(b"<html>not found</html>").contains("not a safetensors file"));
    let mut corrupt = whole.clone();
    corrupt[9] = b'!';
    assert!(error(&corrupt).contains("JSON"));
    corrupt = whole.clone();
    corrupt.push(0);
    error(&corrupt);
    // No prefix and no single damaged header byte may panic.
    for n in 0..whole.len() {
        error(&whole[..n]);
    }
    for n in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[n] ^= 0x15;
        fs::write(&path, &bytes).unwrap();
        if let Ok(file) = SafetensorsFile::open(&path) {
            file.names().iter().for_each(|n| drop(file.read(n)));
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = SafetensorsFile::open(&dir.path().join("no.safetensors")).err().unwrap().to_string();
    assert!(error.contains("no.safetensors") && error.contains("No such file"), "{error}");
    fs::write(dir.path().join("m.bin"), "pickle").unwrap();
    let error = SafetensorsFile::open_in(dir.path(), "m", None).err().unwrap().to_string();
    assert!(error.contains("m.bin") && error.contains("pickle"), "{error}");
}

#[test]
fn pickles_are_never_read_and_say_so() {
    let dir = tempfile::tempdir().unwrap();
    for (name, start) in [
        ("model.ckpt", &b"PK\x03\x04\x14\x00\x00\x00"[..]),
        ("old.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8"),
        ("short.pt", b"\x80\x04."),
        ("named.safetensors", b"PK\x03\x04"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, [start, &[0; 40]].concat()).unwrap();
        if name == "short.pt" {
            fs::write(&path, start).unwrap();
        }
        let error = SafetensorsFile::open(&path).err().unwrap().to_string();
        let words = [name, "pickle", "never read", "torch.load", "weights_only=True", ".safetensors"];
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
    // A header of 128 bytes is none.
    let path = dir.path().join("empty.safetensors");
    fs::write(&path, [&128u64.to_le_bytes()[..], format!("{:<128}", "{}").as_bytes()].concat()).unwrap();
    assert!(SafetensorsFile::open(&path).unwrap().names().is_empty());
}

#[test]
fn integers_are_read_where_they_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("i.safetensors");
    let file = |value: i64| {
        let header = r#"{"t":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        SafetensorsFile::open(&path).unwrap().read("t")
    };
    assert_eq!(file(-999).unwrap().values, [-999.0]);
    assert!(file((1 << 24) + 1).unwrap_err().contains("16777217"));
}

#[test]
fn a_file_in_memory_is_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: &'static [u8] = fs::read(saved(dir.path(), Precision::F32)).unwrap().leak();
    assert_eq!(read_all(&SafetensorsFile::from_static("built in", bytes).unwrap()), tensors());
    let error =
        SafetensorsFile::from_static("built in", &bytes[..bytes.len() - 4]).err().unwrap().to_string();
    assert!(error.contains("built in") && error.contains("truncated"), "{error}");
}

/// All values of both types, as torch converts them (`golden/make_fp8.py`).
#[test]
fn eight_bits_are_widened_as_torch_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fp8.safetensors");
    let file = SafetensorsFile::open(&path).unwrap();
    for name in ["e4m3fn", "e5m2"] {
        let (found, expected) = (file.read(name).unwrap(), file.read(&format!("{name}.f32")).unwrap());
        assert_eq!((found.shape.as_slice(), found.values.len()), (&[256][..], expected.values.len()));
        for (bits, (found, expected)) in found.values.iter().zip(&expected.values).enumerate() {
            match *expected {
                12345.0 => assert!(found.is_nan(), "{name} {bits:#x}: {found}"),
                expected => assert_eq!(found.to_bits(), expected.to_bits(), "{name} {bits:#x}"),
            }
        }
    }
}
