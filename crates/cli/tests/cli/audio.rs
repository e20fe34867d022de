//! `tweedie sample` with a model of audio.

use std::{collections::BTreeMap, fs, path::Path};

use tweedie::{
    hub::{SchedulerConfig, weights},
    media::{Audio, WavFormat, read_sound, write_wav},
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

/// A tone.
fn tone(hertz: f32, length: usize, rate: u32) -> Vec<f32> {
    (0..length).map(|i| 0.5 * (std::f32::consts::TAU * hertz * i as f32 / rate as f32).sin()).collect()
}

#[test]
fn waveforms_are_learned_from_a_folder_sampled_and_restored() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("mine")).unwrap();
    let save = |name: &str, channels: Vec<Vec<f32>>, rate: u32| {
        let audio = Audio { channels, rate, guessed: false };
        write_wav(&scratch.path(&format!("mine/{name}.wav")), &audio, WavFormat::Pcm16, None).unwrap();
    };
    for i in 0..6u16 {
        save(&i.to_string(), vec![tone(300.0 + 50.0 * f32::from(i), 2000, 4000)], 4000);
    }
    save("stereo", vec![tone(500.0, 4000, 8000); 2], 8000);
    save("silent", vec![vec![0.0; 900]], 4000);
    fs::write(scratch.path("mine/broken.wav"), b"RIFF and no more").unwrap();
    fs::write(scratch.path("mine/notes.txt"), "none").unwrap();
    let train = |out: &'static str, steps: &'static str| {
        let mut flags =
            vec!["train", "--preset", "waveform", "--data", "mine", "--steps", steps, "--out", out];
        for set in [
            "run.batch=2",
            "run.checkpoint_every=1",
            "run.preview_images=2",
            "run.preview_steps=2",
            "waveform.window=256",
            "model.base_channels=32",
            "model.multipliers=[1,1]",
            "model.attention_levels=[1]",
        ] {
            flags.extend(["--set", set]);
        }
        flags
    };
    scratch.ok(&train("run", "3")).says(&[
        "settings chosen from the data",
        "waveform.sample_rate = 4000",
        "1 of 9 sounds have other channels: their mean is used",
        "1 of 9 sounds have a rate of 8000 Hz: resampled to 4000 Hz",
        "1 of 9 sounds are silent: left out",
        "skipped mine/broken.wav",
    ]);
    scratch.ok(&train("again", "1"));
    scratch.ok(&[&train("again", "3")[..], &["--resume"]].concat());
    let weights = |run: &str| scratch.read(&format!("{run}/model/unet/diffusion_pytorch_model.safetensors"));
    assert_eq!(weights("run"), weights("again"));
    let sound = read_sound(&scratch.path("run/previews/step-000003/00.wav")).unwrap();
    assert_eq!((sound.rate, sound.len()), (4000, 256));

    scratch.ok(&["sample", "--model", "run/model", "--steps", "3", "-o", "x.wav"]);
    assert_eq!((read(&scratch, "x.wav").rate, read(&scratch, "x.wav").len()), (4000, 256));
    let gap = [
        "restore",
        "mine/0.wav",
        "--model",
        "run/model",
        "--gap",
        "0.1..0.11",
        "--steps",
        "2",
        "-o",
        "y.wav",
    ];
    scratch.ok(&gap);
    let (before, after) = (read(&scratch, "mine/0.wav"), read(&scratch, "y.wav"));
    assert_eq!(before.channels[0][..400], after.channels[0][..400]);
    assert_ne!(before.channels[0][400..440], after.channels[0][400..440]);
    // A run goes on from it.
    let more = [
        "train",
        "--init",
        "run/model",
        "--data",
        "mine",
        "--steps",
        "1",
        "--out",
        "more",
        "--set",
        "run.batch=2",
    ];
    scratch.ok(&more).says(&["settings chosen from the data"]);
    assert!(scratch.path("more/model/model_index.json").exists());
    scratch.fails(
        &["train", "--preset", "waveform", "--steps", "1", "--out", "no"],
        &["the folder recordings does not exist"],
    );
    scratch.fails(
        &["train", "--preset", "waveform", "--data", "emoji", "--steps", "1", "--out", "no"],
        &["data.source = emoji", "a folder of sounds"],
    );
}
