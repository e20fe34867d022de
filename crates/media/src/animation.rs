//! Animations: GIF, animated PNG, animated WebP.

use std::path::Path;

use gif::{AnyExtension, Encoder, Frame, Repeat};

use crate::{Image, MediaError, png, size, store, webp};

/// A format for animations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnimationFormat {
    /// 256 colours per frame; supported everywhere.
    Gif,
    /// Animated PNG, lossless.
    Apng,
    /// Animated WebP, lossless.
    WebP,
}

impl AnimationFormat {
    /// The format for a file extension: `gif`, `png` or `apng`, `webp`.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_lowercase();
        match &*ending {
            "gif" => Some(Self::Gif),
            "png" | "apng" => Some(Self::Apng),
            "webp" => Some(Self::WebP),
            _ => None,
        }
    }
}

/// A looping sequence of images of the same size.
#[derive(Clone, Debug)]
pub struct Animation<'a> {
    /// The images.
    pub frames: &'a [Image],
    /// Duration of each frame in milliseconds. GIF rounds to hundredths of a second.
    pub delay: u16,
    /// Duration of the last frame in milliseconds.
    pub last_delay: u16,
}

/// Writes an animation.
///
/// # Errors
/// If there are no frames, they differ in size or are too large for the format, or the file cannot be written.
pub fn write_animation(
    path: &Path,
    animation: &Animation<'_>,
    format: AnimationFormat,
) -> Result<(), MediaError> {
    write_with_text(path, animation, format, None)
}

/// The label of a GIF's comment, and the beginning of ours.
const EXTENSION: u8 = 0xfe;
const COMMENT: &str = "tweedie:";

/// The text in a GIF, whose bytes are all given.
pub(crate) fn gif_text(bytes: &[u8]) -> Option<String> {
    // Up to the first image, extensions are lists of blocks that say their length.
    let flags = *bytes.get(10)?;
    let mut at = 13 + if flags & 0x80 == 0 { 0 } else { 6 << (flags & 7) };
    while bytes.get(at) == Some(&0x21) {
        let label = *bytes.get(at + 1)?;
        at += 2;
        let mut content = Vec::new();
        while let Some(length @ 1..) = bytes.get(at).map(|n| usize::from(*n)) {
            content.extend(bytes.get(at + 1..at + 1 + length)?);
            at += 1 + length;
        }
        at += 1;
        if label == EXTENSION && content.starts_with(COMMENT.as_bytes()) {
            return String::from_utf8(content.split_off(COMMENT.len())).ok();
        }
    }
    None
}

/// The same with a text, which is stored in the file.
pub(crate) fn write_with_text(
    path: &Path,
    animation: &Animation<'_>,
    format: AnimationFormat,
    text: Option<&str>,
) -> Result<(), MediaError> {
    store(path, &encode(path, animation, format, text)?)
}

/// The bytes of a file; errors name `path`.
pub(crate) fn encode(
    path: &Path,
    animation: &Animation<'_>,
    format: AnimationFormat,
    text: Option<&str>,
) -> Result<Vec<u8>, MediaError> {
    let Animation { frames, delay, last_delay } = *animation;
    let most = match format {
        AnimationFormat::Gif => u16::MAX.into(),
        AnimationFormat::Apng => i32::MAX as u32,
        AnimationFormat::WebP => webp::MOST,
    };
    let (width, height) = size_of(path, frames, most)?;
    let mut delays = vec![delay; frames.len()];
    if let Some(last) = delays.last_mut() {
        *last = last_delay;
    }
    match format {
        AnimationFormat::Gif => encode_gif(frames, &delays, text).map_err(|e| MediaError::format(path, e)),
        AnimationFormat::Apng => png::encode_animation(frames, (width, height), &delays, text)
            .map_err(|e| MediaError::format(path, e)),
        AnimationFormat::WebP => webp::encode_animation(frames, (width, height), &delays, text)
            .map_err(|e| MediaError::format(path, e)),
    }
}

