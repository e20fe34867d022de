//! FLAC files, with a text such as the request that they were made with.

use std::path::Path;

use flacenc::{
    bitsink::ByteSink,
    component::{BitRepr, MetadataBlockData},
    config::Encoder,
    encode_with_fixed_block_size,
    error::Verify,
    source::MemSource,
};

use crate::{MediaError, store};

/// The name of the program, by which [`flac_text`] knows that the comment is its own.
const VENDOR: &str = "tweedie";
/// What the comment begins with.
const FIELD: &str = "COMMENT=";
/// The type of the block with comments.
const COMMENTS: u8 = 4;
/// Values of each channel in a frame.
const BLOCK: usize = 4096;
/// Bits per value, channels and the longest comment that the format and the encoder support.
const MOST_BITS: u32 = 24;
const MOST_CHANNELS: usize = 8;
const MOST_TEXT: usize = (1 << 24) - 64;

/// Writes whole numbers of `bits`, all with one length. A `text` is stored as a comment, which other programs show or skip.
///
/// # Errors
/// If there are no values, the format does not support them, or the file cannot be written.
pub(super) fn write(
    path: &Path,
    channels: &[Vec<i32>],
    bits: u32,
    rate: u32,
    text: Option<&str>,
) -> Result<(), MediaError> {
    let fail = |reason: String| MediaError::format(path, reason);
    let (count, length) = (channels.len(), channels.first().map_or(0, Vec::len));
    if length == 0 || !(1..=MOST_CHANNELS).contains(&count) || !(8..=MOST_BITS).contains(&bits) {
        return Err(fail(format!(
            "{count} channels of {length} values of {bits} bits; FLAC files have 1 to {MOST_CHANNELS} channels and 8 to \
             {MOST_BITS} bits; write a WAV file"
        )));
    }
    let values: Vec<i32> = (0..length).flat_map(|i| channels.iter().map(move |channel| channel[i])).collect();
    let source = MemSource::from_samples(&values, count, bits as usize, rate as usize);
    let config = Encoder::default().into_verified().map_err(|(_, e)| fail(e.to_string()))?;
    let mut stream = encode_with_fixed_block_size(&config, source, BLOCK)
        .map_err(|e| fail(format!("cannot encode it: {e}")))?;
    // The last frame may be shorter than the least size: a file with several sizes is another format.
    stream.stream_info_mut().set_block_sizes(BLOCK, BLOCK).map_err(|e| fail(e.to_string()))?;
    if let Some(text) = text {
        if text.len() > MOST_TEXT {
            return Err(fail(format!("a comment of {} bytes, expected at most {MOST_TEXT}", text.len())));
        }
        let block =
            MetadataBlockData::new_unknown(COMMENTS, &comments(text)).map_err(|e| fail(e.to_string()))?;
        stream.add_metadata_block(block);
    }
    let mut sink = ByteSink::new();
    stream.write(&mut sink).map_err(|e| fail(format!("cannot encode it: {e}")))?;
    store(path, sink.as_slice())
}

/// The block with one comment.
fn comments(text: &str) -> Vec<u8> {
    let mut block = Vec::new();
    block.extend((VENDOR.len() as u32).to_le_bytes());
    block.extend(VENDOR.as_bytes());
    // One comment.
    block.extend(1u32.to_le_bytes());
    block.extend(((FIELD.len() + text.len()) as u32).to_le_bytes());
    block.extend(FIELD.as_bytes());
    block.extend(text.as_bytes());
    block
}

/// The text that [`write`] stored in the content of a file; `None` if there is none.
pub(crate) fn flac_text(content: &[u8]) -> Option<String> {
    let mut rest = content.strip_prefix(b"fLaC")?;
    loop {
        let (header, after) = rest.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let (block, next) = after.split_at_checked(length)?;
        if header[0] & 0x7f == COMMENTS {
            return comment(block);
        }
        if header[0] & 0x80 != 0 {
            return None;
        }
        rest = next;
    }
}

fn comment(mut block: &[u8]) -> Option<String> {
    fn number(block: &mut &[u8]) -> Option<usize> {
        let (front, rest) = block.split_first_chunk::<4>()?;
        *block = rest;
        usize::try_from(u32::from_le_bytes(*front)).ok()
    }
    fn text<'a>(block: &mut &'a [u8]) -> Option<&'a [u8]> {
        let length = number(block)?;
        let (front, rest) = block.split_at_checked(length)?;
        *block = rest;
        Some(front)
    }
    if text(&mut block)? != VENDOR.as_bytes() {
        return None;
    }
    (0..number(&mut block)?)
        .map_while(|_| text(&mut block))
        .find_map(|comment| comment.strip_prefix(FIELD.as_bytes()))
        .and_then(|text| String::from_utf8(text.to_vec()).ok())
}
