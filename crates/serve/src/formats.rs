//! Other formats of results, and texts in PNG files.

use std::{
    io::{self, Cursor},
    path::Path,
};

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::STANDARD};
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageReader, Limits, codecs};

use tweedie_data::clip;
use tweedie_media::{Video, read_text};

use crate::{Fault, store::Store};

/// Maximum width and height of an image that a client sends.
const SIDE: u32 = 8192;
/// Memory to decode it.
const BYTES: u64 = 256 << 20;
/// The first bytes of a PNG, and those of its first chunk with the size.
const HEAD: usize = 8 + 25;

/// A format of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As stored, with the request.
    #[default]
    Png,
    /// Lossless.
    Webp,
    /// With this quality from 1 to 100.
    Jpeg(u8),
}

impl Format {
    /// The format of this name or ending.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "png" => Some(Self::Png),
            "webp" => Some(Self::Webp),
            "jpeg" | "jpg" => Some(Self::Jpeg(90)),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Jpeg(_) => "jpeg",
        }
    }

    /// A PNG in this format.
    ///
    /// # Errors
    /// If it is no PNG of an image.
    pub fn of_png(self, png: Vec<u8>) -> Result<Vec<u8>, Fault> {
        if self == Self::Png {
            return Ok(png);
        }
        if is_clip(&png) {
            return Err(Fault::invalid(
                "the result is a clip; it can be read as `png`, `webp` and `gif` from `/v1/files`",
            ));
        }
        let wrong = |e: image::ImageError| Fault::internal(format!("the result cannot be converted: {e}"));
        let image =
            image::load_from_memory_with_format(&png, image::ImageFormat::Png).map_err(wrong)?.into_rgb8();
        let (width, height) = image.dimensions();
        let mut out = Vec::new();
        let written = match self {
            Self::Jpeg(quality) => codecs::jpeg::JpegEncoder::new_with_quality(
                &mut out,
                quality.clamp(1, 100),
            )
            .write_image(&image, width, height, ExtendedColorType::Rgb8),
            _ => codecs::webp::WebPEncoder::new_lossless(&mut out).write_image(
                &image,
                width,
                height,
                ExtendedColorType::Rgb8,
            ),
        };
        written.map_err(wrong)?;
        Ok(out)
    }
}

/// Whether a PNG is animated.
pub fn is_clip(png: &[u8]) -> bool {
    let head =
        png::Decoder::new_with_limits(Cursor::new(png), png::Limits { bytes: BYTES as usize }).read_info();
    head.is_ok_and(|reader| reader.info().animation_control.is_some())
}

/// Endings of files of clips beside animated PNG.
pub const CLIPS: [&str; 3] = ["webp", "gif", "mp4"];

/// The clip in an animated PNG as another file of [`CLIPS`], with its text.
///
/// # Errors
/// If it is no clip, or cannot be written: MP4 needs `ffmpeg`.
pub fn clip_as(ending: &str, png: &Path, store: &Store) -> Result<Vec<u8>, Fault> {
    let wrong = |e: String| Fault::internal(format!("the result cannot be converted: {e}"));
    Video::check(Path::new(&format!("clip.{ending}"))).map_err(|e| {
        Fault::invalid(format!(
            "this server cannot convert clips to `{ending}`: {e}; `/v1/files` has `webp` and `gif`"
        ))
    })?;
    let clip = clip::read(png, clip::Part::All).map_err(|e| wrong(e.to_string()))?;
    let text = read_text(png).map_err(|e| wrong(e.to_string()))?;
    let write = |path: &Path| clip.video.write(path, text.as_deref()).map_err(io::Error::other);
    store.scratch(ending, write).map_err(|e: io::Error| wrong(e.to_string()).without_folders())
}

