//! The list of a zip archive, with what it needs beyond 4 GiB or 65,535 files.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use super::members::{Files, Member};

/// The list's end, its comment included, is within so many bytes of the file's.
const TAIL: u64 = 65_535 + 22;
/// The most that a list may have.
const MOST: u64 = 1 << 30;
const ENTRY: usize = 46;

/// Numbers of some bytes, the lowest byte first.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn number(&self, at: usize, len: usize) -> Option<u64> {
        Some(self.0.get(at..at + len)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }
}

fn read(file: &mut File, start: u64, len: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
    file.take(len).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 == len { Ok(bytes) } else { Err(cut_off()) }
}

fn cut_off() -> String {
    "a damaged or truncated zip archive".into()
}

/// The files in an archive that is the whole of a file.
pub(super) fn members(archive: &Member, files: &Files) -> Result<Vec<Member>, String> {
    let mut file = files.open(archive.file)?;
    let [start, len, count] = list(&mut file, archive.len)?;
    if start.checked_add(len).is_none_or(|end| end > archive.len) || len > MOST {
        return Err(cut_off());
    }
    let list = read(&mut file, start, len)?;
    let mut members = Vec::new();
    let mut at = 0;
    for _ in 0..count {
        let (member, next) = entry(&list, at, archive.file).ok_or_else(cut_off)?;
        at = next;
        let Some((mut member, method, flags)) = member else { continue };
        let name = &member.name;
        if flags & 1 == 1 {
            return Err(format!("{name} is encrypted"));
        }
        match method {
            0 => member.inflated = None,
            8 => {}
            other => {
                return Err(format!("{name} is compressed by method {other}; expected 8 (deflate) or none"));
            }
        }
        // Its own header may be longer than the list says.
        let own = read(&mut file, member.start, 30)?;
        let lengths = |at| Bytes(&own).number(at, 2);
        let (Some(name), Some(extra)) = (lengths(26), lengths(28)) else { return Err(cut_off()) };
        member.start += 30 + name + extra;
        if member.start.checked_add(member.len).is_none_or(|end| end > archive.len) {
            return Err(format!("a truncated zip archive: {} reaches past its end", member.name));
        }
        members.push(member);
    }
    Ok(members)
}

/// Where the list is, how long, and how many files it names.
fn list(file: &mut File, len: u64) -> Result<[u64; 3], String> {
    let tail = len.min(TAIL);
    let end = read(file, len - tail, tail)?;
    let at = end.windows(4).rposition(|four| four == b"PK\x05\x06").ok_or_else(cut_off)?;
    let of = |bytes: &[u8], start, size, count, wide| {
        let bytes = Bytes(bytes);
        Some([
            bytes.number(start, wide)?,
            bytes.number(size, wide)?,
            bytes.number(count, if wide == 4 { 2 } else { 8 })?,
        ])
    };
    let found = of(&end[at..], 16, 12, 10, 4).ok_or_else(cut_off)?;
    if found[0] != u64::from(u32::MAX) && found[2] != u64::from(u16::MAX) {
        return Ok(found);
    }
    // A locator stands before it, and says where the wide one is.
    let locator = at.checked_sub(20).map(|start| &end[start..at]).filter(|l| l.starts_with(b"PK\x06\x07"));
    let Some(wide) = locator.and_then(|l| Bytes(l).number(8, 8)) else { return Ok(found) };
    let wide = read(file, wide, 56)?;
    of(&wide, 48, 40, 32, 8).filter(|_| wide.starts_with(b"PK\x06\x06")).ok_or_else(cut_off)
}

type Entry = (Member, u64, u64);

/// The entry at `at`, with its method and flags, unless it is a folder; and where the next one is.
fn entry(list: &[u8], at: usize, file: usize) -> Option<(Option<Entry>, usize)> {
    let bytes = Bytes(list.get(at..)?);
    if !bytes.0.starts_with(b"PK\x01\x02") {
        return None;
    }
    let [flags, method] = [bytes.number(8, 2)?, bytes.number(10, 2)?];
    let mut sizes = [bytes.number(24, 4)?, bytes.number(20, 4)?, bytes.number(42, 4)?];
    let [name, extra, comment] =
        [bytes.number(28, 2)? as usize, bytes.number(30, 2)? as usize, bytes.number(32, 2)? as usize];
    let text = String::from_utf8_lossy(bytes.0.get(ENTRY..ENTRY + name)?).replace('\\', "/");
    let mut more = bytes.0.get(ENTRY + name..ENTRY + name + extra)?;
    while let (Some(kind), Some(len)) = (Bytes(more).number(0, 2), Bytes(more).number(2, 2)) {
        let field = more.get(4..4 + len as usize)?;
        if kind == 1 {
            // Of the numbers that did not fit, in this order.
            let mut next = 0;
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = Bytes(field).number(next, 8)?;
                next += 8;
            }
        }
        more = &more[4 + len as usize..];
    }
    let [inflated, len, start] = sizes;
    let next = at + ENTRY + name + extra + comment;
    if text.ends_with('/') {
        return Some((None, next));
    }
    Some((Some((Member { name: text, file, start, len, inflated: Some(inflated) }, method, flags)), next))
}
