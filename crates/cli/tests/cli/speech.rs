//! Sounds: a folder of recordings is described, learned, and spoken.

use std::{fs, io::Read, path::Path};

use tweedie::media::{Audio, WavFormat, read_sound, write_wav};

use crate::common::{Scratch, program};

const RATE: u32 = 8000;
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/spoken-digits");

/// A tone with silence around it.
fn tone(hertz: f32, seconds: f32) -> Vec<f32> {
    let silence = vec![0.0; 400];
    let sound = (0..(seconds * RATE as f32) as usize)
        .map(|i| 0.5 * (std::f32::consts::TAU * hertz * i as f32 / RATE as f32).sin());
    silence.iter().copied().chain(sound).chain(silence.iter().copied()).collect()
}

fn save(folder: &Path, name: &str, channels: Vec<Vec<f32>>, rate: u32, text: &str) {
    fs::create_dir_all(folder).unwrap();
    let audio = Audio { channels, rate, guessed: false };
    write_wav(&folder.join(format!("{name}.wav")), &audio, WavFormat::Pcm16, None).unwrap();
    fs::write(folder.join(format!("{name}.txt")), text).unwrap();
}

/// Two speakers say two words, four times each; and what is not as it should be.
fn recordings(folder: &Path) {
    for (speaker, factor) in [("ann", 1.5), ("bob", 1.0)] {
        for take in 0..4 {
            for (word, hertz) in [("low", 300.0), ("high", 900.0)] {
                let values = tone(factor * hertz + 10.0 * take as f32, 0.1);
                save(&folder.join(speaker), &format!("{word}-{take}"), vec![values], RATE, word);
            }
        }
    }
    save(&folder.join("ann"), "long", vec![tone(300.0, 2.0)], RATE, "low");
    save(&folder.join("ann"), "silent", vec![vec![0.0; 800]], RATE, "low");
    save(&folder.join("bob"), "stereo", vec![tone(600.0, 0.1); 2], 2 * RATE, "high");
    fs::write(folder.join("bob/broken.wav"), b"RIFF and no more").unwrap();
    fs::write(folder.join("bob/broken.txt"), "low").unwrap();
}

const SMALL: [&str; 21] = [
    "--set",
    "run.batch=3",
    "--set",
    "model.base_channels=8",
    "--set",
    "model.norm_groups=4",
    "--set",
    "model.head_channels=8",
    "--set",
    "text.width=16",
    "--set",
    "text.heads=2",
    "--set",
    "sound.seconds=0.16",
    "--set",
    "run.checkpoint_every=2",
    "--set",
    "run.preview_every=4",
    "--set",
    "run.preview_images=3",
    "--quiet",
];

fn train<'a>(out: &'a str, steps: &'a str) -> Vec<&'a str> {
    let flags = ["train", "--preset", "speech", "--data", "mine", "--out", out, "--steps", steps];
    [&flags[..], &SMALL, &["--set", "learning_rate.decay=constant"]].concat()
}

fn sample<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["sample", "--model", "run/model", "--steps", "2"], more].concat()
}

fn speech<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["train", "--preset", "speech", "--steps", "1", "--quiet", "--out", "run"], more].concat()
}

#[test]
fn recordings_are_learned_and_spoken() {
    let scratch = Scratch::new();
    recordings(&scratch.path("mine"));
    scratch.ok(&train("run", "4")).says(&[
        "1 of 20 sounds have several channels: their mean is used",
        "1 of 20 sounds have a rate of 16000 Hz: resampled to 8000 Hz",
        "1 of 20 sounds are silent: left out",
        "1 of 20 sounds are longer than 0.16 s",
        "skipped mine/bob/broken.wav",
    ]);
    // An interrupted run ends with the same bits.
    scratch.ok(&train("again", "2"));
    scratch.ok(&[&train("again", "4")[..], &["--resume"]].concat());
    let weights = |run: &str| scratch.read(&format!("{run}/model/unet/diffusion_pytorch_model.safetensors"));
    assert_eq!(weights("run"), weights("again"));
    assert!(scratch.path("run/previews/step-000004.png").exists());
    assert_eq!(read_sound(&scratch.path("run/previews/step-000004/02.wav")).unwrap().len(), 1280);

    let ran = scratch.ok(&sample(&["--prompt", "low, high low", "--voice", "bob", "-o", "x.wav"]));
    assert!(ran.stdout.contains("1 signal"), "{}", ran.told());
    let sound = read_sound(&scratch.path("x.wav")).unwrap();
    assert_eq!((sound.rate, sound.channels.len()), (RATE, 1));
    assert!(sound.seconds() > 0.3, "{}", sound.seconds());
    scratch.ok(&["sample", "--model", "run/model", "--like", "x.wav", "-o", "y.wav"]);
    assert_eq!(scratch.read("x.wav"), scratch.read("y.wav"));
    let ran = scratch.ok(&sample(&["--prompt", "high", "-n", "2", "-o", "z.wav"]));
    ran.says(&["voice: ann; --voice selects one of ann, bob"]);
    assert!(scratch.path("z-1.wav").exists());

    scratch.fails(&sample(&["--prompt", "low", "--voice", "eve"]), &["`voice`", "`eve`", "ann, bob"]);
    scratch.fails(&sample(&["--prompt", "middle"]), &["the word `middle`", "it knows high, low"]);
    scratch.fails(&sample(&["--prompt", "low", "--size", "999"]), &["999 values", "multiples of 320"]);
    scratch.fails(&sample(&["--prompt", "low", "-o", "x.png"]), &[".wav"]);
    scratch.fails(&["sample", "--prompt", "cat", "--voice", "bob"], &["does not speak"]);
    let info = scratch.ok(&["info", "run/model"]);
    assert!(info.stdout.contains("MelSpectrogram") && info.stdout.contains("ann, bob"), "{}", info.told());
    scratch.ok(&["convert", "--model", "run/model", "--precision", "f16", "--out", "small"]);
    scratch.ok(&["sample", "--model", "small", "--steps", "2", "--prompt", "low", "-o", "w.wav"]);
}

