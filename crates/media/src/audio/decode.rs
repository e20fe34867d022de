//! Decodes sound files of any supported format.

use std::{io::Cursor, path::Path};

use symphonia::core::{
    audio::SampleBuffer,
    codecs::{CODEC_TYPE_FLAC, CODEC_TYPE_NULL, DecoderOptions},
    errors::Error,
    formats::FormatOptions,
    io::MediaSourceStream,
    meta::MetadataOptions,
    probe::Hint,
};
use tweedie_system::files;

use super::Recording;
use crate::{Audio, MediaError};

/// The extensions of files that [`decode_sound`] reads.
pub const SOUND_ENDINGS: [&str; 7] = ["wav", "flac", "ogg", "oga", "mp3", "m4a", "aac"];
/// Maximum values of a sound, all channels together: 512 MiB, or 50 minutes of mono at 44.1 kHz.
pub(super) const MOST_VALUES: usize = 1 << 27;
/// Maximum size of a file.
pub(super) const MOST_BYTES: u64 = 512 << 20;
/// What sounds in memory are called in messages.
const NAME: &str = "the sound";

/// The error for a sound of more than [`MOST_VALUES`].
pub(super) fn too_long(values: usize, rate: u32, channels: usize) -> String {
    let seconds = |values: usize| values as f64 / (f64::from(rate.max(1)) * channels.max(1) as f64);
    format!(
        "the sound has {:.0} s or more, and at {rate} Hz with {channels} channels the limit is {:.0} s; cut it into \
         pieces",
        seconds(values),
        seconds(MOST_VALUES)
    )
}

/// Reads a WAV, FLAC, Ogg Vorbis, MP3 or AAC file; its first bytes decide which it is.
///
/// # Errors
/// If it cannot be read, is none of these or damaged, or has more than 2²⁷ values.
pub fn read_sound(path: &Path) -> Result<Audio, MediaError> {
    let bytes = files::read(path, MOST_BYTES);
    let bytes = bytes.map_err(|source| MediaError::Read { path: path.into(), source })?;
    decoded(&bytes, path)
}

/// The same for the content of a file.
///
/// # Errors
/// Those of [`read_sound`].
pub fn decode_sound(content: &[u8]) -> Result<Audio, MediaError> {
    decoded(content, Path::new(NAME))
}

fn decoded(bytes: &[u8], path: &Path) -> Result<Audio, MediaError> {
    if bytes.starts_with(b"RIFF") {
        return Ok(Recording::of_wav(bytes, path)?.audio());
    }
    compressed(bytes).map(|(audio, _)| audio).map_err(|reason| MediaError::format(path, reason))
}

/// A sound of any format but WAV, and its bits per value if they are whole numbers.
pub(super) fn compressed(bytes: &[u8]) -> Result<(Audio, Option<u32>), String> {
    let damaged = |e: Error| format!("damaged, or not a WAV, FLAC, Ogg Vorbis, MP3 or AAC file: {e}");
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes.to_vec())), Default::default());
    let options = FormatOptions { enable_gapless: true, ..Default::default() };
    let probe = symphonia::default::get_probe();
    let found = probe.format(&Hint::new(), stream, &options, &MetadataOptions::default()).map_err(damaged)?;
    let mut format = found.format;
    let track = format.tracks().iter().find(|track| track.codec_params.codec != CODEC_TYPE_NULL);
    let track = track.ok_or("the file has no sound")?;
    let (id, length) = (track.id, track.codec_params.n_frames);
    let lossless = track.codec_params.codec == CODEC_TYPE_FLAC;
    let bits = track.codec_params.bits_per_sample.filter(|_| lossless);
    let decoders = symphonia::default::get_codecs();
    let mut decoder = decoders.make(&track.codec_params, &DecoderOptions::default()).map_err(damaged)?;
    let mut channels: Vec<Vec<f32>> = Vec::new();
    let mut rate = 0;
    loop {
        let packet = match format.next_packet() {
            Ok(packet) if packet.track_id() == id => packet,
            Ok(_) => continue,
            // How symphonia says that the file ends.
            Err(Error::IoError(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(damaged(error)),
        };
        let block = decoder.decode(&packet).map_err(damaged)?;
        let spec = *block.spec();
        let count = spec.channels.count();
        if channels.is_empty() {
            (channels, rate) = (vec![Vec::new(); count], spec.rate);
        }
        if (count, spec.rate) != (channels.len(), rate) {
            return Err("its rate or number of channels changes within the file".into());
        }
        let mut values = SampleBuffer::<f32>::new(block.capacity() as u64, spec);
        values.copy_interleaved_ref(block);
        for (channel, into) in channels.iter_mut().enumerate() {
            into.extend(values.samples().iter().skip(channel).step_by(count));
        }
        let all = channels.len() * channels.first().map_or(0, Vec::len);
        if all > MOST_VALUES {
            return Err(too_long(all, rate, channels.len()));
        }
    }
    let found = channels.first().map_or(0, Vec::len);
    if let Some(length) = length.and_then(|length| usize::try_from(length).ok()) {
        // Other formats only estimate their length.
        if lossless && found < length {
            return Err(format!(
                "the file is truncated: it has {found} of the {length} values per channel that its header announces"
            ));
        }
        // The last block of Ogg Vorbis may be longer than the sound.
        channels.iter_mut().for_each(|channel| channel.truncate(length));
    }
    match found == 0 {
        true => Err("the sound has no values".into()),
        false => Ok((Audio { channels, rate, guessed: false }, bits)),
    }
}
