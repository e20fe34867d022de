//! `tweedie sample`: same seed, same bytes; every kind of file it writes.

use std::{fs::File, io::BufReader, path::Path};

use image::{
    AnimationDecoder, GenericImageView,
    codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder},
};

use crate::{
    common::{Scratch, model},
    tensors,
};

/// What the user asks for besides the number of pictures: a solver that draws noise, and guidance.
const ASK: &[&str] = &["--solver", "ddpm", "--steps", "4", "--guidance", "1.5"];

fn sample<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["sample", "--quiet", "--model", model()], ASK, more].concat()
}

/// The bytes of the samples of one run, and how many there are.
fn rows(scratch: &Scratch, more: &[&str]) -> (Vec<usize>, Vec<u8>) {
    scratch.ok(&[&sample(more)[..], &["--save-tensors", "rows.safetensors"]].concat());
    tensors::only(&scratch.path("rows.safetensors"), "samples")
}

#[test]
fn rows_depend_on_nothing_but_the_seed() {
    let scratch = Scratch::new();
    let (shape, expected) = rows(&scratch, &["-n", "6", "--threads", "1"]);
    assert_eq!(shape, [6, 3, 8, 8]);
    let values = tensors::values(&expected);
    assert!(values.iter().all(|v| v.is_finite()) && values.iter().any(|v| *v != values[0]));
    for more in [&["--threads", "2"][..], &["--chunk", "1"], &["--chunk", "16"], &["--chunk", "5"]] {
        let (_, found) = rows(&scratch, &[&["-n", "6"], more].concat());
        assert!(found == expected, "{more:?}");
    }
    let (shape, fewer) = rows(&scratch, &["-n", "3"]);
    assert_eq!(shape[0], 3);
    assert!(expected.starts_with(&fewer));
    assert_ne!(rows(&scratch, &["-n", "3", "--seed", "4"]).1, fewer);
    assert_ne!(fewer[..768], fewer[768..1536]);
}

/// Of the built-in model: others here are too narrow for eight bits.
#[test]
fn fewer_bits_give_nearly_the_same_rows_in_every_batch() {
    let scratch = Scratch::new();
    let run = |precision: &str, more: &[&str]| {
        let ask = ["sample", "-q", "-n", "3", "--steps", "3", "--save-tensors", "rows.safetensors"];
        scratch.ok(&[&ask[..], &["--precision", precision], more].concat());
        tensors::only(&scratch.path("rows.safetensors"), "samples").1
    };
    let full = run("f32", &[]);
    for precision in ["bf16", "int8"] {
        let fewer = run(precision, &[]);
        assert!(fewer != full, "{precision}");
        let pairs = tensors::values(&fewer).into_iter().zip(tensors::values(&full));
        let square: f32 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
        let rms = (square / (3 * 3 * 32 * 32) as f32).sqrt();
        assert!(rms < 0.05, "{precision}: {rms}");
        for more in [["--threads", "1"], ["--chunk", "1"]] {
            assert!(run(precision, &more) == fewer, "{precision}, {more:?}");
        }
    }
}

#[test]
fn a_picture_carries_the_request_that_repeats_it() {
    let scratch = Scratch::new();
    scratch.ok(&sample(&[
        "-n",
        "2",
        "--class",
        "activities",
        "--eta",
        "0.5",
        "--precision",
        "bf16",
        "-o",
        "a.png",
    ]));
    scratch.ok(&["sample", "--model", model(), "--like", "a.png", "-o", "b.png"]);
    assert!(scratch.read("a.png") == scratch.read("b.png"));
    scratch.ok(&["sample", "--model", model(), "--like", "a.png", "--steps", "3", "-o", "c.png"]);
    assert!(scratch.read("a.png") != scratch.read("c.png"));
}