#[test]
fn folders_of_sounds_are_described() {
    let scratch = Scratch::new();
    recordings(&scratch.path("mine"));
    let ran = scratch.ok(&["data", "mine", "-o", "sheet.png", "-n", "4"]);
    for part in [
        "19 sounds",
        "18 of 8000 Hz, 1 of 16000 Hz",
        "18 mono, 1 stereo",
        "1 silent: ann/silent.wav",
        "20 of 20 sounds with a text",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.told());
    }
    assert!(ran.stderr.contains("skipped mine/bob/broken.wav"), "{}", ran.told());
    // Two columns and rows of 96×64 pixels, with gaps of 4.
    assert_eq!(scratch.read("sheet.png")[16..24], [0, 0, 0, 204, 0, 0, 0, 140]);
}

#[test]
fn what_cannot_be_learned_is_said() {
    let scratch = Scratch::new();
    scratch.fails(&speech(&["--data", "emoji"]), &["data.source = emoji", "a folder of sounds"]);
    scratch.fails(&speech(&["--data", "none"]), &["the folder none does not exist"]);
    save(&scratch.path("silent"), "a", vec![vec![0.0; 800]], RATE, "low");
    scratch.fails(&speech(&["--data", "silent"]), &["recordings to train on"]);
    save(&scratch.path("mute"), "a", vec![tone(300.0, 0.1)], RATE, "low");
    fs::remove_file(scratch.path("mute/a.txt")).unwrap();
    scratch.fails(&speech(&["--data", "mute"]), &["1 of 1 sounds have no caption", "a.wav"]);
    for (key, part) in [
        ("sound.seconds=0", "sound.seconds = 0"),
        ("sound.silence_db=-1", "sound.silence_db = -1"),
        ("sound.codec.bands=63", "multiple of `patch`"),
        ("augment.flip=0.5", "[augment]"),
        ("data.size=64", "data.size = given"),
    ] {
        scratch.fails(&speech(&["--data", "silent", "--set", key]), &[part]);
    }
}

/// The model of the repository: three words, louder in their middle than between them.
#[test]
fn the_shipped_model_speaks() {
    let scratch = Scratch::new();
    scratch.ok(&["sample", "--model", MODEL, "--prompt", "314", "--voice", "theo", "-o", "pi.wav"]);
    let sound = read_sound(&scratch.path("pi.wav")).unwrap();
    assert_eq!(sound.rate, RATE);
    // Pauses are exact zeros.
    let words: Vec<&[f32]> = sound.channels[0].split(|v| *v == 0.0).filter(|part| part.len() > 400).collect();
    let zeros = sound.channels[0].split(|v| *v != 0.0).filter(|part| part.len() >= 480).count();
    assert!(zeros == 2 && words.len() >= 3, "{zeros} pauses, {} parts", words.len());
    assert!((0.8..2.2).contains(&sound.seconds()), "{}", sound.seconds());
}

/// The samples of a WAV file.
fn samples(wav: &[u8]) -> &[u8] {
    let start = wav.windows(4).position(|four| four == b"data").unwrap() + 8;
    let length = u32::from_le_bytes(wav[start - 4..start].try_into().unwrap()) as usize;
    &wav[start..(start + length).min(wav.len())]
}

