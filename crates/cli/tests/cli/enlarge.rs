//! `tweedie sample` with a model that enlarges images.

use std::path::Path;

use serde_json::json;
use tweedie::{
    hub::{Enlarging, Extras, SchedulerConfig, model_dir, weights::Precision},
    models::{UNet2DConfig, UNet2DModel},
};

use crate::common::Scratch;

/// Writes an untrained model that enlarges twice per side.
fn save(folder: &Path) {
    let config = r#"{"sample_size": 32, "in_channels": 6, "out_channels": 3, "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 4, "add_attention": false, "class_embed_type": "timestep"}"#;
    let config = UNet2DConfig::from_json(config).unwrap();
    let network = UNet2DModel::new(&config, 0, &tweedie::ops::device("cpu").unwrap()).unwrap();
    let enlarging = Some(Enlarging { factor: 2, noise_level: 20, most_noise: 300 });
    let training = json!({ "config": { "data": { "size": 64 } } }).as_object().unwrap().clone();
    let extras = Extras { enlarging, training, ..Extras::default() };
    let scheduler = SchedulerConfig::flow(1000, 1.0).unwrap();
    model_dir::save(folder, &network, &scheduler, &extras, Precision::F32).unwrap();
}

fn size(scratch: &Scratch, name: &str) -> (u32, u32) {
    image::image_dimensions(scratch.path(name)).unwrap()
}

#[test]
fn an_image_is_enlarged_and_what_another_model_made_too() {
    let scratch = Scratch::new();
    save(&scratch.path("larger"));
    let sample = |more: &[&str]| scratch.ok(&[&["sample", "--steps", "2", "--zoom", "1"], more].concat());
    sample(&["-n", "1", "-o", "small.png", "--singles", "small"]);
    let ran =
        sample(&["--model", "larger", "--image", "small/0000.png", "-o", "one.png", "--singles", "one"]);
    assert!(ran.stdout.contains("1 image"), "{}", ran.told());
    assert_eq!(size(&scratch, "one/0000.png"), (64, 64));
    sample(&["--like", "one.png", "--model", "larger", "-o", "again.png"]);
    assert_eq!(scratch.read("one.png"), scratch.read("again.png"));

    let both = ["-n", "2", "--enlarge", "larger", "-o", "both.png", "--singles", "both"];
    sample(&both);
    assert_eq!(size(&scratch, "both/0001.png"), (64, 64));
    sample(&["--like", "both.png", "-o", "same.png"]);
    assert_eq!(scratch.read("both.png"), scratch.read("same.png"));

    // Of two images there is no Fréchet distance.
    let ran = scratch.ok(&["eval", "--model", "larger", "--data", "both", "-o", "rows.png", "--steps", "2"]);
    for words in
        ["2 images of both, reduced to 32x32", "bicubic filter", "2 steps", "8 steps", "original: rows.png"]
    {
        assert!(ran.stdout.contains(words), "{}", ran.told());
    }
    // The small image, three methods and the original.
    assert_eq!(size(&scratch, "rows.png").0, 5 * 64 + 6 * 2);
    scratch.fails(&["eval", "--model", "larger", "--data", "small", "--holdout", "2"], &["holdout", "2"]);

    for (flags, words) in [
        (&["--enlarge", "emoji-32"][..], &["--enlarge emoji-32", "does not enlarge"][..]),
        (&["--enlarge", "nothing"], &["nothing"]),
        (&["--noise-level", "5"], &["noise_level", "does not enlarge"]),
        (&["--model", "larger"], &["image", "expected one"]),
        (&["--model", "larger", "--image", "small/0000.png", "--noise-level", "301"], &["301", "300"]),
        (&["--model", "larger", "--image", "small/0000.png", "--class", "heart"], &["classes"]),
        (&["--model", "larger", "--image", "small/0000.png", "--strength", "0.5"], &["strength"]),
    ] {
        scratch.fails(&[&["sample", "--steps", "1", "-o", "x.png"], flags].concat(), words);
        assert!(!scratch.path("x.png").exists());
    }
}

#[test]
fn restore_uses_a_model_that_was_trained_to_enlarge() {
    let scratch = Scratch::new();
    scratch.ok(&["sample", "-n", "1", "--steps", "5", "-o", "x.png", "--singles", "small"]);
    let small = "small/0000.png";
    let made = ["restore", small, "--enlarge", "4", "-n", "2", "--steps", "2", "-o", "large.png"];
    let more = ["--sheet", "sheet.png", "--spread", "spread.png"];
    let ran = scratch.ok(&[&made[..], &more[..]].concat()).says(&["using emoji-x4"]);
    assert!(ran.stdout.contains("2 answers") && ran.stdout.contains("standard deviation"), "{}", ran.told());
    assert_eq!([size(&scratch, "large-1.png"), size(&scratch, "spread.png")], [(128, 128); 2]);
    assert_ne!(scratch.read("large-0.png"), scratch.read("large-1.png"));
    // The same request by `sample`.
    scratch.ok(&[
        "sample",
        "--like",
        "large-0.png",
        "--model",
        "emoji-x4",
        "-o",
        "y.png",
        "--singles",
        "again",
    ]);
    let pixels = |name: &str| image::open(scratch.path(name)).unwrap().into_rgb8();
    assert_eq!(pixels("large-1.png"), pixels("again/0001.png"));
    let clear = image::RgbaImage::from_pixel(8, 8, image::Rgba([9, 9, 9, 0]));
    clear.save(scratch.path("clear.png")).unwrap();
    scratch.fails(&["restore", "clear.png", "--enlarge", "4", "-o", "z.png"], &["clear.png", "transparent"]);
    let deep = image::ImageBuffer::<image::Rgb<u16>, _>::from_pixel(8, 8, image::Rgb([9, 900, 60000]));
    deep.save(scratch.path("deep.png")).unwrap();
    scratch
        .ok(&["restore", "deep.png", "--enlarge", "4", "--steps", "1", "-o", "d.png"])
        .says(&["16 bits", "8"]);
    save(&scratch.path("larger"));
    let twice = ["restore", small, "--enlarge", "2", "--model", "larger", "--steps", "1", "-o", "two.png"];
    scratch.ok(&twice);
    assert_eq!(size(&scratch, "two.png"), (64, 64));
    scratch.fails(
        &["restore", small, "--enlarge", "3", "--model", "larger", "-o", "z.png"],
        &["enlarges 2 times"],
    );
    scratch.fails(
        &["restore", small, "--enlarge", "4", "--spread", "s.png", "-o", "z.png"],
        &["--spread", "-n"],
    );
}
