//! `tweedie edit`, `restore` and `sample` with existing sounds: known values stay, and what does not suit is an error.

use tweedie::media::{Audio, Cosines, Recording, loudness};

use crate::{audio, common::Scratch};

const RATE: u32 = 16_000;

/// Two tones, the second channel another pitch than the first.
fn sound(channels: usize, length: usize, rate: u32, amplitude: f32) -> Audio {
    let channel = |c: usize| {
        let turn = |hertz: f32| std::f32::consts::TAU * hertz / rate as f32;
        let [low, high] = [220.0 + 110.0 * c as f32, 1310.0].map(turn);
        (0..length)
            .map(|i| amplitude * (0.8 * (low * i as f32).sin() + 0.2 * (high * i as f32).sin()))
            .collect()
    };
    Audio { channels: (0..channels).map(channel).collect(), rate, guessed: false }
}

fn save(scratch: &Scratch, name: &str, sound: &Audio, bits: Option<u32>) -> Recording {
    let recording = Recording::of(sound, bits);
    recording.save(&scratch.path(name), None).unwrap();
    recording
}

fn open(scratch: &Scratch, name: &str) -> Recording {
    Recording::open(&scratch.path(name)).unwrap()
}

/// The places at which channel `c` differs.
fn changed(a: &Recording, b: &Recording, c: usize) -> Vec<usize> {
    let [a, b] = [a, b].map(|one| one.audio().channels.swap_remove(c));
    assert_eq!(a.len(), b.len());
    (0..a.len()).filter(|i| a[*i] != b[*i]).collect()
}

#[test]
fn gaps_are_filled_and_all_else_stays() {
    let scratch = Scratch::new();
    audio::save(&scratch.path("mono"), &RATE.to_string(), 1);
    audio::save(&scratch.path("stereo"), &RATE.to_string(), 2);
    let before = save(&scratch, "in.wav", &sound(1, 1000, RATE, 0.7), Some(16));
    for method in ["replacement", "repaint=2,2", "ddnm", "pigdm"] {
        let run = ["edit", "in.wav", "-m", "mono", "--gap", "0.02..0.03", "--steps", "2", "--method", method];
        scratch.ok(&[&run[..], &["-o", "out.wav"]].concat());
        let after = open(&scratch, "out.wav");
        assert_eq!((after.rate(), after.bits(), after.len()), (RATE, Some(16), 1000));
        let places = changed(&before, &after, 0);
        assert!(places.iter().all(|i| (320..480).contains(i)) && places.len() > 100, "{method}: {places:?}");
    }
    // Beginning and end, in 24 bits and two channels, as FLAC, twice, with a sheet.
    let before = save(&scratch, "deep.flac", &sound(2, 900, RATE, 0.7), Some(24));
    let gaps = ["--gap", "0..0.005", "--gap", "0.05..0.05625"];
    let run = [
        "restore",
        "deep.flac",
        "-m",
        "stereo",
        "--steps",
        "2",
        "-n",
        "2",
        "--sheet",
        "sheet.png",
        "-o",
        "x.flac",
    ];
    scratch.ok(&[&run[..], &gaps].concat());
    for name in ["x-0.flac", "x-1.flac"] {
        let after = open(&scratch, name);
        assert_eq!(after.bits(), Some(24));
        for c in 0..2 {
            let places = changed(&before, &after, c);
            assert!(places.iter().all(|i| *i < 80 || *i >= 800) && places.len() > 100, "{places:?}");
        }
    }
    assert!(scratch.path("sheet.png").exists() && open(&scratch, "x-0.flac") != open(&scratch, "x-1.flac"));
    scratch.ok(&["restore", "-m", "stereo", "--like", "x-1.flac", "-o", "again.flac"]);
    assert_eq!(open(&scratch, "again-1.flac"), open(&scratch, "x-1.flac"));
    // Without a gap all of it is changed a little.
    scratch.ok(&["edit", "in.wav", "-m", "mono", "--strength", "0.5", "--steps", "4", "-o", "s.wav"]);
    assert!(changed(&open(&scratch, "in.wav"), &open(&scratch, "s.wav"), 0).len() > 900);
}

