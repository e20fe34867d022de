//! Folders of files: formats, classes, captions, and invalid files.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use image::{DynamicImage, ImageFormat, Rgb32FImage, RgbImage, RgbaImage};
use tweedie_data::{Audio, DataConfig, DataError, Dataset, FolderConfig, OnError, Sounds, Source};
use tweedie_media::{WavFormat, write_wav};

fn config(root: &Path) -> DataConfig {
    DataConfig { source: Source::Folder(root.into()), size: 8, ..DataConfig::default() }
}

fn write(path: impl AsRef<Path>, color: [u8; 3], format: ImageFormat) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    RgbImage::from_pixel(12, 9, image::Rgb(color)).save_with_format(path, format).unwrap();
}

fn message(config: &DataConfig) -> String {
    Dataset::open(config).err().unwrap().to_string()
}

fn item(dataset: &Dataset, name: &str) -> tweedie_data::Item {
    dataset.get(dataset.names().position(|n| n == name).unwrap()).unwrap()
}

#[test]
fn every_format_whatever_it_is_called() {
    let dir = tempfile::tempdir().unwrap();
    let formats = [
        ("a.png", ImageFormat::Png),
        ("b.JPG", ImageFormat::Jpeg),
        ("c.gif", ImageFormat::Gif),
        ("d.bmp", ImageFormat::Bmp),
        ("e.webp", ImageFormat::WebP),
        ("f.tiff", ImageFormat::Tiff),
        ("a-png-called.jpeg", ImageFormat::Png),
    ];
    for (name, format) in formats {
        write(dir.path().join(name), [200, 100, 50], format);
    }
    fs::write(dir.path().join("notes.md"), "no image").unwrap();
    fs::write(dir.path().join(".hidden.png"), "no image").unwrap();
    let dataset = Dataset::open(&config(dir.path())).unwrap();
    assert_eq!(dataset.len(), 7, "{:?}", dataset.skipped());
    assert!(dataset.class_names().is_empty());
    for i in 0..7 {
        let item = dataset.get(i).unwrap();
        let near = |p: &[u8]| p.iter().zip([200, 100, 50]).all(|(a, b)| a.abs_diff(b) < 4);
        assert!(item.sample.pixels.chunks_exact(3).all(near), "{}", item.name);
    }
}

#[test]
fn classes_and_captions() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["dog/1.png", "cat/deep/2.png", "cat-like/3.png", "4.png", "dog/5.png"] {
        write(at(name), [9, 9, 9], ImageFormat::Png);
    }
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("4.txt"), " four \n").unwrap();
    fs::write(
        at("metadata.jsonl"),
        "{\"file_name\": \"dog/1.png\", \"text\": \"a dög\", \"more\": 1}\n\n{\"file_name\": \"cat-like/3.png\"}\n",
    )
    .unwrap();
    fs::write(at("cat/captions.jsonl"), "{\"file_name\": \"deep/2.png\", \"caption\": \"a cat\"}").unwrap();
    let dataset = Dataset::open(&config(dir.path())).unwrap();
    assert_eq!(dataset.class_names(), ["cat", "cat-like", "dog"]);
    let of = |name: &str| {
        let item = item(&dataset, name);
        (item.class, item.words.caption.clone())
    };
    assert_eq!(of("4.png"), (None, Some("four".into())));
    assert_eq!(of("cat/deep/2.png"), (Some(0), Some("a cat".into())));
    assert_eq!(of("cat-like/3.png"), (Some(1), None));
    assert_eq!(of("dog/1.png"), (Some(2), Some("a dög".into())));
    assert_eq!(of("dog/5.png"), (Some(2), None));

    let mut flat = config(dir.path());
    flat.folder.classes = false;
    let flat = Dataset::open(&flat).unwrap();
    assert!(flat.class_names().is_empty() && flat.classes().iter().all(Option::is_none));
}

