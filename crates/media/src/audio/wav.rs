//! WAV files with a text, such as the request that they were made with.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    path::Path,
};

use hound::{SampleFormat, WavSpec, WavWriter};
use tweedie_system::files;

use super::Recording;
use crate::{Audio, MediaError, store};

/// How values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WavFormat {
    /// Integers of 16 bits, supported everywhere: values times 32768. Larger magnitudes than 1 are clipped.
    #[default]
    Pcm16,
    /// Floats of 32 bits, unchanged.
    Float32,
}

/// The name of the program in `ISFT`, by which [`read_wav_text`] knows that the comment is its own.
const SOFTWARE: &str = "tweedie";
/// Maximum length of a chunk with texts.
const LONGEST_TEXT: u64 = 1 << 24;
/// The encodings that are read.
pub(super) const EXPECTED: &str = "expected integers of 8 to 32 bits or floats of 32 bits";
/// The bytes of a file that are neither values nor text.
const HEADERS: usize = 1 << 10;

/// Writes a WAV file. A `text` is stored as the comment (`ICMT`) of a `LIST INFO` chunk, which other programs show or skip.
/// Returns how many values were clipped.
///
/// # Errors
/// If the audio has no channels or values, channels of several lengths, a rate of 0 or values that are not finite, exceeds
/// 4 GiB, or the file cannot be written.
pub fn write_wav(
    path: &Path,
    audio: &Audio,
    format: WavFormat,
    text: Option<&str>,
) -> Result<usize, MediaError> {
    let length = audio.len();
    if let Some(other) = audio.channels.iter().map(Vec::len).find(|n| *n != length) {
        let reason = format!("a channel has {other} values and the first {length}, expected the same length");
        return Err(MediaError::format(path, reason));
    }
    if audio.channels.iter().flatten().any(|v| !v.is_finite()) {
        return Err(MediaError::format(path, "the audio has values that are not finite"));
    }
    let (bits, most) = match format {
        WavFormat::Pcm16 => (Some(16), 1.0),
        WavFormat::Float32 => (None, f32::INFINITY),
    };
    Recording::of(audio, bits).save_wav(path, text)?;
    Ok(audio.channels.iter().flatten().filter(|v| v.abs() > most).count())
}

/// Writes a file with the values that `fill` gives, time after time.
pub(super) fn write(
    path: &Path,
    [channels, length]: [usize; 2],
    rate: u32,
    (bits, sample_format): (u32, SampleFormat),
    text: Option<&str>,
    fill: impl FnOnce(&mut WavWriter<&mut Cursor<Vec<u8>>>) -> Result<(), hound::Error>,
) -> Result<(), MediaError> {
    let fail = |reason: String| Err(MediaError::format(path, reason));
    let Ok(count @ 1..) = u16::try_from(channels) else {
        return fail(format!("the audio has {channels} channels, expected 1 to {}", u16::MAX));
    };
    if length == 0 {
        return fail("the audio has no values".into());
    }
    if rate == 0 {
        return fail("the sample rate is 0, expected a value > 0".into());
    }
    let frame = channels * (bits / 8) as usize;
    let bytes = length.saturating_mul(frame).saturating_add(text.map_or(0, str::len) + HEADERS);
    if u32::try_from(bytes).is_err() || u64::from(rate) * frame as u64 > u64::from(u32::MAX) {
        return fail(format!(
            "{length} values at {rate} Hz in {channels} channels exceed the format's 4 GiB"
        ));
    }
    let spec = WavSpec { channels: count, sample_rate: rate, bits_per_sample: bits as u16, sample_format };
    let mut file = Cursor::new(Vec::new());
    let all = || -> Result<(), hound::Error> {
        let mut writer = WavWriter::new(&mut file, spec)?;
        fill(&mut writer)?;
        writer.finalize()
    };
    all().map_err(|e| MediaError::format(path, e))?;
    let mut file = file.into_inner();
    if let Some(text) = text {
        append_text(&mut file, text);
    }
    store(path, &file)
}

