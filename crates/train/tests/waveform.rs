//! Runs on waveforms from the outside: exact resume on any number of ranks, the finished pipeline, a start from it, and what
//! follows from the data.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, f32::consts::TAU, fs, path::Path, sync::Arc};

use tweedie_hub::{Model, SafetensorsFile};
use tweedie_media::{Audio, WavFormat, write_wav};
use tweedie_models::{Conditions, Mode, TensorSource};
use tweedie_ops::{Batch, Device};
use tweedie_system::ranks::Threads;
use tweedie_train::{ConfigBuilder, RunConfig, TrainEvent, TrainLoop};

const RATE: u32 = 4000;

fn save(folder: &Path, name: &str, channels: Vec<Vec<f32>>, rate: u32) {
    fs::create_dir_all(folder).unwrap();
    let audio = Audio { channels, rate, guessed: false };
    write_wav(&folder.join(format!("{name}.wav")), &audio, WavFormat::Pcm16, None).unwrap();
}

fn tone(hertz: f32, length: usize, rate: u32) -> Vec<f32> {
    (0..length).map(|i| 0.4 * (TAU * hertz * i as f32 / rate as f32).sin()).collect()
}

/// Tones of different pitch and length.
fn recordings(folder: &Path) {
    for i in 0..12u8 {
        let pitch = 200.0 + 40.0 * f32::from(i);
        save(folder, &format!("{i}"), vec![tone(pitch, 300 + 90 * usize::from(i), RATE)], RATE);
    }
}

const FIXED: [&str; 16] = [
    "run.steps=4",
    "run.batch=2",
    "run.accumulation=4",
    "run.checkpoint_every=2",
    "run.preview_every=4",
    "run.preview_images=2",
    "run.preview_steps=3",
    "run.validate_every=2",
    "run.validation_images=4",
    "data.holdout=0.2",
    "waveform.sample_rate=4000",
    "waveform.window=128",
    "waveform.edges=true",
    "model.base_channels=32",
    "model.multipliers=[1, 1]",
    "model.attention_levels=[1]",
];

fn builder(data: &Path, out: &Path, set: &[&str]) -> ConfigBuilder {
    let paths = [format!("data.source={{ folder = {data:?} }}"), format!("run.out={out:?}")];
    let builder = ConfigBuilder::preset("waveform").unwrap();
    paths.iter().map(String::as_str).chain(set.iter().copied()).fold(builder, |b, a| b.set(a).unwrap())
}

fn config(data: &Path, out: &Path, set: &[&str]) -> RunConfig {
    builder(data, out, &[&FIXED, set].concat()).build().unwrap()
}

fn finish(run: TrainLoop) -> Vec<TrainEvent> {
    run.map(Result::unwrap).collect()
}

/// The tensors of a file below `out`.
fn tensors(out: &Path, file: &str) -> BTreeMap<String, Vec<f32>> {
    let found = SafetensorsFile::open(&out.join(file)).unwrap();
    found.names().into_iter().map(|name| (name.clone(), found.read(&name).unwrap().values)).collect()
}

const WEIGHTS: &str = "model/unet/diffusion_pytorch_model.safetensors";

#[test]
fn a_run_ends_in_a_pipeline_and_gives_the_same_bits_in_parts_and_on_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole) = (dir.path().join("data"), dir.path().join("whole"));
    recordings(&data);
    let events = finish(TrainLoop::new(config(&data, &whole, &[])).unwrap());
    let losses: Vec<f64> = events
        .iter()
        .filter_map(|e| if let TrainEvent::Validation { loss, .. } = e { Some(*loss) } else { None })
        .collect();
    assert!(losses.len() >= 2 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(whole.join("previews/step-000004.png").exists());
    let sound = tweedie_media::read_sound(&whole.join("previews/step-000004/01.wav")).unwrap();
    assert_eq!((sound.rate, sound.channels.len(), sound.len()), (RATE, 1, 128));

    let parts = dir.path().join("parts");
    finish(TrainLoop::new(config(&data, &parts, &["run.steps=2"])).unwrap());
    finish(TrainLoop::resume_with(config(&data, &parts, &[])).unwrap());
    assert_eq!(tensors(&parts, WEIGHTS), tensors(&whole, WEIGHTS));

    let shared = dir.path().join("shared");
    std::thread::scope(|scope| {
        for ranks in Threads::all(2) {
            let config = config(&data, &shared, &[]);
            scope.spawn(move || finish(TrainLoop::new_on(config, Arc::new(ranks)).unwrap()));
        }
    });
    assert_eq!(tensors(&shared, WEIGHTS), tensors(&whole, WEIGHTS));

    // Everything has learned but the times' frequencies and the filters, which the resumed run did not change either.
    let (step, last) =
        ("checkpoints/step-000002/model.safetensors", "checkpoints/step-000004/model.safetensors");
    let (before, after) = (tensors(&parts, step), tensors(&parts, last));
    for (name, values) in &before {
        let fixed = name.ends_with(".kernel") || name.starts_with("time_proj");
        // The bias of keys changes no softmax, so that its gradient is 0.
        if fixed || !name.ends_with("key.bias") {
            assert_eq!(after[name] == *values, fixed, "{name}");
        }
    }

    let model = Model::load(&whole.join("model"), &Device::flex()).unwrap();
    assert_eq!((model.kind.name, model.scheduler.class_name()), ("DanceDiffusionPipeline", "IPNDMScheduler"));
    let spec = model.network.spec();
    assert_eq!((spec.native, spec.rate), (Some(vec![128]), Some(RATE)));
    let x = Batch::from_host(tone(300.0, 128, RATE), 1, &[1, 128].into(), &Device::flex());
    let y = model.network.forward(x, &[0.5], &Conditions::none(), Mode::Eval).to_host();
    assert!(y.iter().all(|v| v.is_finite()) && y.iter().any(|v| *v != 0.0));
}

