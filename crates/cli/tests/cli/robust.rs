//! What users, other programs and the machine do to a run: interrupts, closed pipes, files that block or change,
//! memory that is not there.

use std::{
    fs::{self, OpenOptions},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    common::{REFERENCE, RUN, Ran, STEPS, Scratch, TWEEDIE, finish, model},
    latent, tensors,
};

const SHORT: &[&str] = &["sample", "--model"];

/// Reads `lines` of its output, then closes it.
fn leave_after(scratch: &Scratch, args: &[&str], lines: usize) -> Ran {
    let mut child = scratch.command(args).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..lines {
        output.next().unwrap().unwrap();
    }
    drop(output);
    Ran::new(format!("{args:?}"), &child.wait_with_output().unwrap())
}

#[test]
fn a_reader_that_leaves_does_not_end_the_work() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    let ran = leave_after(&scratch, &["train", "run.toml", "--out", "run", "--steps", "30", "--json"], 10);
    ran.ok().says(&["warning: standard output was closed"]);
    assert!(scratch.path("run/model/model_index.json").exists());
    assert!(scratch.path("run/checkpoints/step-000030/state.json").exists());
    let args = [SHORT, &[model(), "-n", "4", "--steps", "20", "--json", "-o", "a.png"]].concat();
    leave_after(&scratch, &args, 2).ok().says(&["closed"]);
    assert!(scratch.path("a.png").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn an_output_that_is_full_is_an_error_after_the_work() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    let mut command = scratch.command(&["train", "run.toml", "--out", "run", "--steps", "6", "--json"]);
    command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    finish(command).failed(&["standard output", "No space left"]);
    assert!(scratch.path("run/model/model_index.json").exists());
}

#[cfg(unix)]
fn signal(name: &str, process: u32) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

#[test]
#[cfg(unix)]
fn a_run_under_nohup_survives_its_terminal() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", TWEEDIE]);
    command
        .args(["train", "run.toml", "--out", "run", "--steps", "30", "--json"])
        .current_dir(scratch.path(""));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().contains("\"step\"") {}
    signal("-HUP", child.id());
    let last = lines.last().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(last.contains("\"stopped\":false"), "{last}");
}

/// Hidden files and folders in the scratch folder itself.
fn hidden(scratch: &Scratch) -> Vec<String> {
    let entries = fs::read_dir(scratch.path("")).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_nothing_half_written() {
    let scratch = Scratch::new();
    latent::model(&scratch);
    let convert = ["convert", "--model", "sd", "--out", "out"];
    let whole =
        |scratch: &Scratch| !scratch.path("out").exists() || scratch.path("out/model_index.json").exists();
    for pause in [3, 8, 14, 20, 27, 35, 60] {
        let child = scratch.command(&convert).spawn().unwrap();
        sleep(Duration::from_millis(pause));
        signal("-INT", child.id());
        let ran = Ran::new("convert".into(), &child.wait_with_output().unwrap());
        // The first milliseconds belong to the system's own answer.
        assert!(matches!(ran.code, Some(130 | 0) | None), "{}", ran.told());
        assert!(hidden(&scratch).is_empty() && whole(&scratch), "{:?} after {pause} ms", hidden(&scratch));
    }
    // And after a kill, which nobody can answer, the next run clears away.
    fs::create_dir(scratch.path(".tweedie-1-abcdefghijkl.tmp")).unwrap();
    scratch.write(".tweedie-1-abcdefghijkl.tmp/half.safetensors", "half");
    scratch.ok(&convert);
    assert!(hidden(&scratch).is_empty() && whole(&scratch));
}

#[test]
#[cfg(unix)]
fn an_interrupt_while_a_run_begins_leaves_no_folder() {
    let scratch = Scratch::new();
    // Encoded anew at each start, so that beginning takes a while.
    let args = ["train", "--preset", "emoji", "--out", "run", "--steps", "3"];
    for pause in [5, 40, 120] {
        let child = scratch.command(&args).spawn().unwrap();
        sleep(Duration::from_millis(pause));
        signal("-INT", child.id());
        let begun = Instant::now();
        let ran = Ran::new("train".into(), &child.wait_with_output().unwrap());
        assert!(ran.code != Some(1) && begun.elapsed() < Duration::from_secs(20), "{}", ran.told());
        let run = scratch.path("run");
        let left = fs::read_dir(&run).map(|d| d.count()).unwrap_or(0);
        assert!(left == 0 || run.join("config.toml").exists(), "{left} files after {pause} ms");
        let _ = fs::remove_dir_all(run);
    }
}

#[test]
fn checkpoints_of_another_version_are_left_alone() {
    let scratch = Scratch::new();
    scratch.copy(&REFERENCE, "run");
    for entry in fs::read_dir(scratch.path("run/checkpoints")).unwrap() {
        let state = entry.unwrap().path().join("state.json");
        let text = fs::read_to_string(&state).unwrap().replace("\"format\": 1", "\"format\": 2");
        fs::write(state, text).unwrap();
    }
    let last = format!("step-{STEPS:06}");
    scratch.fails(
        &["train", "--resume", "--out", "run"],
        &[&last, "format 2", "the version of tweedie that wrote it"],
    );
    scratch.fails(
        &["train", "--resume", "--out", "run", "--steps", "90"],
        &["the version of tweedie that wrote it"],
    );
}

#[test]
fn any_learning_rate_can_be_resumed() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    let peak = "learning_rate.peak=0.00018973011986515774";
    scratch.ok(&["train", "run.toml", "--out", "run", "--steps", "2", "--set", peak]);
    scratch.ok(&["train", "--resume", "--out", "run", "--steps", "3"]).says(&["resuming from step 2"]);
}