#[test]
fn captions_of_a_table() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["1.png", "in/2.png", "3.png"] {
        write(dir.path().join(name), [9, 9, 9], ImageFormat::Png);
    }
    let with = |text: &str| {
        fs::write(dir.path().join("metadata.csv"), text).unwrap();
        config(dir.path())
    };
    let good = "width,file_name,text\n8,1.png,\"a cat, \"\"small\"\"\nand red\"\n8,in/2.png,\n";
    let dataset = Dataset::open(&with(good)).unwrap();
    let caption = |name: &str| item(&dataset, name).words.caption.clone();
    assert_eq!(caption("1.png").as_deref(), Some("a cat, \"small\"\nand red"));
    assert_eq!((caption("in/2.png"), caption("3.png")), (None, None));
    let error = message(&with("name,text\n1.png,a cat\n"));
    assert!(error.contains("metadata.csv, line 1") && error.contains("`file_name`"), "{error}");
    let error = message(&with(&format!("{good}8,3.png,a dog,more\n")));
    assert!(error.contains("metadata.csv, line 5"), "{error}");
    let config = DataConfig { on_error: OnError::Fail, ..with("file_name,text\n1.png,one\n4.png,four\n") };
    let error = message(&config);
    assert!(error.contains("line 3") && error.contains("4.png"), "{error}");
}

#[test]
fn captions_that_are_wrong_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("1.png"), [9, 9, 9], ImageFormat::Png);
    let with = |text: &str| {
        fs::write(dir.path().join("mine.jsonl"), text).unwrap();
        let folder = FolderConfig { captions: Some("mine.jsonl".into()), ..FolderConfig::default() };
        DataConfig { folder, ..config(dir.path()) }
    };
    let good = "{\"file_name\": \"1.png\", \"text\": \"one\"}\n";
    assert_eq!(Dataset::open(&with(good)).unwrap().get(0).unwrap().words.caption.as_deref(), Some("one"));
    let error = message(&with(&format!("{good}{{oops")));
    assert!(error.contains("mine.jsonl, line 2: invalid JSON"), "{error}");
    assert!(message(&with("{\"text\": \"one\"}")).contains("file_name"));
    assert!(message(&with("{\"file_name\": \"1.png\", \"text\": 3}")).contains("the text is 3"));
    let missing = with(&format!("{good}{{\"file_name\": \"2.png\", \"text\": \"two\"}}"));
    let skipped = Dataset::open(&missing).unwrap().skipped();
    assert!(skipped.len() == 1 && skipped[0].path.ends_with("2.png"), "{skipped:?}");
    let error = message(&DataConfig { on_error: OnError::Fail, ..missing });
    assert!(error.contains("line 2") && error.contains("2.png"), "{error}");
    let folder = FolderConfig { captions: Some("none.jsonl".into()), ..FolderConfig::default() };
    assert!(message(&DataConfig { folder, ..config(dir.path()) }).contains("none.jsonl"));
}

#[test]
fn missing_empty_and_not_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let error = message(&config(&dir.path().join("nowhere")));
    assert!(error.contains("nowhere") && error.contains("does not exist"), "{error}");
    let error = message(&config(dir.path()));
    assert!(error.contains(dir.path().to_str().unwrap()) && error.contains("webp"), "{error}");
    let file = dir.path().join("a.png");
    write(&file, [0; 3], ImageFormat::Png);
    assert!(message(&config(&file)).contains("is not a folder"));
}