#[test]
fn clipped_sounds_keep_what_was_not_clipped() {
    let scratch = Scratch::new();
    audio::save(&scratch.path("model"), &RATE.to_string(), 1);
    // Not a length that the network supports.
    let mut clipped = sound(1, 1001, RATE, 0.9);
    clipped.channels[0].iter_mut().for_each(|v| *v = v.clamp(-0.5, 0.5));
    let before = save(&scratch, "in.wav", &clipped, Some(16));
    let count = clipped.channels[0].iter().filter(|v| v.abs() == 0.5).count();
    let run = ["restore", "in.wav", "-m", "model", "--declip", "--steps", "3", "-o", "out.wav"];
    scratch.ok(&run).says(&[&format!("{count} of 1001 values"), "count as clipped"]);
    let after = open(&scratch, "out.wav").audio();
    for (old, new) in before.audio().channels[0].iter().zip(&after.channels[0]) {
        match old.abs() {
            0.5 => assert!(new.abs() >= 0.5 && new.signum() == old.signum(), "{old} {new}"),
            _ => assert_eq!(old, new),
        }
    }
    // With a level, a gap and noise, gradients do it.
    let more = ["--declip", "0.4", "--noise", "0.01", "--gap", "0.01..0.02"];
    scratch.ok(&[&["restore", "in.wav", "-m", "model", "--steps", "2", "-o", "b.wav"], &more[..]].concat());
    assert!(changed(&before, &open(&scratch, "b.wav"), 0).len() > 900);
}