#[test]
fn a_run_starts_from_a_finished_model() {
    let dir = tempfile::tempdir().unwrap();
    let (data, first, second) =
        (dir.path().join("data"), dir.path().join("first"), dir.path().join("second"));
    recordings(&data);
    finish(TrainLoop::new(config(&data, &first, &["run.validate_every=0", "run.preview_every=0"])).unwrap());
    assert_eq!(tweedie_train::task_of(&first).unwrap(), tweedie_train::TaskKind::Waveform);

    let short = ["run.steps=1", "run.batch=2", "learning_rate.peak=1e-12", "ema.kind=none"];
    let config = builder(&data, &second, &short).init(&first).unwrap().build().unwrap();
    assert_eq!((config.waveform.window, config.waveform.sample_rate), (128, RATE));
    finish(TrainLoop::new(config).unwrap());
    let (ours, theirs) = (tensors(&second, WEIGHTS), tensors(&first, WEIGHTS));
    assert!(ours.keys().eq(theirs.keys()));
    for (name, values) in &ours {
        assert!(values.iter().zip(&theirs[name]).all(|(a, b)| (a - b).abs() < 1e-9), "{name}");
    }
    let set = [format!("run.init={first:?}"), "model.multipliers=[1, 2]".to_owned()];
    let other = self::config(&data, &dir.path().join("other"), &set.each_ref().map(String::as_str));
    let error = TrainLoop::new(other).map(drop).unwrap_err().to_string();
    assert!(error.contains("model.unet.block_out_channels") && error.contains("[32,32]"), "{error}");
}

#[test]
fn rate_channels_length_and_network_follow_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let (words, music) = (dir.path().join("words"), dir.path().join("music"));
    for i in 0..5 {
        save(&words, &format!("{i}"), vec![tone(300.0, 3500 + i, 8000)], 8000);
        save(&music, &format!("{i}"), vec![tone(300.0, 200_000, 44_100); 2], 44_100);
    }
    let suited = |data: &Path, set: &[&str]| {
        let (builder, said) = builder(data, &dir.path().join("out"), set).suited().unwrap();
        (builder.build().unwrap(), said)
    };
    let (config, said) = suited(&words, &[]);
    let wave = &config.waveform;
    assert_eq!((wave.sample_rate, wave.channels, wave.window, wave.edges), (8000, 1, 4096, true));
    assert_eq!(said.data, "5 sounds, most of 8000 Hz in mono, half of them of 0.44 s or less");
    // What was chosen is stored, and is not chosen again.
    let again = ConfigBuilder::text(&config.to_toml().unwrap(), "config.toml").unwrap();
    assert_eq!(again.build().unwrap(), config);

    let (config, said) = suited(&music, &["waveform.channels=1"]);
    let wave = &config.waveform;
    assert_eq!((wave.sample_rate, wave.channels, wave.window, wave.edges), (16_000, 1, 8192, false));
    assert!(said.choices.iter().all(|choice| choice.key != "waveform.channels"));
    let (config, _) = suited(&music, &["run.minutes=600.0"]);
    let wave = &config.waveform;
    assert_eq!((wave.sample_rate, wave.channels, wave.window), (44_100, 2, 65_536));
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    recordings(&data);
    let out = dir.path().join("out");
    let error = |set: &[&str]| match builder(&data, &out, &[&FIXED, set].concat()).build() {
        Ok(config) => TrainLoop::new(config).map(drop).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    for (set, parts) in [
        ("waveform.window=129", &["waveform.window = 129", "a multiple of 4"][..]),
        ("waveform.window=8", &["waveform.window = 8", "at least 12"]),
        ("waveform.channels=3", &["waveform.channels = 3", "2 for stereo"]),
        ("waveform.sample_rate=10", &["waveform.sample_rate = 10", "1000 to 384000 Hz"]),
        ("waveform.quietest=0", &["waveform.quietest = 0", "at most 1"]),
        ("diffusion.schedule=linear", &["diffusion.schedule = linear", "cosine"]),
        ("diffusion.parameterization=eps", &["diffusion.parameterization = eps", "v for"]),
        ("model.dropout=0.1", &["model", "only base_channels, multipliers and attention_levels"]),
        ("model.attention_levels=[0]", &["model.attention_levels = 0", "lengths from 1 to 1"]),
        ("model.multipliers=[4]", &["model.multipliers", "at least two"]),
        ("data.size=64", &["data.size", "for images"]),
        ("data.cache_mb=0", &["data.cache_mb = 0", "4000 Hz", ".wav"]),
        ("augment.flip=0.5", &["augment", "for images"]),
    ] {
        let said = error(&[set]);
        assert!(parts.iter().all(|part| said.contains(part)), "{set}: {said}");
    }
    let images = ConfigBuilder::preset("tiny").unwrap().set("diffusion.schedule=cosine").unwrap();
    let said = images.build().unwrap_err().to_string();
    assert!(said.contains("diffusion.schedule = cosine") && said.contains("task = waveform"), "{said}");
    fs::write(data.join("a.wav"), b"RIFF and no more").unwrap();
    let said = error(&["data.on_error=fail"]);
    assert!(said.contains("a.wav") && !said.contains("image"), "{said}");
}