/// The command, which must end by itself.
fn within(scratch: &Scratch, seconds: u64, args: &[&str]) -> Ran {
    let mut child = scratch.command(args).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(seconds) {
            child.kill().unwrap();
            panic!("{args:?} waits");
        }
        sleep(Duration::from_millis(20));
    }
    Ran::new(format!("{args:?}"), &child.wait_with_output().unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn pipes_and_devices_are_not_read() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("pictures")).unwrap();
    image::RgbImage::new(8, 8).save(scratch.path("pictures/a.png")).unwrap();
    for name in ["pictures/b.png", "pictures/c.weird", "x.toml", "x.parquet", "x.png"] {
        assert!(Command::new("mkfifo").arg(scratch.path(name)).status().unwrap().success());
    }
    within(&scratch, 60, &["data", "pictures"]).ok().says(&["skipped pictures/b.png", "a pipe", "1 .weird"]);
    for (args, words) in [
        (&["train", "x.toml"][..], &["x.toml", "a pipe"][..]),
        (&["train", "/dev/zero"], &["/dev/zero", "device"]),
        (&["data", "x.parquet"], &["x.parquet", "a pipe"]),
        (&["forward", "x.png"], &["x.png", "a pipe"]),
        (&["forward", "/dev/zero"], &["/dev/zero", "device"]),
        (&["sample", "--like", "x.png"], &["x.png", "a pipe"]),
        (&["sample", "--noise", "/dev/zero"], &["/dev/zero", "device"]),
        (&["debug", "run", model(), "--inputs", "x.png", "--outputs", "o"], &["x.png", "a pipe"]),
    ] {
        within(&scratch, 60, args).failed(words);
    }
}

#[test]
fn memory_is_checked_before_the_work() {
    let scratch = Scratch::new();
    let sample = |more: &[&str], words: &[&str]| {
        scratch.fails(&[&["sample"][..], more].concat(), words);
    };
    sample(&["--size", "16384", "-n", "1"], &["16384x16384", "GB are available", "lower size"]);
    sample(&["--chunk", "65536", "-n", "4096", "--size", "256"], &["`chunk`", "GB are available"]);
    sample(&["--zoom", "64", "-n", "65536"], &["--count, --zoom", "GB are available"]);
    sample(&["--zoom", "64", "-n", "900", "--animation", "a.gif"], &["--zoom", "GB are available"]);
    let train = ["train", "--preset", "emoji", "--out", "run"];
    let batch = [&train[..], &["--batch", "1000000"]].concat();
    scratch.fails(&batch, &["GB are available", "run.batch = 1000000", "run.recompute"]);
    let wide = [&train[..], &["--set", "model.base_channels=65536"]].concat();
    scratch.fails(&wide, &["65536", "parameters"]);
    scratch.fails(&["data", "--size", "4096", "-n", "1000", "-o", "a.png"], &["GB are available", "--size"]);
}

/// The command with at most so many kilobytes of addresses.
#[cfg(target_os = "linux")]
fn confined(scratch: &Scratch, kilobytes: u64, args: &[&str]) -> Ran {
    let script = format!("ulimit -v {kilobytes}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, TWEEDIE]).args(args).current_dir(scratch.path(""));
    command.env_remove("RUST_BACKTRACE").stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command)
}

