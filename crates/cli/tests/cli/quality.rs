//! Scores of models and of folders of pictures, and sweeps.

use std::fs;

use serde_json::Value;

use crate::common::{RUN, Scratch, model};

fn picture(side: u32, seed: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixel = |x: u32, y: u32| {
        image::Rgb([(x * 9 + seed * 31) as u8, (y * 11 + seed * 7) as u8, (seed * 53) as u8])
    };
    let image = image::RgbImage::from_fn(side, side, pixel);
    image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

#[test]
fn a_model_is_scored() {
    let scratch = Scratch::new();
    let command = ["eval", "--model", model(), "-n", "80", "--steps", "3", "--json"];
    let found = scratch.ok(&command).json().pop().unwrap();
    let quality = &found["quality"][0];
    for key in ["fid", "kid", "inception_score", "precision", "recall", "density", "coverage"] {
        assert!(quality[key]["value"].is_f64(), "{key}: {quality}");
    }
    assert!(
        quality["fid"]["interval"].is_array() && quality["comparable"].as_str().unwrap().contains("neither")
    );
    assert_eq!((quality["generated"].as_u64(), found["counts"]["generated"].as_u64()), (Some(80), Some(80)));
    assert!(found["features"]["generated"][0].is_f64());
    let page = String::from_utf8(scratch.read("eval.html")).unwrap();
    assert!(page.contains("data:image/png;base64,") && page.contains("seed") && !page.contains("http"));
    let whole: Value = serde_json::from_slice(&scratch.read("eval.json")).unwrap();
    assert_eq!(whole["quality"], found["quality"]);
    let mut again =
        scratch.ok(&[&command[..], &["--threads", "1", "--no-cache"]].concat()).json().pop().unwrap();
    assert!(again["cost"]["scores"].as_f64().unwrap() > 0.0 && found["cost"]["generating"].is_f64());
    again["cost"] = found["cost"].clone();
    assert_eq!(again, found, "neither threads nor the cache matter");
    let other = scratch.ok(&[&command[..], &["--seed", "1"]].concat()).json().pop().unwrap();
    assert_ne!(other["quality"], found["quality"]);

    let both = ["--bound", "--quality", "--bound-images", "2", "--bound-levels", "3"];
    let both = scratch.ok(&[&command[..], &both].concat()).json().pop().unwrap();
    assert!(both["bound"]["total"]["mean"].is_f64());
    assert_eq!(both["quality"], found["quality"]);
    assert!(String::from_utf8(scratch.read("eval.html")).unwrap().contains("reconstruction, L(0)"));
}

#[test]
fn few_pictures_have_no_fid() {
    let scratch = Scratch::new();
    let said = scratch.ok(&["eval", "--model", model(), "-n", "4", "--steps", "2", "--no-cache"]).stdout;
    assert!(said.contains("FID needs more images than features, got 4 images for 64"), "{said}");
    assert!(said.contains("KID needs at least 20 images, got 4"), "{said}");
}

#[test]
fn a_folder_is_scored_against_a_folder() {
    let scratch = Scratch::new();
    for i in 0..30 {
        scratch.write(&format!("made/{i}.png"), picture(12, i));
        scratch.write(&format!("data/{i}.png"), picture(12, i + 2));
    }
    let command =
        ["eval", "--images", "made", "--data", "data", "--holdout", "0", "--cache", "kept", "--json"];
    let found = scratch.ok(&command).json().pop().unwrap();
    assert_eq!(found["counts"]["training"], 30);
    assert!(found["quality"][0]["kid"]["interval"].is_array());
    let exact = found["pixels"]["generated"][0].as_f64().unwrap();
    assert_eq!(exact, 0.0, "28 pictures are in both");
    assert_eq!(fs::read_dir(scratch.path("kept")).unwrap().count(), 1, "of the data alone");
    let mut again = scratch.ok(&command).json().pop().unwrap();
    again["cost"] = found["cost"].clone();
    assert_eq!(again, found);
}

#[test]
fn what_cannot_be_scored() {
    let scratch = Scratch::new();
    for i in 0..3 {
        scratch.write(&format!("made/{i}.png"), picture(12, i));
        scratch.write(&format!("mixed/{i}.png"), picture(12 + i, i));
    }
    scratch.write("wide/a.png", {
        let mut bytes = Vec::new();
        let image = image::RgbImage::new(5, 3);
        image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        bytes
    });
    scratch.write("weights.pth", b"PK\x03\x04 and a pickle");
    scratch.write("weights.safetensors", "nothing of the kind");
    std::fs::create_dir(scratch.path("empty")).unwrap();
    scratch.fails(&["eval", "--images", "mixed"], &["1.png has 13×13 pixels, expected 12×12", "one size"]);
    scratch.fails(&["eval", "--images", "wide"], &["5×3", "square"]);
    scratch.fails(&["eval", "--images", "empty"], &["no images in empty"]);
    scratch.fails(&["eval", "--images", "made", "--data", "nowhere"], &["nowhere"]);
    scratch.fails(&["eval", "--images", "made", "--model", model()], &["--images"]);
    for i in 0..3 {
        scratch.write(&format!("large/{i}.png"), picture(16, i));
        let mut bytes = Vec::new();
        let image = image::GrayImage::from_fn(12, 12, |x, y| image::Luma([(x * y) as u8]));
        image.write_to(&mut std::io::Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
        scratch.write(&format!("grey/{i}.png"), bytes);
    }
    let against = |data: &'static str| ["eval", "--images", "made", "--data", data, "--no-cache"];
    scratch.fails(&against("large"), &["12×12", "16×16", "--adapt"]);
    scratch.fails(&against("mixed"), &["13×13", "--adapt"]);
    scratch.fails(&against("grey"), &["coloured", "grey", "--adapt"]);
    scratch.ok(&[&against("large")[..], &["--holdout", "0", "--adapt"]].concat());
    scratch.fails(&["eval", "--model", model(), "--adapt"], &["--images"]);
    let inception = |file: &'static str| ["eval", "--model", model(), "-n", "2", "--inception", file];
    scratch.fails(&inception("none.safetensors"), &["none.safetensors", "no such weights file"]);
    scratch.fails(&inception("weights.pth"), &["weights.pth", "pickle", "save_file"]);
    scratch.fails(&inception("weights.safetensors"), &["weights.safetensors"]);
    scratch.fails(&["eval", "--images", "made", "--report", "none/a.html"], &["none"]);
    scratch.fails(&["eval", "--images", "made", "--report", "a.json"], &["HTML"]);
}

#[test]
fn lengths_of_averages_are_compared() {
    let scratch = Scratch::new();
    scratch.write("run.toml", RUN.replace("[ema]", "[ema]\nsnapshot_every = 3"));
    scratch.ok(&["train", "run.toml", "--out", "run", "--steps", "12"]);
    let sweep = ["ema", "run", "--sweep", "0.05,0.1", "-n", "20", "--steps", "2", "--json"];
    let found = scratch.ok(&sweep).json().pop().unwrap();
    let points = found["sweep"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    assert!(points.iter().all(|p| p["quality"]["kid"]["value"].is_f64()), "{found}");
    assert!(scratch.path("sweep.png").exists());
    scratch.fails(&["ema", "run", "--sweep", "0.05,0.9"], &["std = 0.9"]);
    scratch.fails(&["ema", "run", "--sweep", "0.05", "--picture", "none/a.png"], &["none"]);
    scratch.fails(
        &["ema", "run", "--sweep", "0.05", "-n", "4", "--steps", "1", "--picture", "b.png"],
        &["KID needs at least 20"],
    );
    scratch.fails(&["ema", "run"], &["--std"]);
}
