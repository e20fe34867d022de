//! PNG files with a text, such as the request that they were made with.

use std::{
    io::{BufReader, Cursor},
    path::Path,
};

use png::{BitDepth, ColorType, Decoder, Encoder, text_metadata::ITXtChunk};
use tweedie_system::files;

use crate::{Image, MediaError, size, store};

/// The keyword of the text chunk.
pub(crate) const KEYWORD: &str = "tweedie";

/// Writes a PNG. A `text` is stored as international text (`iTXt`) under the keyword `tweedie`.
///
/// # Errors
/// If the image has no pixels, or the file cannot be written.
pub fn write_png(path: &Path, image: &Image, text: Option<&str>) -> Result<(), MediaError> {
    let sides = size(path, image, i32::MAX as u32)?;
    let bytes = encode(image, sides, text).map_err(|e| MediaError::format(path, e))?;
    store(path, &bytes)
}

pub(crate) fn encode(
    image: &Image,
    (width, height): (u32, u32),
    text: Option<&str>,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    if let Some(text) = text {
        encoder.add_itxt_chunk(KEYWORD.into(), text.into())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.pixels)?;
    writer.finish()?;
    Ok(bytes)
}

/// Reads the text under the keyword `tweedie` in a PNG.
///
/// # Errors
/// If the file is not a PNG.
pub fn read_png_text(path: &Path) -> Result<Option<String>, MediaError> {
    read_png_keyword(path, KEYWORD)
}

/// Reads the text under a keyword in a PNG.
///
/// # Errors
/// If the file is not a PNG.
pub fn read_png_keyword(path: &Path, keyword: &str) -> Result<Option<String>, MediaError> {
    let file = files::open(path).map_err(|source| MediaError::Read { path: path.into(), source })?;
    let mut reader =
        Decoder::new(BufReader::new(file)).read_info().map_err(|e| MediaError::format(path, e))?;
    // Text may also follow the pixel data.
    if !reader.info().utf8_text.iter().any(|t| t.keyword == keyword) {
        reader.finish().map_err(|e| MediaError::format(path, e))?;
    }
    let info = reader.info();
    let international = info.utf8_text.iter().find(|t| t.keyword == keyword).map(ITXtChunk::get_text);
    let latin =
        || info.uncompressed_latin1_text.iter().find(|t| t.keyword == keyword).map(|t| t.text.clone());
    match international {
        Some(text) => Ok(Some(text.map_err(|e| MediaError::format(path, e))?)),
        None => Ok(latin()),
    }
}

/// Encodes frames of one size as a looping animated PNG; durations in milliseconds.
pub(crate) fn encode_animation(
    frames: &[Image],
    (width, height): (u32, u32),
    delays: &[u16],
    text: Option<&str>,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    if let Some(text) = text {
        encoder.add_itxt_chunk(KEYWORD.into(), text.into())?;
    }
    encoder.set_animated(frames.len() as u32, 0)?;
    let mut writer = encoder.write_header()?;
    for (frame, delay) in frames.iter().zip(delays) {
        writer.set_frame_delay(*delay, 1000)?;
        writer.write_image_data(&frame.pixels)?;
    }
    writer.finish()?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn picture() -> Image {
        Image { width: 3, height: 2, pixels: (0..18).map(|v| v * 14).collect() }
    }

    #[test]
    fn the_text_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write_png(&path, &picture(), Some("日本")).unwrap();
        assert_eq!(read_png_text(&path).unwrap().as_deref(), Some("日本"));

        let mut reader = Decoder::new(BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture().pixels);
    }

    #[test]
    fn files_without_a_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write_png(&path, &picture(), None).unwrap();
        assert_eq!(read_png_text(&path).unwrap(), None);
        std::fs::write(&path, "no picture").unwrap();
        assert!(read_png_text(&path).unwrap_err().to_string().contains("a.png"));
        let error = read_png_text(&dir.path().join("none.png")).unwrap_err().to_string();
        assert!(error.contains("none.png"), "{error}");
    }

    #[test]
    fn failures_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let empty = Image { width: 0, height: 2, pixels: vec![] };
        assert!(write_png(&dir.path().join("a.png"), &empty, None).is_err());
        let error = write_png(&dir.path().join("no/a.png"), &picture(), None).unwrap_err().to_string();
        assert!(error.contains("a.png"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
