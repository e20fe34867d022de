//! Restoring images: sizes, channels and depths of the results, repeated requests, and errors.

use image::{DynamicImage, GrayImage, ImageBuffer, RgbImage};

use crate::{
    common::{Scratch, model},
    latent,
};

fn color(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 40) as u8, (y * 30 + 20) as u8, (x * y) as u8]))
}

fn open(scratch: &Scratch, name: &str) -> DynamicImage {
    image::open(scratch.path(name)).unwrap()
}

#[test]
fn enlarged_images_shrink_to_the_original() {
    let scratch = Scratch::new();
    let small = color(5, 3);
    small.save(scratch.path("in.png")).unwrap();
    for filter in ["box", "bicubic"] {
        let run = [
            "restore",
            "in.png",
            "-m",
            model(),
            "--enlarge",
            "4",
            "--filter",
            filter,
            "--steps",
            "3",
            "-n",
            "2",
        ];
        scratch
            .ok(&[&run[..], &["-o", "out.png", "--sheet", "sheet.png", "--spread", "spread.png"]].concat());
        let large = open(&scratch, "out-0.png").into_rgb8();
        assert_eq!((large.width(), large.height()), (20, 12));
        assert_ne!(large, open(&scratch, "out-1.png").into_rgb8());
        if filter == "box" {
            // The mean of 4×4 bytes, of which some were clipped to 0..=255.
            for (x, y, pixel) in small.enumerate_pixels() {
                for (c, value) in pixel.0.iter().enumerate() {
                    let block = (0..16).map(|i| large.get_pixel(4 * x + i % 4, 4 * y + i / 4).0[c]);
                    let all: Vec<f64> = block.map(f64::from).collect();
                    let clipped = all.iter().any(|v| *v == 0.0 || *v == 255.0);
                    let mean = all.iter().sum::<f64>() / 16.0;
                    assert!(clipped || (mean - f64::from(*value)).abs() < 0.6, "({x}, {y}): {mean} {value}");
                }
            }
        }
    }
    scratch.ok(&["restore", "-m", model(), "--like", "out-1.png", "-o", "again.png"]);
    assert_eq!(open(&scratch, "again-1.png"), open(&scratch, "out-1.png"));
}

#[test]
fn results_have_the_depth_and_the_channels_that_they_need() {
    let scratch = Scratch::new();
    let deep = ImageBuffer::from_fn(8, 8, |x, y| image::Luma([(x * 7000 + y * 900) as u16]));
    DynamicImage::ImageLuma16(deep).save(scratch.path("grey.png")).unwrap();
    let restore = |more: &[&str]| {
        scratch
            .ok(&[&["restore", "grey.png", "-m", model(), "--steps", "2", "-o", "out.png"], more].concat());
        open(&scratch, "out.png")
    };
    assert!(matches!(restore(&["--colour"]), DynamicImage::ImageRgb16(_)));
    assert!(matches!(restore(&["--deblur", "0.7"]), DynamicImage::ImageLuma16(_)));
    let kernel = GrayImage::from_fn(3, 1, |x, _| image::Luma([[40, 200, 90][x as usize]]));
    kernel.save(scratch.path("kernel.png")).unwrap();
    assert!(matches!(
        restore(&["--deblur", "kernel.png", "--mask", "grey.png"]),
        DynamicImage::ImageLuma16(_)
    ));
    color(9, 9).save(scratch.path("in.jpg")).unwrap();
    let run = ["restore", "in.jpg", "-m", model(), "--jpeg", "30", "--steps", "2", "-o", "out.png"];
    scratch.ok(&run);
    assert!(matches!(open(&scratch, "out.png"), DynamicImage::ImageRgb8(image) if image.width() == 9));
    // Scratches alone leave all else as it is.
    color(9, 9).save(scratch.path("in.png")).unwrap();
    scratch.ok(&["restore", "in.png", "-m", model(), "--rect", "2,0,1,9", "--steps", "2", "-o", "out.png"]);
    let (before, after) = (open(&scratch, "in.png").into_rgb8(), open(&scratch, "out.png").into_rgb8());
    assert!(before.enumerate_pixels().all(|(x, y, pixel)| x == 2 || pixel == after.get_pixel(x, y)));
}

#[test]
fn what_does_not_suit_is_an_error() {
    let scratch = Scratch::new();
    color(8, 8).save(scratch.path("in.png")).unwrap();
    GrayImage::from_fn(8, 8, |x, _| image::Luma([x as u8 * 9])).save(scratch.path("grey.png")).unwrap();
    GrayImage::new(8, 8).save(scratch.path("black.png")).unwrap();
    GrayImage::new(2, 3).save(scratch.path("even.png")).unwrap();
    GrayImage::new(3, 3).save(scratch.path("nothing.png")).unwrap();
    image::RgbaImage::new(8, 8).save(scratch.path("clear.png")).unwrap();
    let restore = |image: &str, more: &[&str], words: &[&str]| {
        scratch.fails(&[&["restore", image, "-m", model(), "-o", "out.png"], more].concat(), words);
    };
    restore("in.png", &[], &["--enlarge, --deblur, --colour"]);
    restore("in.png", &["--enlarge", "1"], &["factor 1", "2 to 64"]);
    restore("in.png", &["--enlarge", "65"], &["factor 65"]);
    restore("in.png", &["--colour"], &["in.png", "has colours already"]);
    restore("clear.png", &["--enlarge", "2"], &["clear.png", "transparent"]);
    restore("in.png", &["--deblur=-1"], &["blur of -1 pixels"]);
    restore("in.png", &["--deblur", "0"], &["blur of 0 pixels"]);
    restore("in.png", &["--deblur", "none.png"], &["none.png"]);
    restore("in.png", &["--deblur", "even.png"], &["even.png", "odd sides"]);
    restore("in.png", &["--deblur", "nothing.png"], &["nothing.png", "positive sum"]);
    restore("in.png", &["--deblur", "in.png"], &["in.png", "grey image"]);
    restore("in.png", &["--jpeg", "0"], &["JPEG quality 0"]);
    restore("in.png", &["--jpeg", "101"], &["JPEG quality 101"]);
    restore("in.png", &["--enlarge", "2", "--noise=-1"], &["`noise`", "-1", "0..=255"]);
    restore("in.png", &["--enlarge", "2", "--noise", "300"], &["`noise`", "300", "0..=255"]);
    restore("in.png", &["--enlarge", "2", "--mask", "black.png"], &["marks no pixel"]);
    restore("in.png", &["--enlarge", "2", "--rect", "0,0,8,8"], &["nothing of the image is known"]);
    restore("in.png", &["--enlarge", "2", "--method", "repaint"], &["`repaint` only fills masks", "`pigdm`"]);
    restore("in.png", &["--jpeg", "30", "--method", "ddrm"], &["`ddrm` needs", "`ddnm`"]);
    restore("in.png", &["--jpeg", "30", "--method", "diffpir"], &["`diffpir` does not support JPEG"]);
    restore("in.png", &["--enlarge", "2", "--method", "diffpir=0,1"], &["diffpir=2,1"]);
    restore(
        "in.png",
        &["--enlarge", "2", "--solver", "ddim"],
        &["`solver`", "`pigdm` is a solver of its own"],
    );
    restore("in.png", &["--enlarge", "2", "--eta", "0.5"], &["`eta`", "`pigdm=1`"]);
    latent::model(&scratch);
    scratch.fails(
        &["restore", "in.png", "-m", "sd", "-p", "a cat", "--enlarge", "2", "-o", "out.png"],
        &["needs a model in pixels", "latents"],
    );
}
