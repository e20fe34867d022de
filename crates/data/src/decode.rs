//! Encoded bytes to a raster, with limits against files that claim or unfold to more than they should.

use std::{
    io::{BufRead, Cursor, Seek},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::resize::Raster;

/// File name endings that are taken for images.
pub(crate) const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"];

/// The longest side accepted.
const MAX_SIDE: u32 = 32_768;
/// Bytes a decoder may allocate for one image: 128 megapixels of RGBA.
const MAX_BYTES: u64 = 512 << 20;

/// Decodes a file. The format is read from its first bytes, not from its name.
pub(crate) fn file(path: &Path) -> Result<Raster, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    decode(std::io::BufReader::new(file))
}

/// Decodes an encoded image held in memory.
pub(crate) fn bytes(bytes: &[u8]) -> Result<Raster, String> {
    decode(Cursor::new(bytes))
}

fn decode(source: impl BufRead + Seek) -> Result<Raster, String> {
    // Decoders of hostile input are written not to panic; should one do so, the image is corrupt, not us.
    catch_unwind(AssertUnwindSafe(|| read(source))).unwrap_or_else(|_| Err("its decoder failed".into()))
}

fn read(source: impl BufRead + Seek) -> Result<Raster, String> {
    let mut reader = ImageReader::new(source).with_guessed_format().map_err(|e| e.to_string())?;
    if reader.format().is_none() {
        return Err("not a png, jpeg, gif, bmp, webp or tiff image".into());
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(format!("{width}x{height} pixels"));
    }
    // Not every decoder minds the limit on memory.
    if u64::from(width) * u64::from(height) * 4 > MAX_BYTES || decoder.total_bytes() > MAX_BYTES {
        return Err(format!("{width}x{height} pixels are more than the {} MiB allowed", MAX_BYTES >> 20));
    }
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    finite(&decoded)?;
    decoded.apply_orientation(orientation);
    let rgba = decoded.into_rgba8();
    Ok(Raster { width: rgba.width() as usize, height: rgba.height() as usize, rgba: rgba.into_raw() })
}

fn finite(image: &DynamicImage) -> Result<(), String> {
    let samples: &[f32] = match image {
        DynamicImage::ImageRgb32F(image) => image.as_raw(),
        DynamicImage::ImageRgba32F(image) => image.as_raw(),
        _ => &[],
    };
    match samples.iter().filter(|v| !v.is_finite()).count() {
        0 => Ok(()),
        n => Err(format!("{n} of its {} values are not finite", samples.len())),
    }
}
