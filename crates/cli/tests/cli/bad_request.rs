//! Invalid requests: an error that names the flag or the value, and no files.

use crate::{
    common::{Scratch, finish, model},
    tensors,
};

/// `tweedie sample` of the test's model with `more` flags.
fn sample(scratch: &Scratch, more: &[&str], words: &[&str]) {
    scratch.fails(&[&["sample", "--model", model(), "-n", "2"], more].concat(), words);
}

#[test]
fn values_out_of_range() {
    let scratch = Scratch::new();
    for (more, words) in [
        (&["--steps", "0"][..], &["--steps", "0"][..]),
        (&["--steps", "5000"], &["5000", "at most 1000"]),
        (&["--steps", "-3"], &["-3"]),
        (&["--eta", "1.5"], &["eta = 1.5", "0..=1"]),
        (&["--eta=-0.1"], &["eta = -0.1"]),
        (&["--eta", "nan"], &["eta = NaN"]),
        (&["--guidance=-1"], &["guidance", "-1"]),
        (&["--guidance", "inf"], &["guidance", "inf"]),
        (&["--size", "0"], &["`size`", "[0, 0]", "from 1"]),
        (&["--size", "9"], &["size", "9×9", "multiples of 2"]),
        (&["--size", "1000000"], &["`size`", "1000000"]),
        (&["--chunk", "0"], &["--chunk", "0"]),
        (&["--zoom", "0"], &["--zoom 0"]),
        (&["--threads", "0"], &["--threads", "0"]),
        (&["--seed=-1"], &["--seed", "-1"]),
    ] {
        sample(&scratch, more, words);
    }
    scratch.fails(&["sample", "-n", "0"], &["--count", "0"]);
    scratch.fails(&["sample", "--model", model(), "-n", "100000"], &["count", "100000", "at most 65536"]);
}

#[test]
fn names_that_there_are_not() {
    let scratch = Scratch::new();
    for (more, words) in [
        (&["--solver", "eular"][..], &["eular", "ddim", "dpmpp-2m"][..]),
        (&["--spacing", "karas"], &["karas", "karras"]),
        (&["--spacing", "karras=-1"], &["`karras` = -1", "> 0"]),
        (&["--spacing", "trailing=3"], &["`trailing` = 3", "no parameters"]),
        (&["--spacing", "beta=0.5"], &["`beta` = 0.5", "two finite numbers"]),
        (&["--solver", "ddpm-learned"], &["`ddpm-learned` needs"]),
        (&["--class", "dragons"], &["dragons", "Food & Drink"]),
        (&["--class", "77"], &["77", "0 to 2"]),
        (&["--device", "abacus"], &["abacus", "cpu"]),
        (&["--animation", "a.mp4"], &["a.mp4", ".webp"]),
        (&["--colour"], &["--colour"]),
    ] {
        sample(&scratch, more, words);
    }
    scratch.fails(&["simple"], &["simple", "sample"]);
    scratch.fails(&["plan", "--schedule", "cosin"], &["cosin", "cosine"]);
    scratch.fails(&["plan", "--steps", "0"], &["--steps", "0"]);
    scratch.fails(&["plan", "--schedule", "linear", "--steps", "1001"], &["1001", "at most 1000"]);
}

#[test]
fn noise_that_does_not_fit() {
    let scratch = Scratch::new();
    scratch.write("small.safetensors", tensors::file(&[("noise", tensors::ramp(&[2, 3, 4, 4]))]));
    scratch.write("other.safetensors", tensors::file(&[("nose", tensors::ramp(&[2, 3, 8, 8]))]));
    let (shape, mut values) = tensors::ramp(&[2, 3, 8, 8]);
    values[5] = f32::NAN;
    scratch.write("nan.safetensors", tensors::file(&[("noise", (shape, values))]));
    let noise = |file: &str, words: &[&str]| sample(&scratch, &["--steps", "2", "--noise", file], words);
    noise("small.safetensors", &["noise", "[2, 3, 4, 4]", "[2, 3, 8, 8]"]);
    noise("other.safetensors", &["other.safetensors", "`noise`", "nose"]);
    noise("nan.safetensors", &["step 1 of 2"]);
    noise("none.safetensors", &["none.safetensors"]);
}

#[test]
fn pictures_that_are_none() {
    let scratch = Scratch::new();
    scratch.write("notes.txt", "no picture");
    scratch.write("cut.png", &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..]);
    image::RgbImage::new(8, 8).save(scratch.path("plain.png")).unwrap();
    for (file, words) in [
        ("plain.png", &["plain.png", "no request"][..]),
        ("notes.txt", &["notes.txt"]),
        ("cut.png", &["cut.png"]),
        ("none.png", &["none.png"]),
    ] {
        sample(&scratch, &["--like", file], words);
    }
    for file in ["notes.txt", "cut.png", "none.png", "."] {
        scratch.fails(&["forward", file], &[file]);
    }
    scratch.fails(&["forward", "plain.png", "--frames", "0"], &["--frames", "0"]);
    scratch.fails(&["forward", "plain.png", "--size", "1"], &["--size 1"]);
    scratch.fails(&["forward", "plain.png", "--schedule", "x"], &["x", "cosine"]);
}

#[test]
fn instruction_sets_that_there_are_not() {
    let scratch = Scratch::new();
    let with = |value: &str| {
        let mut command = scratch.command(&["devices"]);
        command.env("TWEEDIE_ISA", value);
        command
    };
    scratch.fails_as(
        with("avx999"),
        &["TWEEDIE_ISA", "`avx999`", "not a known instruction set", "scalar", "unset"],
    );
    scratch.fails_as(with("AVX2"), &["TWEEDIE_ISA", "`AVX2`", "scalar"]);
    assert!(finish(with("scalar")).ok().stdout.contains("kernels for scalar"));
    finish(with("")).ok();
}
