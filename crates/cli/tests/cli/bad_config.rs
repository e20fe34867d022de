//! Training runs that cannot start or resume.

use image::RgbImage;

use crate::common::{Scratch, files, model};

/// `tweedie train` of the smallest kind into `run`.
fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let size = ["--set", "data.size=8", "--set", "run.preview_every=0", "--set", "run.validate_every=0"];
    [&["train", "--preset", "tiny", "--out", "run"][..], &size, more].concat()
}

/// A folder `pictures` with five good images.
fn pictures() -> Scratch {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("pictures")).unwrap();
    for i in 0..5 {
        let shade = |x: u32, y: u32| image::Rgb([50 * i as u8, 20 * x as u8, 20 * y as u8]);
        RgbImage::from_fn(9, 7, shade).save(scratch.path(&format!("pictures/{i}.png"))).unwrap();
    }
    scratch
}

/// A folder without classes.
const PICTURES: &[&str] = &["--data", "pictures", "--batch", "2"];

#[test]
fn unknown_keys_and_wrong_values_are_named() {
    let scratch = Scratch::new();
    scratch.write("key.toml", "preset = \"tiny\"\n[optimizer]\nbeta3 = 0.5\n");
    scratch.write("preset.toml", "preset = \"tinny\"\n");
    scratch.write("syntax.toml", "[run\nsteps = 1\n");
    for (args, words) in [
        (&["key.toml"][..], &["key.toml", "beta3", "beta2"][..]),
        (&["preset.toml"], &["tinny", "tiny"]),
        (&["syntax.toml"], &["syntax.toml", "line 1"]),
        (&["none.toml"], &["none.toml"]),
        (&["--preset", "tinny"], &["tinny", "one of emoji, folder, tiny"]),
        (&["--set", "run.stepz=3"], &["run.stepz=3", "stepz"]),
        (&["--set", "runn.steps=3"], &["runn"]),
        (&["--set", "steps"], &["steps", "run.steps=1000"]),
        (&["--set", "run.batch=many"], &["run.batch=many"]),
        (&["--steps", "0"], &["run.steps = 0", "at least 1"]),
        (&["--batch", "0"], &["run.batch = 0"]),
        (&["--minutes", "nan"], &["run.minutes=NaN"]),
        (&["--set", "learning_rate.peak=inf"], &["learning_rate.peak = inf"]),
        (&["--set", "learning_rate.peak=nan"], &["learning_rate.peak = NaN"]),
        (&["--set", "run.precision=int8"], &["run.precision", "int8", "cannot be trained"]),
        (&["--device", "abacus"], &["run.device", "abacus"]),
    ] {
        scratch.fails(&[&["train"], args, &["--out", "run"]].concat(), words);
        scratch.fails(&[&["train", "--dry-run"], args, &["--out", "run"]].concat(), words);
    }
}

#[test]
fn data_that_is_not_there() {
    let scratch = Scratch::new();
    scratch.write("words/a.txt", "no image");
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.write("broken.parquet", "PAR1 and then nothing");
    for (source, words) in [
        ("empty", &["no images in empty"][..]),
        ("words", &["no images in words"]),
        ("none", &["none", "does not exist"]),
        ("words/a.txt", &["words/a.txt"]),
        ("none.parquet", &["none.parquet"]),
        ("broken.parquet", &["broken.parquet"]),
    ] {
        scratch.fails(&train(&["--data", source]), words);
        scratch.fails(&["data", source, "-o", "sheet.png"], words);
        scratch.fails(&["eval", "--model", model(), "--data", source], words);
    }
    let groups = "data.emoji.groups=[\"Dragons\"]";
    scratch.fails(&train(&["--set", groups]), &["Dragons"]);
    scratch.fails(&["data", "--size", "0"], &["size = 0"]);
    scratch.fails(&["data", "-n", "0", "-o", "sheet.png"], &["--count", "0"]);
}

#[test]
fn a_corrupt_image_is_skipped_or_fatal() {
    let scratch = pictures();
    let whole = scratch.read("pictures/1.png");
    scratch.write("pictures/bad.png", &whole[..whole.len() / 2]);
    let all = train(&[PICTURES, &["--steps", "2"]].concat());
    scratch.fails(&[&all[..], &["--set", "data.on_error=fail"]].concat(), &["pictures/bad.png"]);
    scratch.write("pictures/empty.png", b"");
    for cache in ["data.cache_mb=512", "data.cache_mb=0"] {
        let ran = scratch.ok(&[&all[..], &["--set", cache]].concat());
        ran.says(&["warning: skipped pictures/bad.png", "warning: skipped pictures/empty.png"]);
        assert!(scratch.path("run/model/model_index.json").exists());
        std::fs::remove_dir_all(scratch.path("run")).unwrap();
    }
    std::fs::remove_file(scratch.path("pictures/empty.png")).unwrap();
    scratch.ok(&["data", "pictures"]).says(&["warning", "pictures/bad.png"]);
    let json = scratch.ok(&["data", "pictures", "--json"]).json();
    assert!(json[0]["warning"].as_str().unwrap().contains("bad.png"), "{json:?}");
    assert_eq!(json[1]["images"], 5);
}

#[test]
fn only_corrupt_images_are_no_data() {
    let scratch = Scratch::new();
    scratch.write("pictures/bad.png", b"\x89PNG");
    scratch.fails(&train(PICTURES), &["pictures"]);
}

/// Also where only the held-out loss, a preview or the finished model would show it.
#[test]
fn a_diverging_run_is_no_success() {
    let every =
        ["--set", "run.validate_every=1", "--set", "run.preview_every=1", "--set", "run.preview_steps=2"];
    let previews =
        ["--set", "run.preview_every=1", "--set", "run.preview_steps=2", "--set", "data.holdout=0"];
    for (set, what) in [
        (&every[..], "held-out loss is not finite"),
        (&previews, "not finite"),
        (&[], "held-out loss is not finite"),
    ] {
        for peak in ["learning_rate.peak=1e20", "learning_rate.peak=1e30"] {
            let scratch = Scratch::new();
            let args = ["--steps", "1", "--set", "learning_rate.warmup=0", "--set", peak];
            scratch.run(&train(&[&args[..], set].concat())).failed(&[what]);
            assert!(!scratch.path("run/model").exists());
        }
    }
}

#[test]
fn a_diverging_run_stops_with_its_last_good_checkpoint() {
    let scratch = Scratch::new();
    let set = ["--set", "learning_rate.warmup=0", "--set", "run.checkpoint_every=1", "--steps", "9"];
    let rate = |rate| train(&[&set[..], &["--set", rate]].concat());
    // The first step leaves weights so large that the second step's loss overflows.
    let ran = scratch.run(&rate("learning_rate.peak=1e30"));
    ran.failed(&["step 2", "loss is not finite", "run/checkpoints/step-000001"]);
    let kept: Vec<String> = files(&scratch.path("run/checkpoints")).into_keys().collect();
    assert!(kept.iter().all(|name| name.starts_with("step-000001")), "{kept:?}");
    assert!(!scratch.path("run/model").exists());
    // Weights that no f32 can hold are no checkpoint at all.
    std::fs::remove_dir_all(scratch.path("run")).unwrap();
    let ran = scratch.run(&rate("learning_rate.peak=1e39"));
    ran.failed(&["step 1", "not finite", "no checkpoint was written yet"]);
    assert!(!scratch.path("run/checkpoints/step-000001").exists());
    assert!(!scratch.path("run/model").exists());
}
