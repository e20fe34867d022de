//! Output paths that cannot be written: full disks, files in the way of folders and the reverse.

use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
};

use crate::{
    common::{REFERENCE, Scratch, TWEEDIE, model},
    tensors,
};

/// A scratch folder with a picture, inputs for `debug run`, a file `file` and a folder `folder`.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    image::RgbImage::new(8, 8).save(scratch.path("in.png")).unwrap();
    let inputs = [
        ("sample", tensors::ramp(&[9, 3, 8, 8])),
        ("timestep", (vec![], vec![5.0])),
        ("class_labels", (vec![9], vec![1.0; 9])),
    ];
    scratch.write("in.safetensors", tensors::file(&inputs));
    scratch.write("file", "in the way");
    scratch.write("folder/inside", "");
    scratch
}

/// Every command that writes a file, the name of which comes last.
fn writers() -> Vec<Vec<&'static str>> {
    let sample = |flag| vec!["sample", "--model", model(), "-n", "9", "--steps", "2", flag];
    vec![
        sample("--output"),
        sample("--save-tensors"),
        vec!["data", "--output"],
        vec!["eval", "--model", model(), "-n", "4", "--output"],
        vec!["forward", "in.png", "--output"],
        vec!["debug", "run", model(), "--inputs", "in.safetensors", "--outputs"],
    ]
}

#[test]
fn files_and_folders_in_the_way() {
    let scratch = scratch();
    for command in writers() {
        for place in ["file/out.png", "none/out.png", "folder"] {
            scratch.fails(&[&command[..], &[place]].concat(), &[place.trim_end_matches("/out.png")]);
        }
    }
    let sample = ["sample", "--model", model(), "-n", "1", "--steps", "2"];
    scratch.fails(&[&sample[..], &["--animation", "none/a.gif"]].concat(), &["none"]);
    scratch.fails(&[&sample[..], &["--filmstrip", "folder"]].concat(), &["folder"]);
    scratch.fails(&[&sample[..], &["--singles", "file/singles"]].concat(), &["file"]);
    let train = ["train", "--preset", "tiny", "--set", "data.size=8", "--out"];
    scratch.fails(&[&train[..], &["file"]].concat(), &["file"]);
    scratch.fails(&[&train[..], &["file/run"]].concat(), &["file/run"]);
}

/// The command under a limit on the size of files, which acts as a disk does that fills up half-way.
#[cfg(unix)]
fn limited(scratch: &Scratch, blocks: u32, args: &[&str]) -> Command {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, TWEEDIE]).args(args).current_dir(scratch.path(""));
    command.env_remove("RUST_BACKTRACE").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
#[cfg(unix)]
fn a_disk_that_fills_up_leaves_no_partial_files() {
    let scratch = scratch();
    for command in writers() {
        // As a first and as a newer version.
        for place in ["out.png", "in.png"] {
            let args = [&command[..], &[place]].concat();
            scratch.fails_as(limited(&scratch, 1, &args), &[place, "File too large"]);
        }
    }
}

#[test]
#[cfg(unix)]
fn a_disk_that_fills_up_leaves_the_checkpoints_whole() {
    let scratch = Scratch::new();
    scratch.copy(&REFERENCE, "run");
    let checkpoints = |scratch: &Scratch| {
        let all = scratch.files().into_iter();
        all.filter(|(n, _)| n.starts_with("run/checkpoints") || n.starts_with("run/model"))
            .collect::<Vec<_>>()
    };
    let before = checkpoints(&scratch);
    let longer = ["train", "--resume", "--out", "run", "--steps", "61"];
    let ran = crate::common::finish(limited(&scratch, 60, &longer));
    ran.failed(&["run/checkpoints/step-000061", "File too large"]);
    assert!(checkpoints(&scratch) == before);
    scratch.ok(&longer);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_device_is_an_error() {
    let scratch = scratch();
    for command in writers() {
        scratch.fails(&[&command[..], &["/dev/full"]].concat(), &["/dev/full", "No space left"]);
    }
    for args in
        [&["plan"][..], &["plan", "--json"], &["devices"], &["completions", "bash"], &["info", model()]]
    {
        let mut command = scratch.command(args);
        command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
        scratch.fails_as(command, &["standard output", "No space left"]);
    }
}

#[test]
#[cfg(unix)]
fn a_reader_that_leaves_is_no_error() {
    let scratch = Scratch::new();
    for args in [&["plan"][..], &["completions", "bash"]] {
        let mut child = scratch.command(args).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}