/// Frames of an animation, all of them decoded; their sizes are equal.
fn frames(path: &Path) -> (usize, (u32, u32)) {
    let file = BufReader::new(File::open(path).unwrap());
    let frames = match path.extension().and_then(|e| e.to_str()).unwrap() {
        "gif" => GifDecoder::new(file).unwrap().into_frames(),
        "webp" => WebPDecoder::new(file).unwrap().into_frames(),
        _ => PngDecoder::new(file).unwrap().apng().unwrap().into_frames(),
    };
    let frames = frames.collect_frames().unwrap();
    let size = frames[0].buffer().dimensions();
    assert!(frames.iter().all(|f| f.buffer().dimensions() == size));
    (frames.len(), size)
}

#[test]
fn every_kind_of_file_is_written() {
    let scratch = Scratch::new();
    let grid = ["-n", "4", "--zoom", "3", "-o", "grid.png", "--filmstrip", "strip.png"];
    let ran = scratch.ok(&sample(&[&grid[..], &["--singles", "each", "--animation", "a.gif"]].concat()));
    for name in ["grid.png", "strip.png", "each", "a.gif"] {
        assert!(ran.stdout.contains(name), "{}", ran.stdout);
    }
    // Two by two pictures of 8 pixels, 2 pixels between and around them, three times as large.
    let size = image::open(scratch.path("grid.png")).unwrap().dimensions();
    assert_eq!(size, (66, 66));
    for i in 0..4 {
        let single = image::open(scratch.path(&format!("each/{i:04}.png"))).unwrap().to_rgb8();
        assert_eq!(single.dimensions(), (8, 8));
        let enlarged = image::open(scratch.path("grid.png")).unwrap().to_rgb8();
        let corner = [3 * (2 + 10 * (i % 2)), 3 * (2 + 10 * (i / 2))];
        assert_eq!(enlarged.get_pixel(corner[0], corner[1]), single.get_pixel(0, 0), "picture {i}");
    }
    // A row for each picture.
    let strip = image::open(scratch.path("strip.png")).unwrap().dimensions();
    assert!(strip.0 > strip.1 / 2 && strip.1 == 3 * (4 * 10 + 2), "{strip:?}");
    let gif = frames(&scratch.path("a.gif"));
    assert!(gif.0 >= 4, "{gif:?}");
    for name in ["b.png", "b.webp"] {
        scratch.ok(&sample(&["-n", "4", "--zoom", "3", "--noisy", "--animation", name]));
        assert_eq!(frames(&scratch.path(name)), gif, "{name}");
    }
    assert_eq!(gif.1, size);
}

#[test]
fn noise_can_be_given() {
    let scratch = Scratch::new();
    let noise = tensors::ramp(&[2, 3, 8, 8]);
    scratch.write("noise.safetensors", tensors::file(&[("noise", noise)]));
    let given = ["-n", "2", "--solver", "ddim", "--eta", "0", "--noise", "noise.safetensors"];
    let ask = |seed| {
        let base = ["sample", "-q", "--model", model(), "--steps", "3", "--save-tensors", "out.safetensors"];
        scratch.ok(&[&base[..], &given, &["--seed", seed]].concat());
        scratch.read("out.safetensors")
    };
    // Nothing else is random here.
    assert!(ask("1") == ask("2"));
}

#[test]
fn the_built_in_model_needs_no_flags() {
    let scratch = Scratch::new();
    let ran = scratch.ok(&["sample", "-n", "2", "--steps", "3"]);
    assert!(ran.stdout.contains("tweedie.png"), "{}", ran.stdout);
    let picture = scratch.read("tweedie.png");
    assert_eq!(scratch.files().len(), 1);
    image::load_from_memory(&picture).unwrap();
    scratch.ok(&["sample", "--like", "tweedie.png", "-o", "again.png"]);
    assert!(picture == scratch.read("again.png"));
}

#[test]
fn scripts_get_json_and_nothing_else() {
    let ran = Scratch::new().ok(&["sample", "--json", "-n", "3", "--steps", "3", "--model", model()]);
    assert_eq!(ran.stderr, "");
    let events = ran.json();
    assert_eq!(events.iter().filter(|e| e["event"] == "step").count(), 3);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["count"], &last["files"][0]),
        (&"finished".into(), &3.into(), &"tweedie.png".into())
    );
}
