//! Animated WebP: the container of <https://developers.google.com/speed/webp/docs/riff_container> around lossless frames.

use image_webp::{ColorType, EncodingError, WebPEncoder};

use crate::Image;

/// Maximum width and height.
pub(crate) const MOST: u32 = 1 << 14;

/// Encodes frames of one size as a looping animation; durations in milliseconds.
pub(crate) fn encode_animation(
    frames: &[Image],
    (width, height): (u32, u32),
    delays: &[u16],
    text: Option<&str>,
) -> Result<Vec<u8>, EncodingError> {
    const ANIMATED: u8 = 1 << 1;
    const NO_BLENDING: u8 = 1 << 1;
    let mut body = b"WEBP".to_vec();
    let mut header = vec![ANIMATED, 0, 0, 0];
    header.extend(three_bytes(width - 1));
    header.extend(three_bytes(height - 1));
    chunk(&mut body, b"VP8X", &header);
    // Background colour and number of loops; 0 loops forever.
    chunk(&mut body, b"ANIM", &[255, 255, 255, 255, 0, 0]);
    for (frame, delay) in frames.iter().zip(delays) {
        let mut file = Vec::new();
        WebPEncoder::new(&mut file).encode(&frame.pixels, width, height, ColorType::Rgb8)?;
        let mut content = vec![0; 6];
        content.extend(three_bytes(width - 1));
        content.extend(three_bytes(height - 1));
        content.extend(three_bytes(u32::from(*delay)));
        content.push(NO_BLENDING);
        // A still file consists of `RIFF`, its length, `WEBP`, and the chunk with the pixels.
        content.extend(file.get(12..).unwrap_or_default());
        chunk(&mut body, b"ANMF", &content);
    }
    if let Some(text) = text {
        // Readers skip chunks that they do not know.
        chunk(&mut body, TEXT, text.as_bytes());
    }
    let mut out = b"RIFF".to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    Ok(out)
}

/// The name of the chunk with our text.
const TEXT: &[u8; 4] = b"twdi";

/// The text in a WebP file, whose bytes are all given.
pub(crate) fn webp_text(bytes: &[u8]) -> Option<String> {
    let mut at = 12;
    loop {
        let name = bytes.get(at..at + 4)?;
        let length = u32::from_le_bytes(bytes.get(at + 4..at + 8)?.try_into().ok()?) as usize;
        let content = bytes.get(at + 8..at.checked_add(8)?.checked_add(length)?)?;
        if name == TEXT {
            return String::from_utf8(content.to_vec()).ok();
        }
        at += 8 + length + length % 2;
    }
}

fn three_bytes(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    out.extend(name);
    out.extend((content.len() as u32).to_le_bytes());
    out.extend(content);
    if content.len() % 2 == 1 {
        out.push(0);
    }
}