/// Files that are broken in several ways, and a word that the error must contain.
fn broken(dir: &Path) -> Vec<(&'static str, &'static str)> {
    let noise = RgbImage::from_fn(64, 64, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, (x * y) as u8]));
    let encoded = |format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        DynamicImage::from(noise.clone()).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let png = encoded(ImageFormat::Png);
    fs::write(dir.join("truncated.png"), &png[..png.len() / 2]).unwrap();
    let mut flipped = png.clone();
    flipped[png.len() / 2] ^= 0xff;
    fs::write(dir.join("flipped.png"), flipped).unwrap();
    let jpeg = encoded(ImageFormat::Jpeg);
    fs::write(dir.join("truncated.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    let webp = encoded(ImageFormat::WebP);
    fs::write(dir.join("truncated.webp"), &webp[..webp.len() / 2]).unwrap();
    fs::write(dir.join("empty.png"), "").unwrap();
    fs::write(dir.join("text.jpg"), "hello").unwrap();
    // A header that claims 60000x60000 pixels.
    let mut bomb = png;
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    fs::write(dir.join("bomb.png"), bomb).unwrap();
    let mut floats = Rgb32FImage::from_pixel(4, 4, image::Rgb([0.5; 3]));
    floats.get_pixel_mut(2, 1)[1] = f32::NAN;
    DynamicImage::from(floats).save(dir.join("nan.tiff")).unwrap();
    vec![
        ("bomb.png", ""),
        ("empty.png", "not a png"),
        ("flipped.png", ""),
        ("nan.tiff", "not finite"),
        ("text.jpg", "not a png"),
        ("truncated.jpg", "truncated"),
        ("truncated.png", ""),
        ("truncated.webp", ""),
    ]
}

#[test]
fn corrupt_images_are_skipped_or_fatal_and_always_named() {
    let dir = tempfile::tempdir().unwrap();
    let broken = broken(dir.path());
    let error = message(&config(dir.path()));
    assert!(
        error.contains("none of the 8 images found can be used") && error.contains("bomb.png"),
        "{error}"
    );

    let half = RgbaImage::from_pixel(3, 3, image::Rgba([0, 0, 0, 128]));
    half.save(dir.path().join("good.png")).unwrap();
    let dataset = Dataset::open(&config(dir.path())).unwrap();
    assert_eq!(dataset.names().collect::<Vec<_>>(), ["good.png"]);
    assert_eq!(dataset.get(0).unwrap().sample.pixel(4, 4), [127; 3]);
    let skipped = dataset.skipped();
    assert_eq!(skipped.len(), broken.len());
    for (skip, (name, word)) in skipped.iter().zip(&broken) {
        assert!(skip.path.ends_with(name) && skip.reason.contains(word), "{skip:?}");
    }

    let lazy = Dataset::open(&DataConfig { cache_mb: 0, ..config(dir.path()) }).unwrap();
    assert_eq!(lazy.len(), 9);
    assert!((0..9).all(|i| lazy.get(i).unwrap().name == "good.png"), "the next good one stands in");
    assert_eq!(lazy.skipped().len(), 8);

    let strict = DataConfig { on_error: OnError::Fail, ..config(dir.path()) };
    let error = message(&strict);
    assert!(error.contains("corrupt image") && error.contains("bomb.png"), "{error}");
    let lazy = Dataset::open(&DataConfig { cache_mb: 0, ..strict }).unwrap();
    assert!(matches!(lazy.get(1), Err(DataError::Corrupt { path, .. }) if path.ends_with("empty.png")));
}

#[test]
fn a_camera_held_upright() {
    let dir = tempfile::tempdir().unwrap();
    let half = RgbImage::from_fn(16, 16, |x, _| image::Rgb(if x < 8 { [0; 3] } else { [255; 3] }));
    let mut jpeg = std::io::Cursor::new(Vec::new());
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut jpeg, 95).encode_image(&half).unwrap();
    let jpeg = jpeg.into_inner();
    // An Exif segment holding one tag: orientation 6, to be turned clockwise by a quarter.
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
    fs::write(dir.path().join("a.jpg"), turned).unwrap();
    let dataset = Dataset::open(&DataConfig { size: 16, ..config(dir.path()) }).unwrap();
    let image = dataset.get(0).unwrap().sample;
    assert!(image.pixel(3, 2)[0] < 10 && image.pixel(12, 2)[0] < 10, "the left half comes to the top");
    assert!(image.pixel(3, 13)[0] > 245 && image.pixel(12, 13)[0] > 245);
}

/// Each is decoded once: a search from every item over all corrupt ones would take minutes.
#[test]
fn thousands_of_corrupt_images_take_no_longer_than_they_are_many() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..4000 {
        fs::write(dir.path().join(format!("{i:04}.png")), "no image").unwrap();
    }
    let lazy = || Dataset::open(&DataConfig { cache_mb: 0, holdout: 0.0, ..config(dir.path()) }).unwrap();
    let begun = std::time::Instant::now();
    let none = lazy();
    assert!((0..none.len()).all(|i| none.get(i).is_err()));
    assert_eq!(none.skipped().len(), 4000);
    let error = none.get(0).err().unwrap().to_string();
    assert!(error.contains("none of the 4000 images found can be used"), "{error}");
    write(dir.path().join("good.png"), [9, 9, 9], ImageFormat::Png);
    let one = lazy();
    assert!((0..one.len()).all(|i| one.get(i).unwrap().name == "good.png"));
    assert_eq!(
        (one.skipped().len(), one.skipped_from(3999).len(), one.skipped_from(9999).len()),
        (4000, 1, 0)
    );
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}

