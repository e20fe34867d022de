//! Inception-v3 compared with pytorch-fid, resizing compared with clean-fid. `goldens/make_inception.py` made the files.

#![allow(clippy::unwrap_used)]

mod formula;

use std::{collections::BTreeMap, fs, path::Path};

use formula::uniform;
use tweedie_data::Image;
use tweedie_eval::extract::{ExtractError, Inception, bicubic};
use tweedie_hub::SafetensorsFile;
use tweedie_models::{HostTensor, ParamError, TensorSource};
use tweedie_ops::Device;

fn golden(name: &str) -> SafetensorsFile {
    SafetensorsFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)).unwrap()
}

fn picture(name: &str, height: usize, width: usize) -> Image {
    let value = |(i, noise): (usize, f64)| {
        let (y, x, c) = ((i / 3 / width) as f64, (i / 3 % width) as f64, (i % 3) as f64);
        let wave = (0.3 * x + c).sin() * (0.2 * y - c).cos();
        (127.5 + 80.0 * wave + 60.0 * noise).clamp(0.0, 255.0) as u8
    };
    let pixels = uniform(name, height * width * 3).enumerate().map(value).collect();
    Image { width, height, pixels }
}

/// Weights by a formula, with the shapes of pytorch-fid's network.
struct Formula(BTreeMap<String, Vec<usize>>);

impl Formula {
    fn new() -> Self {
        let mut shapes = BTreeMap::new();
        for line in include_str!("goldens/inception.txt").lines() {
            let (name, numbers) = line.split_once(' ').unwrap();
            let shape: Vec<usize> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
            let parts: &[&str] = match name.strip_suffix(".conv.weight") {
                Some(_) => &["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"],
                None => &["bias"],
            };
            let stem = name.trim_end_matches("weight").trim_end_matches("conv.");
            parts.iter().for_each(|part| drop(shapes.insert(format!("{stem}{part}"), vec![shape[0]])));
            shapes.insert(name.to_owned(), shape);
        }
        shapes.insert("Mixed_5b.branch1x1.bn.num_batches_tracked".into(), vec![]);
        Self(shapes)
    }
}

impl TensorSource for Formula {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).cloned()
    }

    fn read(&self, name: &str) -> Result<HostTensor, String> {
        let shape = self.0[name].clone();
        let bound = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt();
        let value = |u: f64| match shape.len() {
            1 if name.ends_with("running_var") => 1.0 + 0.3 * u,
            1 if name.ends_with("bn.weight") => 1.0 + 0.2 * u,
            1 => 0.1 * u,
            _ => bound * u,
        };
        let values = uniform(name, shape.iter().product()).map(|u| value(u) as f32).collect();
        Ok(HostTensor { shape, values })
    }
}

#[test]
fn resizing_is_that_of_clean_fid_bit_for_bit() {
    let file = golden("resize.safetensors");
    assert_eq!(file.names().len(), 6);
    for name in file.names() {
        let numbers: Vec<usize> = name.split(['x', 't', 'o']).filter_map(|n| n.parse().ok()).collect();
        let [height, width, to] = numbers[..] else { panic!("{name}") };
        let expected = file.read(&name).unwrap();
        let every = if to < 299 { 1 } else { 40 };
        let found = bicubic(&picture(&name, height, width), to, to);
        let rows: Vec<f32> = found.chunks_exact(3 * to).step_by(every).flatten().copied().collect();
        assert_eq!(rows.len(), expected.values.len(), "{name}");
        assert!(rows.iter().zip(&expected.values).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
}

#[test]
fn the_network_answers_as_pytorch_fid() {
    let network = Inception::load(&Formula::new(), &Device::flex()).unwrap();
    let image = picture("inception", 40, 32);
    let (features, logits) = network.answer(&[picture("other", 9, 70), image]);
    let (features, logits) = (&features[2048..], &logits[1008..]);
    let file = golden("inception.safetensors");
    for (name, found) in [("features", features), ("logits", logits)] {
        let expected = file.read(name).unwrap().values;
        let rms =
            (expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
        assert_eq!(found.len(), expected.len());
        for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
            assert!(f64::from(a - b).abs() < 1e-4 * rms, "{name} {i}: {a}, expected {b}");
        }
    }
}

#[test]
fn files_that_are_no_weights_say_why() {
    let device = Device::flex();
    let error = |source: &Formula| Inception::load(source, &device).err().unwrap();
    let mut source = Formula::new();
    source.0.insert("fc2.weight".into(), vec![1]);
    assert_eq!(error(&source), ParamError::Unused { name: "fc2.weight".into(), others: 0 });
    source.0.insert("Mixed_7a.branch3x3_1.bn.bias".into(), vec![7]);
    assert!(
        error(&source).to_string().contains("Mixed_7a.branch3x3_1.bn.bias` has shape [7], expected [192]")
    );
    source.0.remove("Conv2d_1a_3x3.bn.running_mean");
    assert!(error(&source).to_string().contains("Conv2d_1a_3x3.bn.running_mean` is missing"));

    let dir = tempfile::tempdir().unwrap();
    let opened = |name: &str, bytes: &[u8]| {
        fs::write(dir.path().join(name), bytes).unwrap();
        Inception::open(&dir.path().join(name), &device).err().unwrap()
    };
    assert!(matches!(opened("a.pth", b"PK\x03\x04 and so on"), ExtractError::Pickle(_)));
    let pickle = opened("old.pth", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9");
    assert!(pickle.to_string().contains("safetensors.torch.save_file"), "{pickle}");
    assert!(matches!(opened("b.safetensors", b"nonsense, at least eight bytes"), ExtractError::File(_)));
    let missing = Inception::open(&dir.path().join("c.safetensors"), &device).err().unwrap();
    assert!(missing.to_string().contains("c.safetensors: no such weights file"));
}
