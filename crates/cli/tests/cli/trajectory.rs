//! `tweedie debug trajectory`: a scheduler's configuration against what diffusers made of it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    common::Scratch,
    tensors::{self, Tensor},
};

const START: [f64; 4] = [0.9, -1.3, 0.4, 2.1];

/// The cases of a class whose network is x·t/(t+1).
fn cases(class: &str) -> Vec<Value> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub/tests/golden/trajectories");
    let text = std::fs::read_to_string(format!("{folder}/{class}.txt")).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|case| case["model"] == "linear" && case["strength"].is_null()).collect()
}

fn trajectory(steps: &str, more: &[&str]) -> Vec<String> {
    let given = ["debug", "trajectory", "--scheduler-config", "s.json", "--inputs", "in.safetensors"];
    let asked = ["--outputs", "out.safetensors", "--steps", steps];
    [&given[..], &asked, more].concat().into_iter().map(str::to_owned).collect()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn input(values: &[f64]) -> Tensor {
    (vec![1, 1, 2, 2], values.iter().map(|&v| v as f32).collect())
}

/// What was written.
fn output(scratch: &Scratch) -> BTreeMap<String, Tensor> {
    let tensors = tensors::unpack(&scratch.path("out.safetensors"));
    tensors.into_iter().map(|(name, shape, data)| (name, (shape, tensors::values(&data)))).collect()
}

#[test]
fn rows_are_those_of_diffusers() {
    let scratch = Scratch::new();
    let mut seen = 0;
    for class in
        ["DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler", "FlowMatchHeunDiscreteScheduler"]
    {
        for case in cases(class) {
            scratch.write("s.json", case["config"].to_string());
            scratch.write("in.safetensors", tensors::file(&[("sample", input(&START))]));
            scratch.ok(&words(&trajectory(&case["steps"].to_string(), &[])));
            let out = output(&scratch);
            let (shape, rows) = &out["trajectory"];
            let calls = case["calls"].as_u64().unwrap() as usize;
            assert_eq!(shape[..], [calls + 1, 1, 1, 2, 2]);
            assert_eq!(out["timesteps"].0, [calls]);
            for (call, time) in case["times"].as_object().unwrap() {
                let found = f64::from(out["timesteps"].1[call.parse::<usize>().unwrap()]);
                assert!((found - time.as_f64().unwrap()).abs() < 1e-3, "{class} {call}: {found}");
            }
            for (row, expected) in case["rows"].as_object().unwrap() {
                let row = row.parse::<usize>().unwrap();
                for (i, expected) in expected.as_array().unwrap().iter().enumerate() {
                    let (found, expected) = (f64::from(rows[4 * row + i]), expected.as_f64().unwrap());
                    let error = (found - expected).abs() / expected.abs();
                    assert!(error < 1e-5, "{case}: row {row} has {found}, expected {expected}");
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 8, "{seen}");
}

#[test]
fn noise_is_taken_as_given_or_from_the_seed() {
    let scratch = Scratch::new();
    scratch.write("s.json", r#"{"_class_name": "EulerAncestralDiscreteScheduler"}"#);
    let noise = |k: usize| (vec![k, 1, 1, 2, 2], vec![0.5; 4 * k]);
    let sample = ("sample", input(&START));
    let last = |more: &[&str]| {
        scratch.ok(&words(&trajectory("4", more)));
        output(&scratch)["trajectory"].1.clone()
    };
    scratch.write("in.safetensors", tensors::file(std::slice::from_ref(&sample)));
    let seeded = last(&["--seed", "3"]);
    assert_eq!(seeded, last(&["--seed", "3"]));
    assert_ne!(seeded, last(&["--seed", "4"]));
    scratch.write("in.safetensors", tensors::file(&[("noise", noise(4)), sample.clone()]));
    assert_ne!(seeded, last(&["--seed", "3"]));
    scratch.write("in.safetensors", tensors::file(&[("noise", noise(2)), sample.clone()]));
    scratch.fails(&words(&trajectory("4", &[])), &["noise for draw 2 is missing"]);
    scratch.write("in.safetensors", tensors::file(&[("noise", (vec![2, 4], vec![0.5; 8])), sample]));
    scratch.fails(&words(&trajectory("4", &[])), &["noise", "[2, 4]", "[1, 1, 2, 2]"]);
}

/// A key of another class is passed over, and named if it asks for something.
#[test]
fn keys_of_other_classes_are_named() {
    let scratch = Scratch::new();
    scratch.write("in.safetensors", tensors::file(&[("sample", input(&START))]));
    let told = |text: &str| {
        scratch.write("s.json", text);
        scratch.ok(&words(&trajectory("4", &[])))
    };
    let quiet = told(r#"{"_class_name": "DDIMScheduler", "use_karras_sigmas": false, "solver_order": 3}"#);
    assert!(!quiet.told().contains("warning"), "{}", quiet.told());
    told(r#"{"_class_name": "DDIMScheduler", "use_karras_sigmas": true, "shift": 3.0}"#).says(&[
        "warning: s.json: ignoring `shift` = 3.0",
        "ignoring `use_karras_sigmas` = true, as in diffusers: DDIMScheduler has no such key",
    ]);
}

#[test]
fn bad_input() {
    let scratch = Scratch::new();
    let config = |text: &str| scratch.write("s.json", text);
    scratch.write("in.safetensors", tensors::file(&[("sample", input(&START))]));
    config(r#"{"_class_name": "DDIMScheduler"}"#);
    let fails = |steps: &str, more: &[&str], says: &[&str]| {
        scratch.fails(&words(&trajectory(steps, more)), says);
    };
    fails("0", &[], &["s.json", "steps = 0", "at least 1"]);
    fails("1001", &[], &["steps = 1001", "at most 1000"]);
    fails("-3", &[], &["-3"]);
    fails("5", &["--begin", "5"], &["begin = 5", "number of steps, 5"]);
    fails("5", &["--eta", "2"], &["eta = 2"]);
    fails("5", &["--mu", "0.5"], &["use_dynamic_shifting"]);
    config(r#"{"_class_name": "DDIMScheduler", "beta_strat": 1}"#);
    fails("5", &[], &["s.json", "`beta_strat`", "unknown key"]);
    config(r#"{"_class_name": "DDIMSchedular"}"#);
    fails("5", &[], &["`_class_name`", "DDIMSchedular", "DDIMScheduler"]);
    config("{");
    fails("5", &[], &["s.json", "JSON"]);
    config(r#"{"_class_name": "DDIMScheduler"}"#);
    scratch.write("in.safetensors", tensors::file(&[("smaple", input(&START))]));
    fails("5", &[], &["in.safetensors", "`smaple`", "sample, noise"]);
    scratch.write("in.safetensors", tensors::file(&[]));
    fails("5", &[], &["in.safetensors", "`sample`"]);
    scratch.write("in.safetensors", tensors::file(&[("sample", (vec![0, 4], vec![]))]));
    fails("5", &[], &["sample", "[0, 4]", "empty"]);
}