/// The size of all frames, at most `most` along a side.
pub(crate) fn size_of(path: &Path, frames: &[Image], most: u32) -> Result<(u32, u32), MediaError> {
    let Some(first) = frames.first() else {
        return Err(MediaError::format(path, "the animation has no frames"));
    };
    let (width, height) = size(path, first, most)?;
    for frame in frames {
        if size(path, frame, most)? != (width, height) {
            let (w, h) = (frame.width, frame.height);
            let reason = format!("frames have different sizes, {width}×{height} and {w}×{h} pixels");
            return Err(MediaError::format(path, reason));
        }
    }
    Ok((width, height))
}

fn encode_gif(frames: &[Image], delays: &[u16], text: Option<&str>) -> Result<Vec<u8>, gif::EncodingError> {
    let mut bytes = Vec::new();
    let (width, height) = frames.first().map_or((0, 0), |f| (f.width as u16, f.height as u16));
    let mut encoder = Encoder::new(&mut bytes, width, height, &[])?;
    encoder.set_repeat(Repeat::Infinite)?;
    if let Some(text) = text {
        let text = format!("{COMMENT}{text}");
        let blocks: Vec<&[u8]> = text.as_bytes().chunks(255).collect();
        encoder.write_raw_extension(AnyExtension(EXTENSION), &blocks)?;
    }
    for (image, delay) in frames.iter().zip(delays) {
        // The second slowest and finest setting of the quantizer.
        let mut frame = Frame::from_rgb_speed(width, height, &image.pixels, 2);
        frame.delay = (delay + 5) / 10;
        encoder.write_frame(&frame)?;
    }
    drop(encoder);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn frames() -> Vec<Image> {
        let pixel = |f: usize, i: usize| [(40 * i) as u8, (80 * f) as u8, 7];
        let image = |f: usize| (0..6).flat_map(|i| pixel(f, i)).collect();
        (0..3).map(|f| Image { width: 3, height: 2, pixels: image(f) }).collect()
    }

    fn written(format: AnimationFormat) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let frames = frames();
        let animation = Animation { frames: &frames, delay: 40, last_delay: 1000 };
        write_animation(&path, &animation, format).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn webp_is_lossless() {
        let mut decoder = image_webp::WebPDecoder::new(Cursor::new(written(AnimationFormat::WebP))).unwrap();
        assert!(decoder.is_animated());
        assert_eq!((decoder.dimensions(), decoder.num_frames()), ((3, 2), 3));
        assert_eq!(decoder.loop_count(), image_webp::LoopCount::Forever);
        for (i, frame) in frames().iter().enumerate() {
            let mut pixels = vec![0; decoder.output_buffer_size().unwrap()];
            let delay = decoder.read_frame(&mut pixels).unwrap();
            assert_eq!(delay, if i == 2 { 1000 } else { 40 });
            let channels = if decoder.has_alpha() { 4 } else { 3 };
            let rgb: Vec<u8> = pixels.chunks(channels).flat_map(|p| p[..3].to_vec()).collect();
            assert_eq!(rgb, frame.pixels, "frame {i}");
        }
    }

    #[test]
    fn apng_is_lossless() {
        let bytes = written(AnimationFormat::Apng);
        let mut reader = ::png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
        assert_eq!(reader.info().animation_control.unwrap().num_frames, 3);
        for frame in frames() {
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            reader.next_frame(&mut pixels).unwrap();
            assert_eq!(pixels, frame.pixels);
        }
    }

    #[test]
    fn gif_keeps_few_colours_nearly_exactly() {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(Cursor::new(written(AnimationFormat::Gif))).unwrap();
        for (i, image) in frames().iter().enumerate() {
            let frame = decoder.read_next_frame().unwrap().unwrap();
            assert_eq!(frame.delay, if i == 2 { 100 } else { 4 });
            for (found, expected) in frame.buffer.chunks(4).zip(image.pixels.chunks(3)) {
                let distance = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(distance <= 8, "{found:?} {expected:?}");
            }
        }
        assert!(decoder.read_next_frame().unwrap().is_none());
    }

    #[test]
    fn frames_must_agree() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.gif");
        let mut frames = frames();
        frames.push(Image { width: 1, height: 1, pixels: vec![0; 3] });
        let write = |frames: &[Image]| {
            let animation = Animation { frames, delay: 40, last_delay: 40 };
            write_animation(&path, &animation, AnimationFormat::Gif).unwrap_err().to_string()
        };
        assert!(write(&frames).contains("1×1"));
        assert!(write(&[]).contains("no frames"));
        assert!(!path.exists());
    }
}
