//! The codec of mel spectrograms.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::tensor::Device;
use tweedie_models::{Codec, HostTensor, MelSpectrogram, MelSpectrogramConfig};
use tweedie_ops::{Batch, SampleShape};

fn sounds() -> Vec<Vec<f32>> {
    let tone = |f: f32| -> Vec<f32> {
        (0..5120)
            .map(|i| {
                let t = i as f32 / 8000.0;
                let swell = (t / 0.64 * std::f32::consts::PI).sin();
                swell * (0.5 * (std::f32::consts::TAU * f * t).sin() + 0.2 * (9.0 * f * t).sin())
            })
            .collect()
    };
    [220.0, 440.0, 1000.0].map(tone).to_vec()
}

fn codec() -> MelSpectrogram {
    let sounds = sounds();
    MelSpectrogram::fitted(&MelSpectrogramConfig::default(), sounds.iter().map(Vec::as_slice)).unwrap()
}

#[test]
fn sounds_come_back_with_their_spectrum() {
    let (codec, device) = (codec(), Device::flex());
    let sounds = sounds();
    let batch = Batch::from_host(sounds.concat(), 3, &[1, 5120].into(), &device);
    let encoded = codec.encode(batch).unwrap().mean;
    assert_eq!(encoded.shape().dims(), [16, 16, 16]);
    let values = encoded.to_host();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let square = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
    // Bands that are always silent have no variance.
    assert!(mean.abs() < 1e-3 && (0.3..1.01).contains(&square), "{mean} {square}");
    let decoded = codec.decode(encoded.clone()).unwrap();
    assert_eq!(decoded.shape().dims(), [1, 5120]);
    assert_eq!(decoded.to_host(), codec.decode(encoded.clone()).unwrap().to_host());
    // Rows do not depend on each other.
    let alone = codec.decode(encoded.narrow(1..2)).unwrap().to_host();
    let first = codec.decode(encoded).unwrap().to_host();
    assert_eq!(alone, first[5120..10240]);
}

#[test]
fn the_spectrum_of_a_decoded_sound_is_that_of_the_sound() {
    let device = Device::flex();
    let values = |v: f32| HostTensor { shape: vec![64], values: vec![v; 64] };
    let plain = BTreeMap::from([("mean".to_owned(), values(0.0)), ("std".to_owned(), values(1.0))]);
    let codec = MelSpectrogram::load(&MelSpectrogramConfig::default(), &plain, &device).unwrap();
    let batch = Batch::from_host(sounds().concat(), 3, &[1, 5120].into(), &device);
    let before = codec.encode(batch).unwrap().mean;
    let again = codec.encode(codec.decode(before.clone()).unwrap()).unwrap().mean.to_host();
    let before = before.to_host();
    // Logarithms within 30 dB of the loudest.
    let least = before.iter().copied().fold(f32::MIN, f32::max) - 1.5 * std::f32::consts::LN_10;
    let loud: Vec<f32> =
        before.iter().zip(again).filter(|(b, _)| **b > least).map(|(b, a)| (a - b).abs()).collect();
    let mean = loud.iter().sum::<f32>() / loud.len() as f32;
    assert!(loud.len() > 500 && mean < 0.08, "{mean} of {}", loud.len());
}

#[test]
fn files_are_checked() {
    let (codec, device) = (codec(), Device::flex());
    let config = MelSpectrogramConfig::from_json(&codec.config_json()).unwrap();
    let loaded = MelSpectrogram::load(&config, &codec.tensors(), &device).unwrap();
    assert_eq!(loaded.tensors(), codec.tensors());
    let message = |change: &dyn Fn(&mut BTreeMap<String, HostTensor>)| {
        let mut tensors = codec.tensors();
        change(&mut tensors);
        MelSpectrogram::load(&config, &tensors, &device).unwrap_err().to_string()
    };
    assert!(message(&|t| drop(t.remove("std"))).contains("`std` is missing"));
    assert!(message(&|t| t.get_mut("std").unwrap().values[3] = 0.0).contains("deviations > 0"));
    assert!(message(&|t| t.get_mut("mean").unwrap().values[3] = f32::NAN).contains("NaN"));
    let more = |t: &mut BTreeMap<String, HostTensor>| drop(t.insert("x".into(), t["std"].clone()));
    assert!(message(&more).contains("`x`"));
    for (text, part) in [
        (r#"{"bands": 63}"#, "multiple of `patch`"),
        (r#"{"bands": 200}"#, "between two frequencies"),
        (r#"{"hop": 81}"#, "even"),
        (r#"{"window": 0}"#, "window"),
        (r#"{"floor_db": 3.0}"#, "floor_db"),
    ] {
        let error = MelSpectrogramConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn wrong_shapes_are_named() {
    let (codec, device) = (codec(), Device::flex());
    let error = |shape: &[usize]| {
        let shape = SampleShape::from(shape);
        let batch = Batch::from_host(vec![0.0; shape.len()], 1, &shape, &device);
        codec.encode(batch).unwrap_err().to_string()
    };
    assert!(error(&[2, 640]).contains("mono"));
    assert!(error(&[1, 641]).contains("multiple of 320"));
    let latents = Batch::from_host(vec![0.0; 16 * 15 * 2], 1, &[16, 15, 2].into(), &device);
    assert!(codec.decode(latents).unwrap_err().to_string().contains("16×16×width"));
}
