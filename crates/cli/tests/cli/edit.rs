//! Editing images: every value outside the mask stays as it was, and invalid masks and images are errors.

use std::path::Path;

use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, RgbImage, RgbaImage};

use crate::{
    common::{Scratch, model},
    latent,
};

/// A value that differs from pixel to pixel and from channel to channel.
fn value(x: u32, y: u32, channel: usize, most: u32) -> u32 {
    (x * 7919 + y * 104_729 + channel as u32 * 31 + x * y * 13) % (most + 1)
}

/// A picture of each kind: channels and depth.
fn picture(width: u32, height: u32, channels: usize, deep: bool) -> DynamicImage {
    macro_rules! of {
        ($pixel:ident, $type:ty, $most:expr) => {
            ImageBuffer::from_fn(width, height, |x, y| {
                image::$pixel(std::array::from_fn(|c| value(x, y, c, $most) as $type))
            })
        };
    }
    match (channels, deep) {
        (1, false) => DynamicImage::ImageLuma8(of!(Luma, u8, 255)),
        (2, false) => DynamicImage::ImageLumaA8(of!(LumaA, u8, 255)),
        (3, false) => DynamicImage::ImageRgb8(of!(Rgb, u8, 255)),
        (4, false) => DynamicImage::ImageRgba8(of!(Rgba, u8, 255)),
        (1, true) => DynamicImage::ImageLuma16(of!(Luma, u16, 65535)),
        (2, true) => DynamicImage::ImageLumaA16(of!(LumaA, u16, 65535)),
        (3, true) => DynamicImage::ImageRgb16(of!(Rgb, u16, 65535)),
        _ => DynamicImage::ImageRgba16(of!(Rgba, u16, 65535)),
    }
}

/// The values of pixel `(x, y)` of an image of any kind, as bytes.
fn pixel(image: &DynamicImage, x: u32, y: u32) -> &[u8] {
    let each = usize::from(image.color().bytes_per_pixel());
    let start = (y * image.width() + x) as usize * each;
    &image.as_bytes()[start..start + each]
}

fn open(path: &Path) -> DynamicImage {
    image::open(path).unwrap()
}

/// Runs an edit and compares every pixel that `kept` says with the input's.
fn keeps(
    scratch: &Scratch,
    more: &[&str],
    before: &DynamicImage,
    shift: [u32; 2],
    kept: impl Fn(u32, u32) -> bool,
) {
    before.save(scratch.path("in.png")).unwrap();
    scratch.ok(&[&["edit", "in.png", "--steps", "2", "-o", "out.png"], more].concat());
    let after = open(&scratch.path("out.png"));
    assert_eq!(after.color(), before.color());
    let mut changed = 0;
    for y in 0..before.height() {
        for x in 0..before.width() {
            let (old, new) = (pixel(before, x, y), pixel(&after, x + shift[0], y + shift[1]));
            if kept(x, y) {
                assert_eq!(old, new, "({x}, {y}) of {:?} with {more:?}", before.color());
            } else {
                changed += usize::from(old != new);
            }
        }
    }
    assert!(changed > 0, "nothing was changed by {more:?}");
}

/// Every kind of PNG, odd sizes, smaller and larger than the model's 8 pixels.
#[test]
fn values_outside_the_mask_stay_in_models_of_pixels() {
    let scratch = Scratch::new();
    let outside = |x: u32, y: u32| !((1..4).contains(&x) && (2..4).contains(&y));
    let run = ["-m", model(), "--rect", "1,2,3,2"];
    for channels in 1..=4 {
        for deep in [false, true] {
            keeps(&scratch, &run, &picture(5, 7, channels, deep), [0; 2], outside);
        }
    }
    keeps(&scratch, &run, &picture(37, 23, 4, true), [0; 2], outside);
    // A large mask, and one in a corner of a large image.
    let most = ["-m", model(), "--rect", "0,0,29,19", "--method", "replacement"];
    keeps(&scratch, &most, &picture(31, 21, 3, true), [0; 2], |x, y| x >= 29 || y >= 19);
    let corner = ["-m", model(), "--ellipse", "90,70,11,13", "--feather", "3"];
    keeps(&scratch, &corner, &picture(101, 83, 3, false), [0; 2], |x, y| x < 90 || y < 70);
}

#[test]
fn values_outside_the_mask_stay_in_latent_models() {
    let scratch = Scratch::new();
    latent::model(&scratch);
    let run = ["-m", "sd", "-p", "a cat", "--rect", "1,2,3,2"];
    let outside = |x: u32, y: u32| !((1..4).contains(&x) && (2..4).contains(&y));
    for (width, height, channels, deep) in
        [(5, 7, 4, true), (31, 9, 3, false), (17, 33, 1, true), (16, 16, 2, false)]
    {
        keeps(&scratch, &run, &picture(width, height, channels, deep), [0; 2], outside);
    }
}

