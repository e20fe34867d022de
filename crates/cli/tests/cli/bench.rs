//! `tweedie bench`: what it reports, not how fast anything is.

use serde_json::Value;

use crate::{
    common::{Scratch, model},
    tensors,
};

/// The measurements among the lines of a run.
fn rows(args: &[&str]) -> Vec<Value> {
    let quick = ["--runs", "2", "--warm-up", "0", "--json"];
    let lines = Scratch::new().ok(&[&["bench"], args, &quick].concat()).json();
    assert_eq!(lines[0]["bench"], "machine");
    assert!(lines[0]["threads"].as_u64().unwrap() >= 1 && lines[0]["cpu"].is_string(), "{}", lines[0]);
    lines.into_iter().filter(|l| l["bench"] != "machine" && l["bench"] != "process").collect()
}

fn names(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|r| format!("{} {}", r["bench"], r["name"]).replace('"', "")).collect()
}

/// Median, fastest, slowest and every run are there and agree.
fn check_times(row: &Value) {
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
    let (min, median, max) = (number("min_ms"), number("median_ms"), number("max_ms"));
    assert!(0.0 < min && min <= median && median <= max, "{row}");
    assert_eq!(row["ms"].as_array().unwrap().len(), 2, "{row}");
}

#[test]
fn a_model_is_measured_per_batch_size() {
    let found = rows(&["forward", "train", "sample", "--model", model(), "--batch", "1,3", "--steps", "2"]);
    let expected = [
        "forward batch 1",
        "forward batch 3",
        "train batch 1",
        "train batch 3",
        "sample batch 1, 2 steps",
        "sample batch 3, 2 steps",
    ];
    assert_eq!(names(&found), expected);
    for row in &found {
        check_times(row);
        assert!(row["images_per_s"].as_f64().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn a_pass_is_the_sum_of_its_layers() {
    let found = rows(&["layers", "--network", "built-in", "--batch", "2"]);
    assert_eq!(names(&found), ["layers batch 2"]);
    let kinds = found[0]["kinds"].as_object().unwrap();
    let share: f64 = kinds.values().map(|kind| kind["share"].as_f64().unwrap()).sum();
    assert!(kinds.contains_key("convolutions 3x3") && kinds.contains_key("attention"), "{kinds:?}");
    assert!(share > 0.3 && share < 1.2, "{share}");
    let convolutions = &kinds["convolutions 3x3"];
    assert!(convolutions["gflops"].as_f64() > convolutions["gflops_made"].as_f64(), "{convolutions}");
    let layers = found[0]["layers"].as_array().unwrap();
    assert!(layers.iter().any(|layer| layer["algorithm"] == "F(4x4)"), "{layers:?}");
    let eight = rows(&["layers", "--network", "built-in", "--batch", "1", "--precision", "int8"]);
    assert!(eight[0]["layers"].as_array().unwrap().iter().any(|layer| layer["algorithm"] == "int8"));
    let text = Scratch::new().ok(&["bench", "layers", "--network", "built-in", "--runs", "1"]).stdout;
    assert!(text.contains("linear layers") && text.contains("of peak"), "{text}");
}

#[test]
fn kernels_may_be_chosen_by_their_time() {
    let scratch = Scratch::new();
    let sample = |more: &[&str]| {
        let ask = ["sample", "-q", "-n", "1", "--steps", "2", "--save-tensors", "rows.safetensors"];
        scratch.ok(&[&ask[..], more].concat());
        let (_, bytes) = tensors::only(&scratch.path("rows.safetensors"), "samples");
        tensors::values(&bytes)
    };
    let pairs = sample(&[]).into_iter().zip(sample(&["--fastest-kernels"]));
    let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-3, "{off}");
    check_times(&rows(&["forward", "--network", "built-in", "--batch", "1", "--fastest-kernels"])[0]);
}

#[test]
fn models_in_latents_are_measured() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/emoji-text-64");
    let found =
        rows(&["forward", "sample", "startup", "memory", "--model", model, "--batch", "2", "--steps", "2"]);
    let expected = [
        "forward batch 2",
        "sample batch 2, 2 steps",
        "startup process start to first step",
        "memory forward, batch 2",
        "memory sample, batch 2",
    ];
    assert_eq!(names(&found), expected);
    found[..3].iter().for_each(check_times);
    Scratch::new().fails(&["bench", "train", "--model", model], &["train", "latents"]);
}

#[test]
fn children_tell_start_up_and_memory() {
    let found = rows(&["startup", "memory", "--model", model(), "--batch", "2"]);
    let expected = [
        "startup process start to first step",
        "memory forward, batch 2",
        "memory sample, batch 2",
        "memory train, batch 2",
    ];
    assert_eq!(names(&found), expected);
    check_times(&found[0]);
    // A process is larger than its program, and this model is small.
    for row in &found[1..] {
        assert!((1 << 20..4 << 30).contains(&row["bytes"].as_u64().unwrap()), "{row}");
    }
    let built_in = rows(&["startup", "--network", "built-in"]);
    check_times(&built_in[0]);
}

#[test]
fn kernels_are_shares_of_the_peak() {
    let found = rows(&["kernels", "--only", "8x256x4x4"]);
    assert!(names(&found).contains(&"kernels conv3x3 8x256x4x4, weight gradient".to_owned()), "{found:?}");
    for row in &found {
        check_times(row);
        assert!(row["gflops"].as_f64().unwrap() > 0.0 && row["of_peak"].as_f64().unwrap() > 0.0, "{row}");
    }
    for only in ["group norm + SiLU 8x256x16x16", "linear 8x", "attention 8x", "AdamW"] {
        assert!(!rows(&["kernels", "--only", only]).is_empty());
    }
    let text = Scratch::new().ok(&["bench", "kernels", "--only", "multiply-adds"]).stdout;
    assert!(text.contains(" threads, ") && text.contains("GFLOP/s"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_told() {
    let scratch = Scratch::new();
    scratch.fails(&["bench", "forward", "--only", "nothing"], &["--only nothing", "no measurement"]);
    let eight = ["bench", "train", "--network", "built-in", "--precision", "int8"];
    scratch.fails(&eight, &["train", "int8"]);
    scratch.fails(&["bench", "speed"], &["speed", "kernels"]);
    scratch.fails(&["bench", "forward", "--batch", "0"], &["--batch"]);
    scratch.fails(&["bench", "forward", "--batch", "5000"], &["--batch 5000", "4096"]);
    scratch.fails(&["bench", "forward", "--model", model(), "--size", "9000000"], &["pixels"]);
    scratch.fails(&["bench", "forward", "--model", model(), "--size", "7"], &["7"]);
    scratch.fails(&["bench", "forward", "--model", "missing"], &["missing"]);
    scratch.fails(&["bench", "startup", "--model", "missing"], &["missing", "emoji-32"]);
    scratch.fails(&["bench", "memory", "--only", "train", "--model", "missing"], &["missing", "emoji-32"]);
}
