//! Media files, and the request in them.

mod medium;

use std::path::Path;

pub use medium::{Media, Medium};
pub use tweedie_media::{
    Animation, AnimationFormat, Audio, Image, MediaError, Picture, Recording, Video, WavFormat, enlarge,
    read_text, write_animation,
};

use crate::{
    PipelineError, Request,
    a1111::{self, Parsed},
};

/// Writes a PNG. With a request, its JSON is stored as international text (`iTXt`) under the keyword `tweedie`.
///
/// # Errors
/// If the image has no pixels, or the file cannot be written.
pub fn write_png(path: &Path, image: &Image, request: Option<&Request>) -> Result<(), PipelineError> {
    let text = text_of(path, request)?;
    Ok(tweedie_media::write_png(path, image, text.as_deref())?)
}

/// Writes a picture as PNG with its own channels and depth, and the request like [`write_png`].
///
/// # Errors
/// If the file cannot be written.
pub fn write_picture(path: &Path, picture: &Picture, request: Option<&Request>) -> Result<(), PipelineError> {
    let text = text_of(path, request)?;
    Ok(picture.save_png(path, text.as_deref())?)
}

/// Writes a WAV file with 16 bits per value, or a FLAC file if the extension is `.flac`. With a request, its JSON is stored as a
/// comment. Returns how many values were outside -1..=1 and were clipped.
///
/// # Errors
/// If the format cannot store the audio, or the file cannot be written.
pub fn write_sound(path: &Path, audio: &Audio, request: Option<&Request>) -> Result<usize, PipelineError> {
    let text = text_of(path, request)?;
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("flac")) {
        Recording::of(audio, Some(16)).save(path, text.as_deref())?;
        return Ok(audio.channels.iter().flatten().filter(|v| v.abs() > 1.0).count());
    }
    Ok(tweedie_media::write_wav(path, audio, WavFormat::Pcm16, text.as_deref())?)
}

/// Writes a sound with exactly the values that it has, and the request, like [`write_sound`].
///
/// # Errors
/// If the format cannot store the sound, or the file cannot be written.
pub fn write_recording(
    path: &Path,
    sound: &Recording,
    request: Option<&Request>,
) -> Result<(), PipelineError> {
    let text = text_of(path, request)?;
    Ok(sound.save(path, text.as_deref())?)
}

/// Writes a video as an animation whose format the extension selects. With a request, its JSON is stored in animated PNGs;
/// the other formats have no place for it.
///
/// # Errors
/// If the extension is unknown, the format cannot store the video, or the file cannot be written.
pub fn write_video(path: &Path, video: &Video, request: Option<&Request>) -> Result<(), PipelineError> {
    let text = text_of(path, request)?;
    Ok(video.write(path, text.as_deref())?)
}

fn text_of(path: &Path, request: Option<&Request>) -> Result<Option<String>, PipelineError> {
    let text = request.map(serde_json::to_string).transpose();
    text.map_err(|e| MediaError::Format { path: path.into(), reason: e.to_string() }.into())
}

/// Reads the request in a PNG, GIF, WebP, WAV or FLAC file; `None` if there is none.
///
/// # Errors
/// If the file has another format, or the text is not a valid request.
pub fn read_request(path: &Path) -> Result<Option<Request>, PipelineError> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| {
        let reason = format!("the text `tweedie` in the file is not a valid request: {e}");
        MediaError::Format { path: path.into(), reason }.into()
    })
}

/// Reads the text `parameters` of a PNG, which AUTOMATIC1111's web UI and similar programs write; `None` if the file is no PNG
/// or has no such text.
///
/// # Errors
/// If the file cannot be read, or an entry is invalid.
pub fn read_parameters(path: &Path) -> Result<Option<Parsed>, PipelineError> {
    let mut start = [0; 4];
    let read = |source| MediaError::Read { path: path.into(), source };
    let mut file = tweedie_system::files::open(path).map_err(read)?;
    if std::io::Read::read_exact(&mut file, &mut start).is_err() || start != *b"\x89PNG" {
        return Ok(None);
    }
    let Some(text) = tweedie_media::read_png_keyword(path, "parameters")? else { return Ok(None) };
    a1111::parse(&text).map(Some).map_err(|e| {
        let reason = format!("the text `parameters` in the file: {e}");
        MediaError::Format { path: path.into(), reason }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_comes_back_from_every_medium() {
        let dir = tempfile::tempdir().unwrap();
        let classes = Some(vec!["日本".parse().unwrap(), "3".parse().unwrap()]);
        let request = Request { seed: 99, classes, guidance: Some(2.5), ..Default::default() };
        let image = Image { width: 3, height: 2, pixels: (0..18).map(|v| v * 14).collect() };
        let [png, wav, apng, flac] = ["a.png", "a.wav", "b.png", "a.flac"].map(|name| dir.path().join(name));
        write_png(&png, &image, Some(&request)).unwrap();
        let audio = Audio { channels: vec![vec![0.0, 0.5, 2.0]], rate: 8000, guessed: false };
        for path in [&wav, &flac] {
            assert_eq!(write_sound(path, &audio, Some(&request)).unwrap(), 1);
        }
        write_video(&apng, &Video { frames: vec![image.clone(), image], delay: 50 }, Some(&request)).unwrap();
        for path in [&png, &wav, &apng, &flac] {
            assert_eq!(read_request(path).unwrap(), Some(request.clone()), "{}", path.display());
        }
        write_sound(&wav, &audio, None).unwrap();
        assert_eq!(read_request(&wav).unwrap(), None);
        std::fs::write(&png, "no picture").unwrap();
        assert!(read_request(&png).unwrap_err().to_string().contains("a.png"));
    }
}