/// The first frame of a clip, as WebP.
///
/// # Errors
/// If it is no clip.
pub fn first_frame(png: &Path) -> Result<Vec<u8>, Fault> {
    let wrong = |e: String| Fault::internal(format!("the result cannot be read: {e}"));
    let clip = clip::read(png, clip::Part::First(1)).map_err(|e| wrong(e.to_string()))?;
    let frame = clip.video.frames.first().ok_or_else(|| wrong("it has no frames".into()))?;
    Format::Webp.of_png(frame.to_png(png).map_err(|e| wrong(e.to_string()))?)
}

/// An image that a client has sent.
///
/// # Errors
/// If it is none, or too large.
pub fn decoded(bytes: &[u8]) -> Result<DynamicImage, Fault> {
    let wrong = |e: String| Fault::field("image", e);
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| wrong(e.to_string()))?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE), Some(SIDE));
    limits.max_alloc = Some(BYTES);
    reader.limits(limits);
    reader.decode().map_err(|e| wrong(e.to_string()))
}

/// Width and height of an image, if these are the bytes of one.
pub fn sides(bytes: &[u8]) -> Option<(u32, u32)> {
    ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?.into_dimensions().ok()
}

/// A mask in grey, and inverted if asked, as PNG.
///
/// # Errors
/// If it is no image.
pub fn grey(bytes: &[u8], invert: bool) -> Result<Vec<u8>, Fault> {
    let mut mask = decoded(bytes)?.into_luma8();
    if invert {
        mask.pixels_mut().for_each(|pixel| pixel.0[0] = 255 - pixel.0[0]);
    }
    let mut out = Cursor::new(Vec::new());
    mask.write_to(&mut out, image::ImageFormat::Png).map_err(|e| Fault::internal(e.to_string()))?;
    Ok(out.into_inner())
}

/// Bytes in base 64, which may begin like a URL: `data:image/png;base64,`.
///
/// # Errors
/// If it is not base 64; names the field.
pub fn unpacked(field: &str, text: &str) -> Result<Vec<u8>, Fault> {
    let text = match text.split_once(',') {
        Some((head, rest)) if head.starts_with("data:") => rest,
        _ => text,
    };
    STANDARD
        .decode(text.trim())
        .map_err(|e| Fault::field(field, format!("expected an image in base 64: {e}")))
}

/// Bytes in base 64.
pub fn packed(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The PNG with a text under a keyword.
///
/// # Errors
/// If it is no PNG.
pub fn with_text(png: &[u8], keyword: &str, text: &str) -> Result<Vec<u8>, Fault> {
    let (Some(head), Some(rest)) = (png.get(..HEAD), png.get(HEAD..)) else {
        return Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "the result is no PNG"));
    };
    // International text: keyword, not compressed, no language, no translated keyword. ASCII is also plain text, which more
    // programs read.
    let (name, body) = if text.is_ascii() {
        (b"tEXt", [keyword.as_bytes(), b"\0", text.as_bytes()].concat())
    } else {
        (b"iTXt", [keyword.as_bytes(), b"\0\0\0\0\0", text.as_bytes()].concat())
    };
    let checked = [&name[..], &body].concat();
    let sum = crc32fast::hash(&checked);
    Ok([head, &(body.len() as u32).to_be_bytes(), &checked, &sum.to_be_bytes(), rest].concat())
}

/// The texts of a PNG by keyword.
///
/// # Errors
/// If it is no PNG.
pub fn texts(png: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let wrong = |e: png::DecodingError| Fault::field("image", format!("not a PNG: {e}"));
    let mut reader = png::Decoder::new_with_limits(Cursor::new(png), png::Limits { bytes: BYTES as usize })
        .read_info()
        .map_err(wrong)?;
    reader.finish().map_err(wrong)?;
    let info = reader.info();
    let plain = info.uncompressed_latin1_text.iter().map(|text| (text.keyword.clone(), text.text.clone()));
    let packed =
        info.compressed_latin1_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    let international = info.utf8_text.iter().filter_map(|t| Some((t.keyword.clone(), t.get_text().ok()?)));
    Ok(plain.chain(packed).chain(international).collect())
}

