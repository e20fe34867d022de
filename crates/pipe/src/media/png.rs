//! PNG files with the request in a text chunk.

use std::{
    io::{BufReader, Cursor},
    path::Path,
};

use png::{BitDepth, ColorType, Decoder, Encoder, text_metadata::ITXtChunk};
use tweedie_data::Image;
use tweedie_hub::HubError;
use tweedie_system::files;

use super::{media, size, store};
use crate::{PipelineError, Request};

/// The keyword of the text chunk.
const KEYWORD: &str = "tweedie";

/// Writes a PNG. With a request, its JSON is stored as international text (`iTXt`) under the keyword `tweedie`.
///
/// # Errors
/// If the image has no pixels, or the file cannot be written.
pub fn write_png(path: &Path, image: &Image, request: Option<&Request>) -> Result<(), PipelineError> {
    let (width, height) = size(path, image, i32::MAX as u32)?;
    let text = request.map(serde_json::to_string).transpose().map_err(|e| media(path, e))?;
    let mut bytes = Vec::new();
    encode(&mut bytes, image, (width, height), text).map_err(|e| media(path, e))?;
    store(path, &bytes)
}

fn encode(
    out: &mut Vec<u8>,
    image: &Image,
    (width, height): (u32, u32),
    text: Option<String>,
) -> Result<(), png::EncodingError> {
    let mut encoder = Encoder::new(out, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    if let Some(text) = text {
        encoder.add_itxt_chunk(KEYWORD.into(), text)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&image.pixels)?;
    writer.finish()
}

/// Reads the request in a PNG; `None` if there is none.
///
/// # Errors
/// If the file is not a PNG, or the text is not a valid request.
pub fn read_request(path: &Path) -> Result<Option<Request>, PipelineError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    let request = serde_json::from_str(&text);
    request
        .map(Some)
        .map_err(|e| media(path, format!("the text `{KEYWORD}` in the file is not a valid request: {e}")))
}

/// Reads the text under the keyword `tweedie` in a PNG.
///
/// # Errors
/// If the file is not a PNG.
pub fn read_text(path: &Path) -> Result<Option<String>, PipelineError> {
    let file = files::open(path).map_err(|source| HubError::Read { path: path.into(), source })?;
    let mut reader = Decoder::new(BufReader::new(file)).read_info().map_err(|e| media(path, e))?;
    // Text may also follow the pixel data.
    if !reader.info().utf8_text.iter().any(|t| t.keyword == KEYWORD) {
        reader.finish().map_err(|e| media(path, e))?;
    }
    let info = reader.info();
    let international = info.utf8_text.iter().find(|t| t.keyword == KEYWORD).map(ITXtChunk::get_text);
    let latin =
        || info.uncompressed_latin1_text.iter().find(|t| t.keyword == KEYWORD).map(|t| t.text.clone());
    match international {
        Some(text) => Ok(Some(text.map_err(|e| media(path, e))?)),
        None => Ok(latin()),
    }
}

/// Encodes frames of one size as a looping animated PNG; durations in milliseconds.
pub(super) fn encode_animation(
    frames: &[Image],
    (width, height): (u32, u32),
    delays: &[u16],
) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
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
    fn the_request_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let classes = Some(vec!["日本".parse().unwrap(), "3".parse().unwrap()]);
        let request = Request { seed: 99, classes, guidance: Some(2.5), ..Default::default() };
        write_png(&path, &picture(), Some(&request)).unwrap();
        assert_eq!(read_request(&path).unwrap(), Some(request));

        let mut reader = Decoder::new(BufReader::new(File::open(&path).unwrap())).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, picture().pixels);
    }

    #[test]
    fn files_without_a_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        write_png(&path, &picture(), None).unwrap();
        assert_eq!(read_request(&path).unwrap(), None);
        std::fs::write(&path, "no picture").unwrap();
        assert!(read_request(&path).unwrap_err().to_string().contains("a.png"));
        let error = read_request(&dir.path().join("none.png")).unwrap_err().to_string();
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