#[test]
#[cfg(target_os = "linux")]
fn a_limit_of_the_process_counts() {
    let scratch = Scratch::new();
    let large = ["sample", "-n", "1", "--size", "4096", "--steps", "2"];
    confined(&scratch, 8_000_000, &large).failed(&["4096x4096", "GB are available"]);
    // Memory that is not estimated is reported when an allocation fails.
    let ran = confined(&scratch, 250_000, &["data", "--size", "256", "--threads", "1"]);
    ran.failed(&["out of memory", "MiB"]);
    assert!(hidden(&scratch).is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn places_are_tried_before_the_work() {
    let scratch = Scratch::new();
    let long = "x".repeat(252);
    let too_long = format!("{}.png", "x".repeat(252));
    for (args, place) in [
        (&["sample", "--json", "-n", "1", "--steps", "4", "-o"][..], "/proc/a.png"),
        (&["sample", "--json", "-n", "1", "--steps", "4", "--singles"], "/proc/singles"),
        (&["sample", "--json", "-n", "1", "--steps", "4", "-o"], too_long.as_str()),
        (&["sample", "--json", "-n", "1", "--steps", "4", "--singles"], &format!("{long}/{long}xxxx")),
        (&["train", "--preset", "tiny", "--json", "--out"], "/proc/run"),
        (&["train", "--preset", "tiny", "--json", "--out"], &format!("{long}xxxx")),
        (&["data", "--json", "-o"], "/proc/a.png"),
    ] {
        let ran = scratch.run(&[args, &[place]].concat());
        assert_eq!(ran.code, Some(1), "{}", ran.told());
        let events = ran.json();
        assert!(events.len() == 1 && events[0]["error"].is_string(), "{}", ran.told());
    }
    // Names that a file may have leave room for the temporary one.
    let longest = format!("{}.png", "y".repeat(251));
    scratch.ok(&["sample", "--model", model(), "-n", "1", "--steps", "2", "-o", &longest]);
    assert!(scratch.path(&longest).exists());
}

#[test]
fn odd_values_are_told() {
    let scratch = Scratch::new();
    scratch.fails(&["devices", "--threads", "100000"], &["--threads", "100000", "1024"]);
    scratch.fails(&["train", "--seed", "9223372036854775808"], &["--seed", "9223372036854775807"]);
    scratch.fails(&["train", "--set", "run.seed=9223372036854775808"], &["run.seed", "9223372036854775807"]);
    scratch.fails(&["train", "--set", "data.size=16384"], &["data.size = 16384"]);
    scratch.fails(&["train", "--set", "augment.flip=2"], &["augment.flip = 2"]);
    scratch.fails(&["train", "--set", "run.preview_images=1000000000"], &["run.preview_images", "at most"]);
    let line = format!("[run]\nseed = \"{}\"\n", "9".repeat(50_000));
    scratch.write("long.toml", line);
    let ran = scratch.run(&["train", "long.toml"]).failed(&["long.toml", "line 2"]);
    assert!(ran.stderr.len() < 1000, "{}", ran.stderr.len());
    let none = (vec![0, 3, 8, 8], vec![]);
    let inputs = [("sample", none), ("timestep", (vec![], vec![5.0])), ("class_labels", (vec![0], vec![]))];
    scratch.write("in.safetensors", tensors::file(&inputs));
    scratch.fails(
        &["debug", "run", model(), "--inputs", "in.safetensors", "--outputs", "o"],
        &["sample", "[0, 3, 8, 8]", "empty"],
    );
}

#[test]
#[cfg(unix)]
fn control_characters_in_file_names_are_escaped() {
    let scratch = Scratch::new();
    image::RgbImage::new(8, 8).save(scratch.path("good.png")).unwrap();
    scratch.write("\u{1b}[31mred\u{9b}2J.png", "no image");
    let ran = scratch.ok(&["data", "."]).says(&["\\u{1b}[31mred"]);
    assert!(!ran.stderr.contains(['\u{1b}', '\u{9b}']) && !ran.stdout.contains('\u{1b}'), "{}", ran.told());
}

#[test]
fn rows_that_are_not_finite_are_an_error() {
    let scratch = Scratch::new();
    scratch.write("s.json", r#"{"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}"#);
    scratch.write("in.safetensors", tensors::file(&[("sample", (vec![1, 1, 1, 2], vec![f32::NAN, 1.0]))]));
    let args = ["debug", "trajectory", "--scheduler-config", "s.json", "--inputs", "in.safetensors"];
    let args = [&args[..], &["--steps", "5", "--outputs", "out.safetensors"]].concat();
    scratch.fails(&args, &["row 0 of the trajectory", "not finite"]);
}

/// A folder of three images.
fn pictures(scratch: &Scratch, folder: &str) {
    fs::create_dir_all(scratch.path(folder)).unwrap();
    for i in 0..3u8 {
        let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([80 * i, 9, 9]));
        picture.save(scratch.path(&format!("{folder}/{i}.png"))).unwrap();
    }
}

fn text_to_image(folder: &str) -> Vec<String> {
    let args = ["train", "--preset", "text-to-image", "--vae", "vae", "--out", "run", "--data", folder];
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

#[test]
fn missing_captions_are_an_error() {
    let scratch = Scratch::new();
    pictures(&scratch, "cats");
    pictures(&scratch, "birds/of/prey");
    let fails = |folder: &str, words: &[&str]| {
        let args = text_to_image(folder);
        scratch.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), words);
    };
    fails("cats", &["3 of 3 images have no caption, for example 0.png", "text.captions.missing"]);
    fails("birds", &["3 of 3 images have no caption", "of/prey/0.png"]);
    scratch.ok(&["data", "cats"]);
    assert!(scratch.ok(&["data", "cats"]).stdout.contains("0 of 3 images with a caption"));
    // A table whose paths start with the folder's own name.
    scratch.write("cats/metadata.csv", "file_name,text\ncats/0.png,one\ncats/1.png,two\n");
    fails("cats", &["metadata.csv, line 2", "cats/0.png", "found without `cats/`"]);
    scratch.write("cats/metadata.csv", "file_name,text\n0.png,one\n2.png,two\n");
    fails("cats", &["1 of 3 images have no caption, for example 1.png"]);
    let told = scratch.ok(&["data", "cats"]).stdout;
    assert!(told.contains("2 of 3 images with a caption, none for 1.png"), "{told}");
    assert_eq!(scratch.ok(&["data", "cats", "--json"]).json()[0]["captioned"], 2);
    // With `missing` they are skipped, or have another text; the autoencoder is then looked for.
    for (choice, words) in [("skip", "vae"), ("class", "vae"), ("empty", "vae")] {
        let set = format!("text.captions.missing={choice}");
        let mut args = text_to_image("cats");
        args.extend(["--set".to_owned(), set]);
        scratch.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[words, "AutoencoderKL"]);
    }
}

