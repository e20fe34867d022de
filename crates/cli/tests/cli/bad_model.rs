//! Model folders that are missing, damaged or inconsistent.

use std::path::Path;

use crate::{
    common::{Scratch, model},
    tensors,
};

const CONFIG: &str = "m/unet/config.json";
const WEIGHTS: &str = "m/unet/diffusion_pytorch_model.safetensors";

/// A folder with a model in `m`.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.copy(Path::new(model()), "m");
    scratch
}

/// Every command that loads the model must say `words`.
fn fails(scratch: &Scratch, words: &[&str]) {
    scratch.fails(&["sample", "--model", "m", "-n", "1", "--steps", "2"], words);
    let inputs = [
        ("sample", tensors::ramp(&[1, 3, 8, 8])),
        ("timestep", (vec![], vec![5.0])),
        ("class_labels", (vec![1], vec![1.0])),
    ];
    scratch.write("in.safetensors", tensors::file(&inputs));
    scratch
        .fails(&["debug", "run", "m", "--inputs", "in.safetensors", "--outputs", "out.safetensors"], words);
}

#[test]
fn missing_parts() {
    let scratch = scratch();
    for command in [&["sample", "--model", "none"][..], &["info", "none"], &["plan", "--model", "none"]] {
        scratch.fails(command, &["none", "no such folder", "emoji-32"]);
    }
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.fails(&["sample", "--model", "empty"], &["empty"]);
    scratch.fails(&["info", "m/model_index.json"], &["model_index.json"]);
    std::fs::remove_file(scratch.path(WEIGHTS)).unwrap();
    fails(&scratch, &["m/unet"]);
}

#[test]
fn truncated_weights() {
    let scratch = scratch();
    let whole = scratch.read(WEIGHTS);
    for length in [whole.len() - 1, whole.len() / 2, 100, 8, 3, 0] {
        scratch.write(WEIGHTS, &whole[..length]);
        fails(&scratch, &[WEIGHTS]);
    }
    scratch.fails(&["info", "m"], &[WEIGHTS]);
}

#[test]
fn corrupted_header() {
    let scratch = scratch();
    let whole = scratch.read(WEIGHTS);
    for (place, bytes) in [(0, &[0xff; 8][..]), (8, b"\xff\xfe\xfd"), (20, b"}}}}")] {
        let mut broken = whole.clone();
        broken[place..place + bytes.len()].copy_from_slice(bytes);
        scratch.write(WEIGHTS, broken);
        fails(&scratch, &[WEIGHTS]);
    }
}

#[test]
fn weights_that_do_not_fit_the_config() {
    let scratch = scratch();
    let text = String::from_utf8(scratch.read(CONFIG)).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["block_out_channels"] = serde_json::json!([8, 32]);
    scratch.write(CONFIG, config.to_string());
    fails(&scratch, &[WEIGHTS, "down_blocks.1", "[32", "[16"]);
    config["block_out_channels"] = serde_json::json!([8]);
    scratch.write(CONFIG, config.to_string());
    fails(&scratch, &[CONFIG, "block_out_channels"]);
}

#[test]
fn missing_and_superfluous_tensors() {
    let scratch = scratch();
    let all = tensors::unpack(&scratch.path(WEIGHTS));
    let some = all.iter().filter(|(name, ..)| name != "conv_in.bias").cloned().collect();
    scratch.write(WEIGHTS, tensors::pack(some));
    fails(&scratch, &[WEIGHTS, "conv_in.bias"]);
    let mut more = all;
    more.push(("conv_of_another.bias".into(), vec![1], vec![0; 4]));
    scratch.write(WEIGHTS, tensors::pack(more));
    fails(&scratch, &[WEIGHTS, "conv_of_another.bias"]);
}

#[test]
fn configs_that_are_not_understood() {
    for (file, from, to, words) in [
        (CONFIG, "\"act_fn\"", "\"act_function\"", &["act_function"][..]),
        (CONFIG, "\"DownBlock2D\"", "\"DownBlock3D\"", &["DownBlock3D"]),
        (CONFIG, "{", "", &[CONFIG]),
        ("m/scheduler/scheduler_config.json", "\"beta_schedule\"", "\"beta_shedule\"", &["beta_shedule"]),
        ("m/model_index.json", "DDPM", "DDPX", &["DDPX"]),
    ] {
        let scratch = scratch();
        let text = String::from_utf8(scratch.read(file)).unwrap();
        assert!(text.contains(from), "{file}: {text}");
        scratch.write(file, text.replacen(from, to, 1));
        let words = [&[file], words].concat();
        scratch.fails(&["sample", "--model", "m", "-n", "1", "--steps", "2"], &words);
    }
}

#[test]
fn weights_that_are_not_numbers() {
    let scratch = scratch();
    let mut all = tensors::unpack(&scratch.path(WEIGHTS));
    let (.., data) = all.iter_mut().find(|(name, ..)| name == "conv_out.bias").unwrap();
    data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    scratch.write(WEIGHTS, tensors::pack(all));
    let sample = ["sample", "--model", "m", "-n", "1", "--steps", "2", "--save-tensors", "a.safetensors"];
    scratch.fails(&sample, &["step 1 of 2", "finite"]);
}