#[test]
fn a_text_goes_to_standard_output_while_it_is_made() {
    let scratch = Scratch::new();
    let text = "three one four, one five nine. two six five three five eight 979323846264";
    let flags = ["sample", "--model", MODEL, "--prompt", text, "--voice", "theo", "--steps", "2", "-o"];
    scratch.ok(&[&flags[..], &["pi.wav"]].concat());
    let whole = scratch.read("pi.wav");
    let mut child = program(&scratch.path(""), &[&flags[..], &["-"]].concat()).spawn().unwrap();
    // The first words come before the last ones are made: they are in the pipe before the program has ended.
    let mut stdout = child.stdout.take().unwrap();
    let mut first = vec![0; 44 + 2000];
    stdout.read_exact(&mut first).unwrap();
    let running = child.try_wait().unwrap().is_none();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success() && running, "{said}");
    assert!(said.contains("s of sound in") && said.contains("the first part after"), "{said}");
    let stream = [first, rest].concat();
    assert_eq!(&stream[..4], b"RIFF");
    assert_eq!((&stream[20..36], &stream[40..44]), (&whole[20..36], &[0xff; 4][..]));
    assert!(samples(&stream) == samples(&whole));

    // A reader that goes away is told.
    let mut child = program(&scratch.path(""), &[&flags[..], &["-"]].concat()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("before the sound was whole"), "{said}");

    let fails = |more: &[&str], words: &[&str]| scratch.fails(&[&flags[..], &["-"], more].concat(), words);
    fails(&["-n", "2"], &["-o -", "only one sound"]);
    fails(&["--loudness", "-16"], &["-o -", "`loudness`", "whole sound"]);
    fails(&["--save-tensors", "x.safetensors"], &["--save-tensors cannot be combined with -o -"]);
    let told = scratch.run(&[&flags[..], &["-", "--json"]].concat());
    assert!(
        told.code == Some(1) && told.stdout.contains("--json writes to standard output"),
        "{}",
        told.told()
    );
    scratch.fails(&["sample", "-o", "-"], &["-o -", "only the sound of a model that speaks"]);
}

/// Two of the model's words by two of its voices are compared with tones, which they are not.
#[test]
fn sounds_are_evaluated_as_spectrograms() {
    let scratch = Scratch::new();
    recordings(&scratch.path("tones"));
    const EVAL: [&str; 8] = ["eval", "--model", MODEL, "-n", "8", "--steps", "1", "--no-cache"];
    let eval = |more: &[&'static str]| [&EVAL[..], more].concat();
    let ran =
        scratch.ok(&eval(&["--data", "tones", "--holdout", "0.4", "--prompt", "three", "--prompt", "one"]));
    assert!(ran.stdout.contains("sounds for training") && ran.stdout.contains("precision"), "{}", ran.told());
    let report = fs::read_to_string(scratch.path("eval.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let shown = report["facts"][0][1].as_str().unwrap();
    assert!(
        shown.starts_with("spectrograms of 8 sounds: 64×64 pixels for 0.64 s and 0 to 4000 Hz"),
        "{shown}"
    );
    let nearest = report["features"]["generated"].as_array().unwrap();
    assert_eq!(nearest.len(), 8);
    assert!(nearest.iter().all(|found| found["distance"].as_f64().unwrap() > 0.0));
    assert!(scratch.path("neighbours.png").exists() && scratch.path("eval.html").exists());

    // A recognizer that always hears the same.
    let same = "sh -c 'test -s \"$0\" && echo Three.' {}";
    let heard = ["--data", "tones", "--holdout", "0.4", "--prompt", "three", "--prompt", "one"];
    let ran = scratch.ok(&[&eval(&heard)[..], &["--recognizer", same]].concat());
    assert!(
        ran.stdout.contains(": 25.0 %") && ran.stdout.contains("of 8 words in 8 sounds"),
        "{}",
        ran.told()
    );
    assert!(ran.stdout.contains("`one` was heard as `three`"), "{}", ran.told());
    assert!(ran.stdout.contains("held-out recordings: 100.0 %"), "{}", ran.told());
    let report = fs::read_to_string(scratch.path("eval.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["words"]["errors"], &report["words"]["rate"]), (&2.into(), &0.25.into()));
    for (command, words) in [
        ("no-such-program {}", &["--recognizer", "`no-such-program` cannot be started"][..]),
        ("sh -c 'echo deaf >&2; exit 3' {}", &["--recognizer", "exit status: 3", "deaf"]),
        ("cat", &["--recognizer", "expected `{}`"]),
    ] {
        scratch.fails(&[&eval(&heard)[..], &["--recognizer", command]].concat(), words);
    }
    scratch.fails(
        &["eval", "--recognizer", "cat {}", "--no-cache"],
        &["--recognizer is only for models of sounds"],
    );
    scratch.fails(&eval(&["--data", "tones", "--bound"]), &["--bound", "models of images"]);
    scratch
        .fails(&eval(&["--data", "emoji"]), &["emoji: expected a folder or an archive of sounds", "--data"]);
    scratch.fails(&eval(&["--data", "tones", "--prompt", "eleven"]), &["`eleven`"]);
}