/// The beginning of a WAV file of unknown length with integers of 16 bits, whose values follow as [`pcm16`] has them: its
/// lengths are the largest possible ones, by which players know that it goes on until it ends. `None` if there are no channels, or
/// more than the format can describe.
pub fn wav_start(channels: usize, rate: u32) -> Option<Vec<u8>> {
    let frame = u16::try_from(channels.checked_mul(2)?).ok().filter(|frame| *frame > 0)?;
    let mut start = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0".to_vec();
    start.extend((frame / 2).to_le_bytes());
    start.extend(rate.to_le_bytes());
    start.extend(rate.checked_mul(frame.into())?.to_le_bytes());
    start.extend(frame.to_le_bytes());
    start.extend(b"\x10\0data\xff\xff\xff\xff");
    Some(start)
}

/// Values as integers of 16 bits, little-endian, channel by channel in turn, exactly as [`write_wav`] stores them; and how many
/// were clipped.
pub fn pcm16(audio: &Audio) -> (Vec<u8>, usize) {
    let bytes = Recording::of(audio, Some(16)).pcm16().unwrap_or_default();
    (bytes, audio.channels.iter().flatten().filter(|v| v.abs() > 1.0).count())
}

/// Appends a chunk with `text` and corrects the length of the whole.
fn append_text(file: &mut Vec<u8>, text: &str) {
    let mut list = b"INFO".to_vec();
    for (name, text) in [(b"ISFT", SOFTWARE), (b"ICMT", text)] {
        let terminated = [text.as_bytes(), b"\0"].concat();
        chunk(&mut list, name, &terminated);
    }
    if file.len() % 2 == 1 {
        file.push(0);
    }
    chunk(file, b"LIST", &list);
    let length = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    out.extend(name);
    out.extend((content.len() as u32).to_le_bytes());
    out.extend(content);
    if content.len() % 2 == 1 {
        out.push(0);
    }
}

/// Reads the text that [`write_wav`] stored; `None` if there is none.
///
/// # Errors
/// If the file is not a WAV file, or the text is not UTF-8.
pub fn read_wav_text(path: &Path) -> Result<Option<String>, MediaError> {
    let mut file = BufReader::new(open(path)?);
    let mut start = [0; 12];
    let begun = file.read_exact(&mut start);
    if begun.is_err() || !(start.starts_with(b"RIFF") && start.ends_with(b"WAVE")) {
        return Err(MediaError::format(path, "this is not a WAV file"));
    }
    let list = texts(&mut file).map_err(|source| MediaError::Read { path: path.into(), source })?;
    let Some(list) = list else { return Ok(None) };
    let entries = || entries(&list);
    if !entries().any(|(name, text)| name == b"ISFT" && text == SOFTWARE.as_bytes()) {
        return Ok(None);
    }
    let comment = entries().find(|(name, _)| name == b"ICMT").map(|(_, text)| text.to_vec());
    comment.map(String::from_utf8).transpose().map_err(|e| MediaError::format(path, e))
}

/// The content of the last `LIST INFO` chunk, after `INFO`.
fn texts(file: &mut (impl Read + Seek)) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    let mut header = [0; 8];
    while file.read_exact(&mut header).is_ok() {
        let length = u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]));
        let mut skipped = length + length % 2;
        if header.starts_with(b"LIST") && (4..=LONGEST_TEXT).contains(&length) {
            let mut content = Vec::new();
            file.take(length).read_to_end(&mut content)?;
            skipped = skipped.saturating_sub(content.len() as u64);
            found = content.strip_prefix(b"INFO").map(<[u8]>::to_vec).or(found);
        }
        file.seek(SeekFrom::Current(skipped as i64))?;
    }
    Ok(found)
}

/// Names and texts of a list, without the zeros after them.
fn entries(mut list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = list.split_at_checked(8)?;
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let text = rest.get(..length)?;
        list = rest.get(length + length % 2..).unwrap_or_default();
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(length);
        Some((&header[..4], &text[..end]))
    })
}

fn open(path: &Path) -> Result<File, MediaError> {
    files::open(path).map_err(|source| MediaError::Read { path: path.into(), source })
}

