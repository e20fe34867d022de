//! Spectra, mel filters and trimming beside librosa and torchaudio, and sound files of libsndfile.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;
use tweedie_media::{MelFilters, MelScale, Stft, decode_sound, read_sound, sounding, sounding_in};

fn golden() -> Value {
    serde_json::from_str(include_str!("goldens/sound.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn signal(length: usize) -> Vec<f32> {
    let value = |i: f64| (0.13 * i).sin() + 0.3 * (0.71 * i).cos() * (0.002 * i).sin();
    (0..length).map(|i| value(i as f64) as f32).collect()
}

#[track_caller]
fn near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let most = expected.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= 1e-5 * most, "value {i}: {f}, expected {e}");
    }
}

#[test]
fn spectra_are_those_of_librosa_and_torch() {
    let golden = golden();
    let stft = Stft::new(64, 16, 32);
    let found = stft.forward(&signal(600));
    let real: Vec<f32> = found.iter().map(|c| c.re).collect();
    let imag: Vec<f32> = found.iter().map(|c| c.im).collect();
    for name in ["stft", "torch_stft"] {
        near(&real, &numbers(&golden[name]["real"]));
        let most = real.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let expected = numbers(&golden[name]["imag"]);
        assert!(imag.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 1e-5 * most));
    }
}

#[test]
fn the_inverse_is_that_of_librosa() {
    let golden = golden();
    let [real, imag] = ["real", "imag"].map(|part| numbers(&golden["changed"][part]));
    let frames: Vec<_> =
        real.into_iter().zip(imag).map(|(re, im)| tweedie_media::Complex32 { re, im }).collect();
    near(&Stft::new(64, 16, 32).inverse(&frames, 600), &numbers(&golden["inverse"]));
}

#[test]
fn filters_are_those_of_librosa_and_torchaudio() {
    let golden = golden();
    let of = |scale, rate, count| MelFilters::new(scale, rate, 256, count).weights().to_vec();
    near(&of(MelScale::Slaney, 22_050, 24), &numbers(&golden["slaney"]));
    near(&of(MelScale::Htk, 8000, 20), &numbers(&golden["htk"]));
    near(&of(MelScale::Htk, 8000, 20), &numbers(&golden["torch_htk"]));
}

#[test]
fn silence_is_trimmed_where_librosa_trims_it() {
    let golden = golden();
    let mut loud = vec![0.0; 20_000];
    loud[5000..12_000].copy_from_slice(&signal(7000));
    loud.iter_mut().enumerate().for_each(|(i, v)| *v += 1e-4 * (i as f32).sin());
    let pair = |value: &Value| [0, 1].map(|i| value[i].as_u64().unwrap() as usize);
    for decibels in ["20", "40", "60"] {
        let found = sounding(&loud, decibels.parse().unwrap());
        assert_eq!([found.start, found.end], pair(&golden["trim"][decibels]), "{decibels}");
    }
    let found = sounding_in(&loud, 40.0, 160, 40);
    assert_eq!([found.start, found.end], pair(&golden["trim_short"]));
}

/// The sounds of `make_sounds.py`.
fn tones() -> [Vec<f64>; 2] {
    let wave = |hertz: f64, i: usize| (std::f64::consts::TAU * hertz * i as f64 / 16_000.0).sin();
    let swell = |i: usize| (std::f64::consts::PI * i as f64 / 4000.0).sin();
    [
        (0..4000).map(|i| 0.5 * wave(440.0, i) * swell(i)).collect(),
        (0..4000).map(|i| 0.25 * wave(1000.0, i)).collect(),
    ]
}

#[test]
fn files_of_every_format_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/sounds");
    for (name, error) in [
        ("tone.flac", 2e-5),
        ("tone-u8.wav", 8e-3),
        ("tone-24.wav", 1e-6),
        ("tone-32.wav", 1e-6),
        ("tone-float.wav", 1e-7),
        ("tone.ogg", 0.05),
        ("tone.mp3", 0.05),
    ] {
        let sound = read_sound(&folder.join(name)).unwrap();
        let length = if name.ends_with("wav") { 1000 } else { 4000 };
        assert_eq!((sound.rate, sound.channels.len(), sound.len()), (16_000, 2, length), "{name}");
        for (channel, expected) in sound.channels.iter().zip(tones()) {
            let far = |(f, e): (&f32, &f64)| (f64::from(*f) - e).powi(2);
            let mean = (channel.iter().zip(&expected).map(far).sum::<f64>() / length as f64).sqrt();
            assert!(mean < error, "{name}: {mean}");
        }
    }
}

#[test]
fn what_is_no_sound_is_said() {
    for (bytes, part) in [
        (&b"RIFF"[..], "invalid WAV file"),
        (b"", "not a WAV, FLAC, Ogg Vorbis, MP3 or AAC file"),
        (b"fLaC and then nothing that would be a header", "damaged, or not a WAV, FLAC"),
        (b"\x89PNG\r\n\x1a\n", "not a WAV, FLAC, Ogg Vorbis, MP3 or AAC file"),
    ] {
        let error = decode_sound(bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // Half of a file.
    let flac = include_bytes!("goldens/sounds/tone.flac");
    let error = decode_sound(&flac[..flac.len() / 2]).map(|sound| sound.len());
    assert!(error.as_ref().map_or(true, |length| *length < 4000), "{error:?}");
}

/// Ten hours are refused before they are read.
#[test]
fn very_long_sounds_are_refused() {
    let mut wav = include_bytes!("goldens/sounds/tone-float.wav").to_vec();
    let data = wav.windows(4).position(|name| name == b"data").unwrap();
    wav[data + 4..data + 8].copy_from_slice(&2_000_000_000_u32.to_le_bytes());
    let error = decode_sound(&wav).unwrap_err().to_string();
    assert!(error.contains("the limit is 4194 s"), "{error}");
}