#[test]
fn files_that_are_no_images_are_counted() {
    let scratch = Scratch::new();
    pictures(&scratch, "all");
    let picture = image::RgbImage::from_pixel(16, 16, image::Rgb([9, 200, 9]));
    picture.save_with_format(scratch.path("all/a.jfif"), image::ImageFormat::Jpeg).unwrap();
    picture.save_with_format(scratch.path("all/noending"), image::ImageFormat::Png).unwrap();
    for name in ["all/b.tga", "all/c.tga", "all/d.svg", "all/README", "all/.hidden"] {
        scratch.write(name, "no image");
    }
    let ran = scratch.ok(&["data", "all"]).says(&[
        "ignoring files that are not images",
        "1 without extension",
        "1 .svg",
        "2 .tga",
    ]);
    assert!(ran.stdout.contains("5 images"), "{}", ran.told());
    let json = scratch.ok(&["data", "all", "--json"]).json().pop().unwrap();
    assert_eq!(json["passed_over"][".tga"], 2);
    let train =
        ["train", "--preset", "tiny", "--out", "run", "--steps", "1", "--data", "all", "--batch", "2"];
    let set = ["--set", "data.size=8", "--set", "run.preview_every=0", "--set", "run.validate_every=0"];
    scratch.ok(&[&train[..], &set].concat()).says(&["warning", "2 .tga"]);
}

#[test]
fn one_text_in_another_encoding_does_not_stop_a_run() {
    let scratch = Scratch::new();
    pictures(&scratch, "all");
    scratch.write("all/0.txt", "a cat");
    scratch.write("all/1.txt", b"\xff\xfea\0 \0d\0o\0g\0");
    scratch.write("all/2.txt", "a bird");
    let ran = scratch.ok(&["data", "all"]).says(&["skipped all/1.png", "1.txt", "not UTF-8"]);
    assert!(ran.stdout.contains("2 images"), "{}", ran.told());
    let strict = ["--set", "data.on_error=fail", "--set", "data.size=8"];
    let train = ["train", "--preset", "tiny", "--out", "run", "--data", "all"];
    scratch.fails(&[&train[..], &strict].concat(), &["1.txt", "not UTF-8"]);
    for name in ["0.txt", "1.txt", "2.txt"] {
        fs::remove_file(scratch.path("all").join(name)).unwrap();
    }
    scratch.write(
        "all/metadata.csv",
        b"\xef\xbb\xbffile_name,text\n0.png,a cat\n1.png,a d\xf6g\n2.png,a bird\n",
    );
    scratch.ok(&["data", "all"]).says(&["skipped all/1.png", "metadata.csv, line 3", "not UTF-8"]);
    fs::remove_file(scratch.path("all/metadata.csv")).unwrap();
    let lines = b"{\"file_name\": \"0.png\", \"text\": \"a c\xe4t\"}\n{\"file_name\": \"1.png\", \"text\": \"a dog\"}\n";
    scratch.write("all/metadata.jsonl", lines);
    scratch.ok(&["data", "all"]).says(&["skipped all/0.png", "metadata.jsonl, line 1", "not UTF-8"]);
    assert!(Path::new(&scratch.path("all")).exists());
}
