//! Clips from files: every format, and what is wrong with them.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use tweedie_data::{
    Image, Rgb, Video,
    clip::{Clip, Part, read},
};

fn clip() -> Video {
    let pixel = |f: usize, i: usize| [(40 * i) as u8, (50 * f) as u8, 7];
    let image = |f: usize| (0..6 * 4).flat_map(|i| pixel(f, i % 6)).collect();
    Video { frames: (0..5).map(|f| Image { width: 6, height: 4, pixels: image(f) }).collect(), delay: 40 }
}

fn error(path: &Path, part: Part) -> String {
    read(path, part).unwrap_err().to_string()
}

#[test]
fn every_format_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let video = clip();
    // The name does not decide.
    for (name, exact) in [("a.png", true), ("a.webp", true), ("a.gif", false), ("a.y4m", false)] {
        let path = dir.path().join(name);
        video.write(&path, Some("request")).unwrap();
        let other = dir.path().join("film");
        fs::rename(&path, &other).unwrap();
        let Clip { video: found, remarks } = read(&other, Part::All).unwrap();
        assert_eq!((found.frames.len(), found.delay, remarks.len()), (5, 40, 0), "{name}");
        for (found, expected) in found.frames.iter().zip(&video.frames) {
            let off = found.pixels.iter().zip(&expected.pixels).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(off <= Some(if exact { 0 } else { 8 }), "{name}: {off:?}");
        }
        let first = read(&other, Part::First(2)).unwrap().video.frames;
        let last = read(&other, Part::Last(2)).unwrap().video.frames;
        assert_eq!((&first[..], &last[..]), (&found.frames[..2], &found.frames[3..]), "{name}");
        assert!(error(&other, Part::First(0)).contains("none of its frames"));
    }
}

#[test]
fn folders_are_in_the_order_of_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let video = clip();
    for (i, frame) in video.frames.iter().enumerate() {
        frame.save_png(dir.path().join(format!("shot2-{}.png", 7 + i))).unwrap();
    }
    fs::write(dir.path().join("notes.txt"), "no frame").unwrap();
    assert_eq!(read(dir.path(), Part::All).unwrap().video.frames, video.frames);
    assert_eq!(read(dir.path(), Part::Last(2)).unwrap().video.frames, video.frames[3..]);
    video.frames[0].save_png(dir.path().join("shot3-8.png")).unwrap();
    assert!(error(dir.path(), Part::All).contains("have the same number"));
    fs::remove_file(dir.path().join("shot3-8.png")).unwrap();
    Image::filled(6, 5, Rgb([0; 3])).save_png(dir.path().join("shot2-99.png")).unwrap();
    assert!(error(dir.path(), Part::All).contains("different sizes, 6×4 and 6×5 pixels"));
    fs::write(dir.path().join("x.png"), "").unwrap();
    assert!(error(dir.path(), Part::All).contains("has no number in its name"));
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    assert!(error(&path, Part::All).contains("a: "));
    assert!(error(dir.path(), Part::All).contains("there are no frames"));
    clip().frames[0].save_png(&path).unwrap();
    assert!(error(&path, Part::All).contains("a single image, not a clip"));
    for name in ["a.gif", "a.webp", "a.png", "a.y4m"] {
        let path = dir.path().join(name);
        clip().write(&path, None).unwrap();
        let bytes = fs::read(&path).unwrap();
        for cut in [1, 9, 14, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(error(&path, Part::All).contains(name), "{name} of {cut} bytes");
        }
    }
    // Neither these nor what ffmpeg knows, whether it is installed or not.
    fs::write(&path, "not a film at all").unwrap();
    assert!(error(&path, Part::All).contains("ffmpeg"));
}

/// Not more than the last frames are held: a film of any length has an end.
#[test]
fn a_long_film_is_refused_whole_but_its_end_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.y4m");
    let (side, frames) = (1024, 300);
    let mut bytes = format!("YUV4MPEG2 W{side} H{side} F25:1 Cmono\n").into_bytes();
    for f in 0..frames {
        bytes.extend(b"FRAME\n");
        bytes.resize(bytes.len() + side * side, f as u8);
    }
    fs::write(&path, bytes).unwrap();
    let message = error(&path, Part::All);
    assert!(
        message.contains("more than 256 frames of this size do not fit in the limit of 768 MiB"),
        "{message}"
    );
    let end = read(&path, Part::Last(2)).unwrap().video;
    assert_eq!(end.frames.len(), 2);
}