/// Another medium is another way to decode.
#[test]
fn a_folder_of_sounds() {
    let dir = tempfile::tempdir().unwrap();
    for (name, length) in [("left/a.wav", 5), ("left/b.wav", 3), ("right/c.WAV", 4)] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let audio = Audio { channels: vec![vec![0.25; length]; 2], rate: 8000, guessed: false };
        write_wav(&path, &audio, WavFormat::Float32, None).unwrap();
    }
    fs::write(dir.path().join("left/a.txt"), "a short one").unwrap();
    fs::write(dir.path().join("left/broken.wav"), b"RIFF").unwrap();
    let config = DataConfig { source: Source::Folder(dir.path().into()), ..DataConfig::default() };
    let sounds = Dataset::open_by(&config, Sounds).unwrap();
    assert_eq!((sounds.len(), sounds.class_names()), (4, &["left".to_owned(), "right".into()][..]));
    let first = sounds.get(0).unwrap();
    assert_eq!((first.sample.len(), first.sample.rate, first.class), (5, 8000, Some(0)));
    assert_eq!(first.words.caption.as_deref(), Some("a short one"));
    // The broken one is replaced by the next good one.
    assert_eq!(sounds.get(2).unwrap().name, "right/c.WAV");
    assert_eq!(sounds.skipped()[0].path, dir.path().join("left/broken.wav"));

    let images = Dataset::open(&config).err().unwrap().to_string();
    assert!(images.contains("png"), "{images}");
    fs::remove_dir_all(dir.path().join("right")).unwrap();
    fs::remove_file(dir.path().join("left/a.wav")).unwrap();
    fs::remove_file(dir.path().join("left/b.wav")).unwrap();
    let none = Dataset::open_by(&config, Sounds).unwrap().get(0).err().unwrap().to_string();
    assert!(none.contains("sounds found can be used"), "{none}");
}

fn sound(path: &Path, length: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let audio = Audio { channels: vec![vec![0.25; length]], rate: 8000, guessed: false };
    write_wav(path, &audio, WavFormat::Pcm16, None).unwrap();
}

#[test]
fn the_free_spoken_digit_dataset_is_known_by_its_names() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["7_theo_4", "7_theo_5", "0_ann_12"] {
        sound(&dir.path().join(format!("recordings/{name}.wav")), 9);
    }
    let config =
        DataConfig { source: Source::Folder(dir.path().into()), holdout: 0.0, ..DataConfig::default() };
    let sounds = Dataset::open_by(&config, Sounds).unwrap();
    assert_eq!(sounds.class_names(), ["ann", "theo"]);
    assert!(
        sounds.recognized_as().contains("Free Spoken Digit Dataset, 3 sounds"),
        "{}",
        sounds.recognized_as()
    );
    let (train, held) = sounds.split();
    assert_eq!((train.len(), held.names().collect::<Vec<_>>()), (2, vec!["recordings/7_theo_4.wav"]));
    let first = sounds.get(0).unwrap();
    assert_eq!((first.words.caption.as_deref(), first.class), (Some("zero"), Some(0)));
    assert_eq!(first.words.kinds, ["ann"]);
    // One other name, and names mean nothing.
    sound(&dir.path().join("recordings/other.wav"), 9);
    let sounds = Dataset::open_by(&config, Sounds).unwrap();
    assert_eq!((sounds.recognized_as(), sounds.class_names()), ("", &["recordings".to_owned()][..]));
}

#[test]
fn transcripts_of_asterisk_are_captions() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["activated", "digits/1"] {
        sound(&dir.path().join(format!("{name}.wav")), 9);
    }
    let text = "; Core Asterisk Sounds\n\nactivated: Activated.\ndigits/1: one\nmissing: Not here: really.\n";
    fs::write(dir.path().join("core-sounds-en.txt"), text).unwrap();
    let config = DataConfig { source: Source::Folder(dir.path().into()), ..DataConfig::default() };
    let sounds = Dataset::open_by(&config, Sounds).unwrap();
    let captions: Vec<_> = sounds.words().map(|words| words.caption.clone().unwrap()).collect();
    assert_eq!(captions, ["Activated.", "one"]);
    assert!(sounds.skipped()[0].reason.contains("line 5"), "{:?}", sounds.skipped());
    fs::write(dir.path().join("core-sounds-en.txt"), "activated Activated.\n").unwrap();
    let error = Dataset::open_by(&config, Sounds).err().unwrap().to_string();
    assert!(error.contains("line 1") && error.contains("a colon"), "{error}");
}
