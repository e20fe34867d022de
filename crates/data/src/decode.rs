//! Decodes images, with limits against files that need too much memory.

use std::{
    io::{Cursor, Read},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use tweedie_media::{Depth, Picture};
use tweedie_system::files;

use crate::{
    budget::{DECODED, ENCODED, Lent},
    guard::guarded,
    resize::Raster,
};

/// File extensions of images.
pub(crate) const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"];

/// Maximum width and height.
const MAX_SIDE: u32 = 32_768;
/// Memory limit of a decoder for one image: 128 megapixels of RGBA.
const MAX_BYTES: u64 = 512 << 20;

/// Decodes a file. The format is detected from its first bytes, not from its name.
pub(crate) fn file(path: &Path) -> Result<Raster, String> {
    of_file(path, bytes)
}

/// Decodes a file with the channels and the depth that it has.
pub(crate) fn picture(path: &Path) -> Result<Picture, String> {
    of_file(path, |bytes| guarded("the decoder failed", || as_stored(bytes)))
}

pub(crate) fn of_file<T>(path: &Path, decode: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, String> {
    let length = files::open(path).and_then(|file| file.metadata()).map_err(|e| e.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!("the file has {length} bytes, more than the limit of {} MiB", MAX_BYTES >> 20));
    }
    let _lent = ENCODED.take(length);
    decode(&files::read(path, MAX_BYTES).map_err(|e| e.to_string())?)
}

/// Whether the first bytes of a file are those of an image that can be decoded, whatever its name says.
pub(crate) fn is_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = files::open(path).and_then(|file| file.take(32).read_to_end(&mut start));
    read.is_ok() && image::guess_format(&start).is_ok_and(|format| format.reading_enabled())
}

/// Decodes an encoded image in memory.
pub(crate) fn bytes(bytes: &[u8]) -> Result<Raster, String> {
    guarded("the decoder failed", || read(bytes))
}

fn read(bytes: &[u8]) -> Result<Raster, String> {
    let (decoded, lent) = decoded(bytes)?;
    let rgba = decoded.into_rgba8();
    let (width, height) = (rgba.width() as usize, rgba.height() as usize);
    Ok(Raster { width, height, rgba: rgba.into_raw(), _lent: Some(lent) })
}

fn as_stored(bytes: &[u8]) -> Result<Picture, String> {
    let (decoded, _lent) = decoded(bytes)?;
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let eight = |values: Vec<u8>| (Depth::Eight, values.into_iter().map(u16::from).collect());
    let (channels, (depth, values)) = match decoded {
        DynamicImage::ImageLuma8(image) => (1, eight(image.into_raw())),
        DynamicImage::ImageLumaA8(image) => (2, eight(image.into_raw())),
        DynamicImage::ImageRgb8(image) => (3, eight(image.into_raw())),
        DynamicImage::ImageRgba8(image) => (4, eight(image.into_raw())),
        DynamicImage::ImageLuma16(image) => (1, (Depth::Sixteen, image.into_raw())),
        DynamicImage::ImageLumaA16(image) => (2, (Depth::Sixteen, image.into_raw())),
        DynamicImage::ImageRgb16(image) => (3, (Depth::Sixteen, image.into_raw())),
        DynamicImage::ImageRgba16(image) => (4, (Depth::Sixteen, image.into_raw())),
        _ => return Err("values of 32 bits: expected 8 or 16".into()),
    };
    Picture::new([height, width, channels], depth, values)
}

/// The image as its file stores it, upright, and its share of the memory for decoding.
fn decoded(bytes: &[u8]) -> Result<(DynamicImage, Lent), String> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    match reader.format() {
        None => return Err("not a png, jpeg, gif, bmp, webp or tiff image".into()),
        Some(ImageFormat::Jpeg) if !jpeg_ends(bytes) => {
            return Err("truncated: the end marker is missing".into());
        }
        Some(_) => {}
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("the image has {width}x{height} pixels, expected sides from 1 to {MAX_SIDE}"));
    }
    // Not every decoder respects the memory limit.
    if u64::from(width) * u64::from(height) * 4 > MAX_BYTES || decoder.total_bytes() > MAX_BYTES {
        return Err(format!(
            "the image has {width}x{height} pixels, more than the limit of {} MiB",
            MAX_BYTES >> 20
        ));
    }
    // The image in the format of the file, and the converted one.
    let lent = DECODED.take(decoder.total_bytes() + u64::from(width) * u64::from(height) * 4);
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    finite(&decoded)?;
    decoded.apply_orientation(orientation);
    Ok((decoded, lent))
}

/// Whether an end marker follows the first scan. The decoder silently fills missing data with grey. An earlier end marker
/// belongs to a thumbnail.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xff, marker, high, low, ..] = *rest {
        if marker == 0xda {
            break;
        }
        let length = match marker {
            0xff => 1,
            0x01 | 0xd0..=0xd7 => 2,
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    rest.windows(2).any(|pair| pair == [0xff, 0xd9])
}

fn finite(image: &DynamicImage) -> Result<(), String> {
    let samples: &[f32] = match image {
        DynamicImage::ImageRgb32F(image) => image.as_raw(),
        DynamicImage::ImageRgba32F(image) => image.as_raw(),
        _ => &[],
    };
    match samples.iter().filter(|v| !v.is_finite()).count() {
        0 => Ok(()),
        n => Err(format!("{n} of {} values are not finite", samples.len())),
    }
}