#[test]
fn extended_images_contain_the_original() {
    let scratch = Scratch::new();
    let before = picture(9, 6, 4, false);
    before.save(scratch.path("in.png")).unwrap();
    scratch.ok(&["edit", "in.png", "-m", model(), "--extend", "3,0,2,5", "--steps", "2", "-o", "out.png"]);
    let after = open(&scratch.path("out.png"));
    assert_eq!((after.width(), after.height()), (14, 11));
    for (x, y) in (0..6).flat_map(|y| (0..9).map(move |x| (x, y))) {
        assert_eq!(pixel(&before, x, y), pixel(&after, x + 3, y), "({x}, {y})");
    }
    assert!((0..11).all(|y| pixel(&after, 1, y)[3] == 255), "new pixels are opaque");
}

#[test]
fn masks_are_files_or_transparent_pixels() {
    let scratch = Scratch::new();
    let marked = |x: u32, y: u32| (3..6).contains(&x) && (1..3).contains(&y);
    GrayImage::from_fn(8, 8, |x, y| image::Luma([if marked(x, y) { 255 } else { 0 }]))
        .save(scratch.path("grey.png"))
        .unwrap();
    let clear = |x: u32, y: u32| if marked(x, y) { 0 } else { 255 };
    GrayAlphaImage::from_fn(8, 8, |x, y| image::LumaA([0, clear(x, y)]))
        .save(scratch.path("clear.png"))
        .unwrap();
    let run = |mask: &'static str| ["-m", model(), "--mask", mask];
    for mask in ["grey.png", "clear.png"] {
        keeps(&scratch, &run(mask), &picture(8, 8, 3, false), [0; 2], |x, y| !marked(x, y));
    }
    // Transparent pixels of the image itself are opaque afterwards.
    let holes = RgbaImage::from_fn(8, 8, |x, y| image::Rgba([9, 200, (x * y) as u8, clear(x, y)]));
    let holes = DynamicImage::ImageRgba8(holes);
    keeps(&scratch, &["-m", model(), "--transparent"], &holes, [0; 2], |x, y| !marked(x, y));
    assert!(open(&scratch.path("out.png")).into_rgba8().pixels().all(|p| p.0[3] == 255));
}

/// A grey mask is a strength per pixel: half of the steps leave these pixels nearer to the image.
#[test]
fn grey_masks_change_less() {
    let scratch = Scratch::new();
    let before = RgbImage::from_fn(8, 8, |x, y| image::Rgb([(x * 30) as u8, (y * 30) as u8, 128]));
    before.save(scratch.path("in.png")).unwrap();
    let distance = |grey: u8| {
        GrayImage::from_fn(8, 8, |_, y| image::Luma([if y < 6 { grey } else { 0 }]))
            .save(scratch.path("mask.png"))
            .unwrap();
        let run = ["edit", "in.png", "-m", model(), "--mask", "mask.png", "--steps", "20", "-o", "out.png"];
        scratch.ok(&[&run[..], &["--method", "replacement"]].concat());
        let after = open(&scratch.path("out.png")).into_rgb8();
        let sum = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
        before.as_raw().iter().zip(after.as_raw()).map(sum).sum::<f64>()
    };
    let [low, high] = [40, 255].map(distance);
    assert!(low > 0.0 && low < 0.5 * high, "{low} {high}");
}

#[test]
fn answers_are_repeated_from_their_file() {
    let scratch = Scratch::new();
    picture(8, 8, 3, false).save(scratch.path("in.png")).unwrap();
    let run =
        ["edit", "in.png", "-m", model(), "--rect", "2,2,4,4", "--steps", "4", "-n", "3", "--seed", "5"];
    let more = ["-o", "a.png", "--sheet", "sheet.png", "--spread", "spread.png"];
    let ran = scratch.ok(&[&run[..], &more, &["--json"]].concat());
    let finished = ran.json().pop().unwrap();
    assert_eq!(finished["files"].as_array().unwrap().len(), 5);
    assert!(finished["spread"].as_f64().unwrap() > 0.0);
    assert!(finished["seams"][2]["across"].as_f64().unwrap() >= 0.0);
    let spread = open(&scratch.path("spread.png")).into_luma8();
    assert_eq!((spread.get_pixel(0, 0).0, spread.iter().max()), ([0], Some(&255)));
    // Any batch size gives the same bits.
    scratch.ok(&["edit", "-m", model(), "--like", "a-1.png", "--chunk", "1", "-o", "b.png"]);
    for i in 0..3 {
        let read = |name: &str| open(&scratch.path(&format!("{name}-{i}.png"))).into_bytes();
        assert_eq!(read("a"), read("b"), "answer {i}");
    }
    scratch.fails(&["sample", "-m", model(), "--like", "a-0.png"], &["`tweedie edit --like`"]);
    picture(8, 8, 1, false).save(scratch.path("in.png")).unwrap();
    scratch.fails(&["edit", "-m", model(), "--like", "a-0.png", "-o", "c.png"], &["in.png", "has changed"]);
}