pub(super) fn wrong(path: &Path, error: hound::Error) -> MediaError {
    match error {
        // Others are hound's own, for a file that ends too early.
        hound::Error::IoError(source) if source.raw_os_error().is_some() => {
            MediaError::Read { path: path.into(), source }
        }
        hound::Error::Unsupported => MediaError::format(path, format!("unsupported encoding; {EXPECTED}")),
        other => MediaError::format(path, format!("invalid WAV file: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read_sound;

    #[test]
    fn a_stream_has_the_values_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, sound) = (dir.path().join("a.wav"), stereo(8000));
        write_wav(&path, &sound, WavFormat::Pcm16, None).unwrap();
        let file = std::fs::read(&path).unwrap();
        let mut stream = wav_start(2, 8000).unwrap();
        assert_eq!(stream.len(), 44);
        // But for the two lengths.
        assert_eq!((&stream[..4], &stream[8..40]), (&file[..4], &file[8..40]));
        let (values, clipped) = pcm16(&sound);
        assert_eq!((&values[..], clipped), (&file[44..], 0));
        stream.extend(values);
        assert!(wav_start(0, 8000).is_none() && wav_start(1 << 15, 8000).is_none());
    }

    fn stereo(rate: u32) -> Audio {
        let wave = |k: f32| (0..50).map(|i| 0.9 * (k * i as f32).sin()).collect();
        Audio { channels: vec![wave(0.3), wave(0.7)], rate, guessed: false }
    }

    #[test]
    fn values_rate_and_text_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let audio = stereo(48_000);
        for text in [None, Some(r#"{"prompt":"日本"}"#), Some("odd")] {
            assert_eq!(write_wav(&path, &audio, WavFormat::Float32, text).unwrap(), 0);
            assert_eq!(read_sound(&path).unwrap(), audio);
            assert_eq!(read_wav_text(&path).unwrap().as_deref(), text);
            assert_eq!(write_wav(&path, &audio, WavFormat::Pcm16, text).unwrap(), 0);
            let found = read_sound(&path).unwrap();
            assert_eq!((found.rate, found.channels.len()), (48_000, 2));
            let pairs = found.channels.iter().flatten().zip(audio.channels.iter().flatten());
            assert!(pairs.map(|(f, e)| (f - e).abs()).all(|d| d <= 0.5001 / 32768.0));
            assert_eq!(read_wav_text(&path).unwrap().as_deref(), text);
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes[4..8], ((bytes.len() - 8) as u32).to_le_bytes());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn clipped_values_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let values = vec![1.0, -1.0, 1.001, -7.0, 0.25];
        let audio = Audio { channels: vec![values], rate: 8000, guessed: false };
        assert_eq!(write_wav(&path, &audio, WavFormat::Pcm16, None).unwrap(), 2);
        let found = read_sound(&path).unwrap().channels.remove(0);
        let most = 1.0 - 1.0 / 32768.0;
        assert_eq!(found, [most, -1.0, most, -1.0, 0.25]);
        assert_eq!(write_wav(&path, &audio, WavFormat::Float32, None).unwrap(), 0);
        assert_eq!(read_sound(&path).unwrap(), audio);
    }

    #[test]
    fn comments_of_other_programs_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        write_wav(&path, &stereo(8000), WavFormat::Pcm16, Some("mine")).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let place = bytes.windows(7).position(|part| part == b"tweedie").unwrap();
        bytes[place] = b'T';
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read_wav_text(&path).unwrap(), None);
    }

    #[test]
    fn other_formats_and_damage_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let error = || read_sound(&path).unwrap_err().to_string();
        write_wav(&path, &stereo(8000), WavFormat::Pcm16, None).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
        assert!(error().contains("invalid WAV file"), "{}", error());
        std::fs::write(&path, "text").unwrap();
        assert!(error().contains("a.wav"), "{}", error());
        assert!(read_wav_text(&path).unwrap_err().to_string().contains("not a WAV file"));
        std::fs::remove_file(&path).unwrap();
        assert!(error().contains("cannot read"), "{}", error());
    }

    #[test]
    fn failures_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let mut ragged = stereo(8000);
        ragged.channels[1].pop();
        let mut infinite = stereo(8000);
        infinite.channels[0][3] = f32::INFINITY;
        let silent = |channels| Audio { channels, rate: 8000, guessed: false };
        for audio in [silent(vec![]), silent(vec![vec![]]), stereo(0), ragged, infinite] {
            assert!(write_wav(&path, &audio, WavFormat::Pcm16, None).is_err());
        }
        let error = write_wav(&dir.path().join("no/a.wav"), &stereo(1), WavFormat::Pcm16, None).unwrap_err();
        assert!(error.to_string().contains("a.wav"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