/// The samples of a WAV file of 16 bits, little-endian, channel by channel in turn.
///
/// # Errors
/// If the file is damaged or has other values.
pub fn pcm(wav: &[u8]) -> Result<Vec<u8>, Fault> {
    let sound = tweedie_media::Recording::decode(wav, std::path::Path::new("the sound"));
    let sound = sound.map_err(|e| Fault::internal(e.to_string()))?;
    sound.pcm16().ok_or_else(|| Fault::internal("the sound does not have 16 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png() -> Vec<u8> {
        let image = tweedie_media::Image { width: 3, height: 2, pixels: (0..18).map(|v| v * 14).collect() };
        image.to_png(std::path::Path::new("a.png")).unwrap()
    }

    #[test]
    fn texts_come_back_and_pixels_stay() {
        let one = with_text(&png(), "parameters", "a cat\nSteps: 3").unwrap();
        let two = with_text(&one, "other", "日本").unwrap();
        let all = texts(&two).unwrap();
        assert!(all.contains(&("parameters".into(), "a cat\nSteps: 3".into())), "{all:?}");
        assert!(all.contains(&("other".into(), "日本".into())), "{all:?}");
        let pixels = |png: &[u8]| decoded(png).unwrap().into_rgb8().into_raw();
        assert_eq!(pixels(&two), pixels(&png()));
        assert!(with_text(b"none", "a", "b").is_err());
        assert!(texts(b"none").unwrap_err().message.contains("not a PNG"));
    }

    #[test]
    fn clips_keep_their_frames() {
        let dir = tempfile::tempdir().unwrap();
        let frame = |v: u8| tweedie_media::Image { width: 3, height: 2, pixels: vec![v; 18] };
        let video = tweedie_media::Video { frames: vec![frame(0), frame(90), frame(180)], delay: 50 };
        let path = dir.path().join("a.png");
        video.write(&path, Some("text")).unwrap();
        let png = std::fs::read(&path).unwrap();
        assert!(is_clip(&png) && !is_clip(&self::png()) && !is_clip(b"none"));
        assert!(Format::Webp.of_png(png).unwrap_err().message.contains("is a clip"));
        let store = Store::open(dir.path()).unwrap();
        for ending in ["webp", "gif"] {
            let out = dir.path().join("b").with_extension(ending);
            std::fs::write(&out, clip_as(ending, &path, &store).unwrap()).unwrap();
            assert_eq!(clip::read(&out, clip::Part::All).unwrap().video, video, "{ending}");
            assert_eq!(read_text(&out).unwrap().as_deref(), Some("text"), "{ending}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("files")).unwrap().count(), 0);
    }

    #[test]
    fn lossless_formats_keep_every_value() {
        let pixels = |bytes: &[u8]| decoded(bytes).unwrap().into_rgb8().into_raw();
        let webp = Format::Webp.of_png(png()).unwrap();
        assert_eq!((&webp[..4], pixels(&webp)), (&b"RIFF"[..], pixels(&png())));
        let jpeg = Format::Jpeg(90).of_png(png()).unwrap();
        assert_eq!((jpeg[..2].to_vec(), pixels(&jpeg).len()), (vec![0xff, 0xd8], 18));
        assert!(decoded(b"none").is_err());
        assert_eq!((sides(&png()), sides(b"none")), (Some((3, 2)), None));
        let levels = |invert| decoded(&grey(&png(), invert).unwrap()).unwrap().into_luma8().into_raw();
        assert!(levels(false).iter().zip(levels(true)).all(|(a, b)| a + b == 255));
        assert_eq!(unpacked("image", "data:image/png;base64,YWJj").unwrap(), b"abc");
        assert!(unpacked("image", "%").unwrap_err().message.contains("`image`"));
    }
}