#[test]
fn narrow_sounds_get_the_rate_of_the_model_and_keep_their_band() {
    let scratch = Scratch::new();
    audio::save(&scratch.path("model"), &RATE.to_string(), 1);
    let narrow = sound(1, 2000, 8000, 0.7);
    save(&scratch, "in.wav", &narrow, None);
    let wide = tweedie::media::resampled(&narrow.channels[0], 8000, RATE);
    let cosines = Cosines::new(wide.len());
    let bands = |values: &[f32]| cosines.forward(&values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
    for method in ["ddnm", "ddrm", "diffpir", "pigdm"] {
        let run =
            ["restore", "in.wav", "-m", "model", "--bandwidth", "3000", "--steps", "2", "-o", "out.wav"];
        scratch.ok(&[&run[..], &["--method", method]].concat()).says(&["from 8000 Hz to the 16000 Hz"]);
        let after = open(&scratch, "out.wav").audio();
        assert_eq!((after.rate, after.len()), (RATE, 4000));
        let (found, expected) = (bands(&after.channels[0]), bands(&wide));
        let furthest =
            |part: std::ops::Range<usize>| part.map(|k| (found[k] - expected[k]).abs()).fold(0.0, f64::max);
        assert!(furthest(0..1500) < 1e-4, "{method}: {}", furthest(0..1500));
        assert!(furthest(1500..4000) > 1e-2, "{method}");
    }
    let run = ["restore", "in.wav", "-m", "model", "--bandwidth", "3000", "--noise", "0.1", "--steps", "2"];
    scratch.ok(&[&run[..], &["--method", "ddrm", "-o", "noisy.wav"]].concat());
}

#[test]
fn sounds_begin_at_others_and_have_a_loudness() {
    let scratch = Scratch::new();
    audio::save(&scratch.path("model"), &RATE.to_string(), 1);
    save(&scratch, "in.wav", &sound(2, 1001, 8000, 0.7), Some(16));
    let run =
        ["sample", "-m", "model", "--steps", "4", "--init", "in.wav", "--strength", "0.5", "-o", "out.wav"];
    scratch.ok(&run).says(&[
        "2 channels mixed to one",
        "resampled from 8000 Hz to the 16000 Hz of the model",
        "continued by silence from 2002 to 2004 values",
    ]);
    assert_eq!(open(&scratch, "out.wav").len(), 2004);
    scratch.ok(&["sample", "-m", "model", "--like", "out.wav", "-o", "again.wav"]);
    assert_eq!(open(&scratch, "again.wav"), open(&scratch, "out.wav"));

    let long = ["sample", "-m", "model", "--steps", "1", "--size", "8000", "-o", "long.flac"];
    scratch.ok(&[&long[..], &["--loudness", "-30"]].concat()).says(&["amplified by", "to -30.0 LUFS"]);
    let found = loudness(&open(&scratch, "long.flac").audio()).unwrap();
    assert!((found + 30.0).abs() < 0.1, "{found}");
    scratch
        .ok(&["sample", "-m", "model", "--steps", "1", "--loudness=-30"])
        .says(&["shorter than the 0.4 s"]);
    scratch.fails(&["sample", "-m", "model", "--loudness", "3"], &["`loudness`", "3 LUFS", "-70 to 0"]);
}

#[test]
fn what_does_not_suit_a_sound_is_an_error() {
    let scratch = Scratch::new();
    audio::save(&scratch.path("model"), &RATE.to_string(), 1);
    save(&scratch, "in.wav", &sound(1, 800, RATE, 0.7), Some(16));
    save(&scratch, "fast.wav", &sound(1, 800, 44_100, 0.7), Some(16));
    save(&scratch, "slow.wav", &sound(1, 800, 8000, 0.7), Some(16));
    save(&scratch, "stereo.wav", &sound(2, 800, RATE, 0.7), Some(16));
    let mut broken = sound(1, 800, RATE, 0.7);
    broken.channels[0][7] = f32::NAN;
    save(&scratch, "nan.wav", &broken, None);
    std::fs::write(scratch.path("text.wav"), "no sound").unwrap();
    let bytes = scratch.read("in.wav");
    std::fs::write(scratch.path("cut.wav"), &bytes[..600]).unwrap();
    let restore = |file: &str, more: &[&str], words: &[&str]| {
        let run = ["restore", file, "-m", "model", "--steps", "1", "-o", "out.wav"];
        scratch.fails(&[&run[..], more].concat(), words);
    };
    restore("in.wav", &[], &["--gap, --bandwidth, --declip or --noise"]);
    restore("in.wav", &["--gap", "0.3..0.2"], &["0.3..0.2", "for example 0.5..0.8"]);
    restore("in.wav", &["--gap", "0.04..0.06"], &["gap 0.04..0.06", "within the sound's 0.050 s"]);
    restore("in.wav", &["--gap", "0.01..0.010001"], &["gap 0.01..0.010001", "seconds"]);
    restore("in.wav", &["--gap", "0..0.05"], &["in.wav: nothing of the sound is known"]);
    restore("in.wav", &["--bandwidth", "8000"], &["lowpass of 8000 Hz", "below 8000"]);
    restore("in.wav", &["--declip", "1.5"], &["clip at 1.5", "≤ 1"]);
    restore("in.wav", &["--noise", "2"], &["`noise`", "2", "in 0..=1"]);
    restore("in.wav", &["--jpeg", "30"], &["`lowpass` or `clip` for a sound"]);
    restore("in.wav", &["--rect", "1,1,2,2"], &["expected `gaps` for a sound"]);
    restore("in.wav", &["--declip", "--method", "ddrm"], &["`ddrm` needs", "`ddnm`"]);
    restore("fast.wav", &["--gap", "0.01..0.012"], &["fast.wav", "44100 Hz", "16000 Hz"]);
    restore("slow.wav", &["--gap", "0.01..0.02"], &["slow.wav", "8000 Hz", "bandwidth"]);
    restore("stereo.wav", &["--gap", "0.01..0.02"], &["stereo.wav", "2 channels", "1 channel"]);
    restore("nan.wav", &["--gap", "0.01..0.02"], &["nan.wav", "not finite"]);
    restore("text.wav", &["--gap", "0.01..0.02"], &["text.wav", "damaged"]);
    restore("cut.wav", &["--gap", "0.01..0.02"], &["cut.wav", "invalid WAV file"]);
    restore(
        "in.wav",
        &["--gap", "0.01..0.02", "--spread", "s.png"],
        &["--spread is only supported for images"],
    );
    scratch
        .fails(&["restore", "in.wav", "--gap", "0.01..0.02"], &["in.wav", "--model with a model of sounds"]);
    scratch.fails(
        &["restore", "in.wav", "-m", "model", "--gap", "0.01..0.02", "-o", "x.png"],
        &["x.png", ".wav or .flac"],
    );
    scratch.fails(&["edit", "in.wav", "-m", "model"], &["--gap for a sound"]);
}
