//! Clips from files: every format, and what is wrong with them.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use tweedie_data::{
    Clips, ClipsConfig, DataConfig, Dataset, Image, OnError, Rgb, Source, Video,
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

/// A clip of `frames` frames, each of one grey that tells its number.
fn film(frames: usize, delay: u16) -> Video {
    let frame = |f: usize| Image::filled(12, 8, Rgb([10 * f as u8; 3]));
    Video { frames: (0..frames).map(frame).collect(), delay }
}

fn folder_of_clips(root: &Path) -> DataConfig {
    for class in ["cats", "dogs/long"] {
        fs::create_dir_all(root.join(class)).unwrap();
    }
    film(6, 120).write(&root.join("cats/a.gif"), None).unwrap();
    fs::write(root.join("cats/a.txt"), "a grey cat").unwrap();
    film(8, 62).write(&root.join("cats/b.webp"), None).unwrap();
    film(3, 250).write(&root.join("dogs/long/c.y4m"), None).unwrap();
    // A folder of frames is one clip, whose caption is beside it.
    fs::create_dir_all(root.join("dogs/shot.1")).unwrap();
    for (i, frame) in film(5, 125).frames.iter().enumerate() {
        frame.save_png(root.join(format!("dogs/shot.1/{i}.png"))).unwrap();
    }
    fs::write(root.join("dogs/shot.1.txt"), "a grey dog").unwrap();
    film(1, 125).frames[0].save_png(root.join("poster.png")).unwrap();
    fs::write(root.join("broken.y4m"), "YUV4MPEG2 W2 H2\nFRAME\n").unwrap();
    fs::write(root.join("notes.pdf"), "").unwrap();
    DataConfig {
        source: Source::Folder(root.into()),
        size: 4,
        clips: ClipsConfig { frames: 2, fps: 8 },
        ..DataConfig::default()
    }
}

#[test]
fn a_folder_of_clips_is_a_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let config = folder_of_clips(dir.path());
    let set = Dataset::open_by(&config, Clips::of(&config)).unwrap();
    let names: Vec<&str> = set.names().collect();
    let expected =
        ["broken.y4m", "cats/a.gif", "cats/b.webp", "dogs/long/c.y4m", "dogs/shot.1", "poster.png"];
    assert_eq!(names, expected);
    assert_eq!(set.class_names(), ["cats", "dogs"]);
    let captions: Vec<_> = set.words().map(|words| words.caption.as_deref()).collect();
    assert_eq!(captions, [None, Some("a grey cat"), None, None, Some("a grey dog"), None]);
    assert_eq!(set.passed_over().get(".pdf"), Some(&1));
    // Frames per second: 8, 16, 4 and 8; taken at 8.
    let greys = |index: usize| {
        let video = set.read(index, |film| film.video(99)).unwrap()?;
        assert!(video.frames.iter().all(|f| (f.width, f.height) == (4, 4)));
        Some(video.frames.iter().map(|f| f.pixels[0] as usize).collect::<Vec<_>>())
    };
    assert_eq!(greys(1).unwrap().len(), 6);
    assert_eq!(greys(2).unwrap(), [0, 20, 40, 60]);
    let slow = greys(3).unwrap();
    assert!(slow.len() == 6 && slow[0] == slow[1] && slow[1] + 5 < slow[2], "{slow:?}");
    assert_eq!(greys(4).unwrap(), [0, 10, 20, 30, 40]);
    assert_eq!((greys(0), greys(5)), (None, None));
    let skipped: Vec<String> = set.skipped().into_iter().map(|s| s.reason).collect();
    assert!(skipped[0].contains("ends within a frame") && skipped[1].contains("single image"), "{skipped:?}");
    let facts = set.read(2, |film| film.facts()).unwrap().unwrap();
    assert_eq!((facts.width, facts.height, facts.frames), (12, 8, 8));
    assert!((facts.seconds - 0.496).abs() < 1e-9);

    let strict = DataConfig { on_error: OnError::Fail, ..config.clone() };
    let set = Dataset::open_by(&strict, Clips::of(&strict)).unwrap();
    let error = set.read(0, |film| film.facts()).unwrap_err().to_string();
    assert!(error.contains("broken.y4m: the file ends within a frame"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let none = DataConfig { source: Source::Folder(empty.path().into()), ..config };
    let error = Dataset::open_by(&none, Clips::of(&none)).err().unwrap().to_string();
    assert!(error.contains("no clips in") && error.contains("mp4"), "{error}");
}

#[test]
fn windows_out_of_range_are_named() {
    let error = |clips| DataConfig { clips, ..DataConfig::default() }.validate().unwrap_err().to_string();
    assert!(error(ClipsConfig { frames: 0, fps: 8 }).contains("data.clips.frames = 0"));
    assert!(error(ClipsConfig { frames: 16, fps: 241 }).contains("data.clips.fps = 241"));
}
