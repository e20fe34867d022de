//! Training that is killed, interrupted, resumed: the same bits.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::common::{REFERENCE, RUN, Ran, STEPS, Scratch, files};

const ARGS: &[&str] = &["train", "run.toml", "--out", "run", "--threads", "2", "--json"];

fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN);
    scratch
}

/// All tensor files that a finished run leaves, checkpoint and model.
fn weights(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let last = format!("checkpoints/step-{STEPS:06}/");
    let wanted = |name: &str| {
        name.ends_with(".safetensors") && (name.starts_with(&last) || name.starts_with("model/"))
    };
    files(run).into_iter().filter(|(name, _)| wanted(name)).filter_map(|(n, b)| Some((n, b?))).collect()
}

/// The log without what depends on the clock.
fn log(run: &Path) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        for key in ["elapsed_s", "images_per_s"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    fs::read_to_string(run.join("log.jsonl")).unwrap().lines().map(line).collect()
}

#[track_caller]
fn assert_as_uninterrupted(run: &Path) {
    let (found, expected) = (weights(run), weights(&REFERENCE));
    for name in ["model", "ema", "ema-1", "optimizer"] {
        let file = format!("checkpoints/step-{STEPS:06}/{name}.safetensors");
        assert!(expected.contains_key(&file), "{file}");
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{name} differs");
    }
    assert_eq!(log(run), log(&REFERENCE));
}

/// A number that differs from run to run.
fn random(below: u64) -> u64 {
    u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()) / 7 % below
}

/// Starts training, and lets it go on until it has saved a checkpoint and then made `more` steps.
fn train_until(scratch: &Scratch, args: &[&str], more: u64) -> Child {
    let mut child = scratch.command(args).stderr(Stdio::null()).spawn().unwrap();
    let mut left = None;
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "checkpoint" && left.is_none() {
            left = Some(more);
        } else if event["event"] == "step" {
            left = left.map(|n| n.saturating_sub(1));
        }
        if left == Some(0) {
            break;
        }
    }
    child
}

#[test]
fn threads_do_not_change_the_weights() {
    let scratch = scratch();
    scratch.ok(ARGS);
    assert_as_uninterrupted(&scratch.path("run"));
}

#[test]
fn killed_twice_and_resumed_gives_the_same_weights() {
    let scratch = scratch();
    let mut args = ARGS.to_vec();
    for kill in 1..=2 {
        let (more, pause) = (random(8), Duration::from_micros(random(12_000)));
        let mut child = train_until(&scratch, &args, more);
        sleep(pause);
        child.kill().unwrap();
        let code = child.wait().unwrap().code();
        assert_eq!(code, None, "kill {kill}, {more} steps and {pause:?} after a checkpoint, was too late");
        assert!(!scratch.path("run/model").exists());
        args = vec!["train", "--resume", "--out", "run", "--json"];
    }
    let started = scratch.ok(&args).json().into_iter().find(|e| e["event"] == "started").unwrap();
    assert!(started["step"].as_u64().unwrap() >= 5, "{started}");
    assert_as_uninterrupted(&scratch.path("run"));
}

#[test]
#[cfg(unix)]
fn ctrl_c_saves_and_the_run_can_go_on() {
    let scratch = scratch();
    let child = train_until(&scratch, ARGS, 3);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let stopped = Ran::new("interrupted".into(), &child.wait_with_output().unwrap());
    assert_eq!(stopped.code, Some(130), "{}", stopped.stdout);
    let last = stopped.json().pop().unwrap();
    let step = last["step"].as_u64().unwrap();
    assert!(last["stopped"] == true && (8..STEPS).contains(&step), "{last}");
    assert!(scratch.path(&format!("run/checkpoints/step-{step:06}/state.json")).exists());
    assert!(scratch.path("run/model/unet/config.json").exists());
    let resumed = scratch.ok(&["train", "run.toml", "--out", "run", "--resume", "--json"]);
    assert_eq!(resumed.json()[0]["step"], step);
    assert_as_uninterrupted(&scratch.path("run"));
}

#[test]
fn a_finished_run_can_be_made_longer() {
    let scratch = scratch();
    scratch.ok(&["train", "run.toml", "--out", "run", "--steps", "40", "--quiet"]);
    let length = STEPS.to_string();
    scratch.ok(&["train", "--resume", "--out", "run", "--steps", &length, "--quiet"]);
    let (found, expected) = (weights(&scratch.path("run")), weights(&REFERENCE));
    assert!(found == expected);
}

#[test]
fn what_cannot_be_resumed_is_told_and_left_alone() {
    let scratch = scratch();
    scratch.copy(&REFERENCE, "run");
    let resume = |more: &[&str], words: &[&str]| {
        scratch.fails(&[&["train", "--resume", "--out", "run"], more].concat(), words);
    };
    resume(&["--set", "optimizer.beta2=0.9"], &["optimizer.beta2 (0.9 instead of 0.99)"]);
    resume(&["--batch", "4", "--seed", "1"], &["run.batch", "run.seed"]);
    scratch.fails(&["train", "--resume", "--out", "elsewhere"], &["elsewhere", "no run to resume"]);
    scratch.fails(&["train", "run.toml", "--out", "run"], &["run already contains a run"]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let scratch = scratch();
    scratch.copy(&REFERENCE, "run");
    let damaged = format!("run/checkpoints/step-{STEPS:06}/ema.safetensors");
    let mut bytes = scratch.read(&damaged);
    *bytes.last_mut().unwrap() ^= 1;
    scratch.write(&damaged, bytes);
    let ran = scratch.ok(&["train", "--resume", "--out", "run"]);
    ran.says(&["warning", "ema.safetensors is damaged", "resuming from step 55"]);
    assert_as_uninterrupted(&scratch.path("run"));
}