#[test]
fn masks_that_do_not_suit_are_errors() {
    let scratch = Scratch::new();
    picture(8, 8, 3, false).save(scratch.path("in.png")).unwrap();
    GrayImage::new(8, 7).save(scratch.path("small.png")).unwrap();
    GrayImage::new(8, 8).save(scratch.path("black.png")).unwrap();
    GrayImage::from_pixel(8, 8, image::Luma([255])).save(scratch.path("white.png")).unwrap();
    picture(8, 8, 3, false).save(scratch.path("colours.png")).unwrap();
    GrayAlphaImage::from_fn(8, 8, |x, y| image::LumaA([(x * 30) as u8, (y * 30) as u8]))
        .save(scratch.path("both.png"))
        .unwrap();
    scratch.write("text.png", "no image");
    let edit = |more: &[&str], words: &[&str]| {
        scratch.fails(&[&["edit", "in.png", "-m", model(), "-o", "out.png"], more].concat(), words);
    };
    edit(&["--mask", "small.png"], &["small.png", "8×7 pixels", "8×8", "same size"]);
    edit(&["--mask", "black.png"], &["`mask`", "marks no pixel"]);
    edit(&["--mask", "white.png"], &["nothing of the image is known", "`strength`"]);
    edit(&["--mask", "colours.png"], &["colours.png", "colours", "grey image"]);
    edit(&["--mask", "both.png"], &["both.png", "grey values and its transparency"]);
    edit(&["--mask", "text.png"], &["text.png", "png, jpeg"]);
    edit(&["--mask", "none.png"], &["none.png"]);
    edit(&["--transparent"], &["no transparent pixels"]);
    edit(&["--rect", "5,5,4,1"], &["rectangle 5,5,4,1", "8×8"]);
    edit(&["--ellipse", "0,0,0,4"], &["ellipse 0,0,0,4"]);
    edit(&["--rect", "1,2,3"], &["--rect", "four whole numbers"]);
    edit(&["--extend", "20000,0,0,0"], &["`extend`", "at most 16384"]);
    edit(&[], &["--mask", "--strength"]);
    edit(&["--feather", "3", "--strength", "0.5"], &["--feather has no effect"]);
    edit(&["--rect", "1,1,2,2", "--feather", "300"], &["feather", "300", "at most 256"]);
    scratch.fails(&["edit"], &["<IMAGE>"]);
}

#[test]
fn values_that_do_not_suit_are_errors() {
    let scratch = Scratch::new();
    picture(8, 8, 3, false).save(scratch.path("in.png")).unwrap();
    scratch.write("text.png", "no image");
    let edit = |more: &[&str], words: &[&str]| {
        let run = ["edit", "in.png", "-m", model(), "-o", "out.png", "--rect", "1,1,2,2"];
        scratch.fails(&[&run, more].concat(), words);
    };
    edit(&["--strength", "1.5"], &["`strength`", "1.5"]);
    edit(&["--strength", "0"], &["`strength`", "0"]);
    edit(&["--strength", "0.001", "--steps", "4"], &["`strength`", "no step remains"]);
    edit(&["--prompt", "cat"], &["`prompt`", "does not support prompts"]);
    edit(&["--method", "repant"], &["unknown method `repant`", "`repaint`"]);
    edit(&["--method", "repaint=0,3"], &["repaint=10,10"]);
    edit(&["--solver", "dpmpp-sde", "--method", "repaint=x"], &["repaint=10,10"]);
    edit(&["--solver", "lcm"], &["`lcm` cannot be used with `repaint`"]);
    edit(&["--window", "9x8"], &["size", "9", "multiples of 2"]);
    edit(&["--window", "1x8"], &["2 × 2", "1 × 8"]);
    edit(&["--spread", "s.png"], &["--spread", "-n"]);
    edit(&["--sheet", "s.jpg"], &["s.jpg", ".png"]);
    edit(&["--sheet", "none/s.png"], &["none/s.png"]);
    let out = ["-m", model(), "--rect", "1,1,2,2", "-o", "out.png"];
    scratch.fails(&[&["edit", "none.png"][..], &out].concat(), &["cannot read none.png"]);
    scratch.fails(&[&["edit", "text.png"][..], &out].concat(), &["text.png", "png, jpeg"]);
    scratch
        .fails(&["edit", "--like", "in.png", "-o", "out.png"], &["in.png", "no request of `tweedie edit`"]);
}
