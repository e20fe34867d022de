//! `tweedie sample` with a model of audio.

use std::{collections::BTreeMap, fs, path::Path};

use tweedie::{
    hub::{SchedulerConfig, weights},
    media::{Audio, read_sound},
    models::{UNet1DConfig, UNet1DModel, export},
};

use crate::common::Scratch;

const RATE: u32 = 16_000;

/// Writes an untrained model of signals of 64 values.
pub fn save(folder: &Path, rate: &str, channels: usize) {
    let config = format!(
        r#"{{"sample_size": 64, "sample_rate": {rate}, "extra_in_channels": 4,
            "in_channels": {channels}, "out_channels": {channels}, "block_out_channels": [4, 32],
            "down_block_types": ["DownBlock1DNoSkip", "DownBlock1D"],
            "up_block_types": ["UpBlock1D", "UpBlock1DNoSkip"]}}"#
    );
    let config = UNet1DConfig::from_json(&config).unwrap();
    let network = UNet1DModel::new(&config, 0, &tweedie::ops::device("cpu").unwrap()).unwrap();
    let [unet, scheduler] = ["unet", "scheduler"].map(|name| folder.join(name));
    fs::create_dir_all(&unet).unwrap();
    fs::create_dir_all(&scheduler).unwrap();
    fs::write(unet.join("config.json"), config.to_json()).unwrap();
    let file = unet.join("diffusion_pytorch_model.safetensors");
    weights::write(&file, &export(&network), weights::Precision::F32, &BTreeMap::new()).unwrap();
    let text = SchedulerConfig::flow(1000, 1.0).unwrap().to_json();
    fs::write(scheduler.join("scheduler_config.json"), text).unwrap();
    let index = r#"{"_class_name": "DanceDiffusionPipeline", "unet": ["diffusers", "UNet1DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}"#;
    fs::write(folder.join("model_index.json"), index).unwrap();
}

fn read(scratch: &Scratch, name: &str) -> Audio {
    let audio = read_sound(&scratch.path(name)).unwrap();
    assert!(audio.channels.iter().flatten().any(|v| *v != audio.channels[0][0]), "{name} is silent");
    audio
}

#[test]
fn signals_are_written_as_wav_and_made_again() {
    let scratch = Scratch::new();
    save(&scratch.path("model"), &RATE.to_string(), 2);
    let sample =
        |more: &[&str]| scratch.ok(&[&["sample", "--model", "model", "--steps", "3"], more].concat());
    let ran = sample(&[]);
    assert!(ran.stdout.contains("1 signal, 3 steps") && ran.stdout.contains("tweedie.wav"), "{}", ran.told());
    let one = read(&scratch, "tweedie.wav");
    assert_eq!((one.rate, one.channels.len(), one.len()), (RATE, 2, 64));

    let ran = sample(&["-n", "3", "-o", "x.wav"]);
    assert!(ran.stdout.contains("x-0.wav\nx-1.wav\nx-2.wav"), "{}", ran.told());
    assert_eq!(read(&scratch, "x-0.wav"), one);
    assert_ne!(read(&scratch, "x-1.wav"), one);
    assert!(!scratch.path("x.wav").exists());

    sample(&["--size", "128", "-o", "long.wav"]);
    assert_eq!(read(&scratch, "long.wav").len(), 128);
    sample(&["--like", "long.wav", "-o", "again.wav"]);
    assert_eq!(scratch.read("long.wav"), scratch.read("again.wav"));
}

#[test]
fn a_missing_rate_and_clipped_values_are_said() {
    let scratch = Scratch::new();
    save(&scratch.path("model"), "null", 2);
    let ran = scratch.ok(&["sample", "--model", "model", "--steps", "1", "--quiet"]);
    // An untrained network leaves noise with a standard deviation of about 1.
    let ran = ran.says(&[
        "does not say its sample rate",
        "44100 Hz",
        "of 128 values were outside -1..1 and are clipped",
    ]);
    assert!(!ran.stderr.contains("error"), "{}", ran.told());
    assert_eq!(read(&scratch, "tweedie.wav").rate, 44_100);
}

#[test]
fn what_only_suits_images_is_an_error_before_the_work() {
    let scratch = Scratch::new();
    save(&scratch.path("model"), "null", 2);
    for (more, words) in [
        (&["-o", "x.png"][..], &["-o x.png", ".wav or .flac"][..]),
        (&["-n", "2", "-o", "no/x.wav"], &["no"]),
        (&["--filmstrip", "f.png"], &["--filmstrip is only supported for images; the model makes signals"]),
        (&["--animation", "a.gif"], &["--animation is only supported for images"]),
        (&["--singles", "all"], &["--singles is only supported for images and clips"]),
        (&["--size", "64x64"], &["size", "expected 1 number"]),
        (&["--size", "65"], &["length of 65", "multiple of 4"]),
    ] {
        scratch.fails(&[&["sample", "--model", "model", "--steps", "1"], more].concat(), words);
    }
}
