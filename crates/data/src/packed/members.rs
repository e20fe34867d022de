//! The files of a folder or an archive, and how their bytes are reached.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use flate2::read::{DeflateDecoder, MultiGzDecoder};
use tempfile::NamedTempFile;

use super::zip;

/// The most that is read into memory at once: as much as an image file may have.
const MOST: u64 = 512 << 20;
/// The most that a file may unfold to on the disk.
const MOST_UNPACKED: u64 = 1 << 40;

/// A file in a folder or an archive.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// With slashes, relative to the folder or archive.
    pub name: String,
    pub file: usize,
    pub start: u64,
    pub len: u64,
    /// Bytes once inflated, if it is deflated.
    pub inflated: Option<u64>,
}

impl Member {
    pub fn has_extension(&self, any: &[&str]) -> bool {
        let extension = self.name.rsplit_once('.').map(|(_, e)| e.to_lowercase()).unwrap_or_default();
        any.contains(&extension.as_str()) && !self.file_name().starts_with('.')
    }

    /// The name up to the first dot of the file name.
    pub fn key(&self) -> &str {
        let start = self.name.len() - self.file_name().len();
        let dot = self.file_name().find('.').unwrap_or(self.file_name().len());
        &self.name[..start + dot]
    }

    /// The part of the file name after its last dot.
    pub fn ending(&self) -> &str {
        self.file_name().rsplit_once('.').map_or("", |(_, ending)| ending)
    }

    pub fn file_name(&self) -> &str {
        self.name.rsplit_once('/').map_or(&self.name, |(_, name)| name)
    }
}

enum Backing {
    Path(PathBuf),
    /// Removed when nobody reads it any more.
    Unpacked(NamedTempFile),
}

/// The files that contain the members.
#[derive(Default)]
pub(crate) struct Files(Vec<Backing>);

impl Files {
    fn add(&mut self, path: &Path) -> usize {
        self.0.push(Backing::Path(path.into()));
        self.0.len() - 1
    }

    /// A file with what `read` gives.
    fn unpack(&mut self, read: impl Read) -> Result<(usize, u64), String> {
        let mut file = NamedTempFile::new().map_err(|e| format!("no temporary file: {e}"))?;
        let len = io::copy(&mut read.take(MOST_UNPACKED), &mut file)
            .map_err(|e| format!("damaged or truncated, or no room to unpack it: {e}"))?;
        file.flush().map_err(|e| e.to_string())?;
        self.0.push(Backing::Unpacked(file));
        Ok((self.0.len() - 1, len))
    }

    pub(super) fn open(&self, file: usize) -> Result<File, String> {
        let path = match &self.0[file] {
            Backing::Path(path) => path,
            Backing::Unpacked(file) => file.path(),
        };
        File::open(path).map_err(|e| e.to_string())
    }

    pub fn read(&self, file: usize, start: u64, len: u64) -> Result<Vec<u8>, String> {
        if len > MOST {
            return Err(format!("{len} bytes are more than the {} MiB allowed", MOST >> 20));
        }
        let mut open = self.open(file)?;
        open.seek(SeekFrom::Start(start)).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        open.take(len).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() as u64 != len {
            return Err(format!("truncated: {} of {len} bytes are there", bytes.len()));
        }
        Ok(bytes)
    }

    /// The first bytes of a member, at most so many; none where it cannot be read.
    pub(super) fn head(&self, member: &Member, most: usize) -> Vec<u8> {
        let stored = || {
            let mut file = self.open(member.file).ok()?;
            file.seek(SeekFrom::Start(member.start)).ok()?;
            Some(file.take(member.len))
        };
        let Some(stored) = stored() else { return Vec::new() };
        let inflated: Box<dyn Read> = match member.inflated {
            Some(_) => Box::new(DeflateDecoder::new(stored)),
            None => Box::new(stored),
        };
        first(inflated, most)
    }

    /// As [`Files::head`], of what a gzipped member holds.
    pub(super) fn unpacked_head(&self, member: &Member, most: usize) -> Vec<u8> {
        let head = self.head(member, 4096);
        match head.starts_with(GZIP) {
            true => first(MultiGzDecoder::new(&*head), most),
            false => head[..most.min(head.len())].to_vec(),
        }
    }

    pub(super) fn begins_with(&self, member: &Member, bytes: &[u8]) -> bool {
        self.head(member, bytes.len()) == bytes
    }

    /// The same member, not compressed: as its bytes lie in a file.
    pub(super) fn plain(&mut self, member: &Member) -> Result<Member, String> {
        let named = |e: String| format!("{}: {e}", member.name);
        let mut plain = member.clone();
        if member.inflated.is_some() {
            let mut file = self.open(member.file)?;
            file.seek(SeekFrom::Start(member.start)).map_err(|e| e.to_string())?;
            let (file, len) =
                self.unpack(DeflateDecoder::new(BufReader::new(file.take(member.len)))).map_err(named)?;
            plain = Member { file, start: 0, len, inflated: None, ..plain };
        }
        if self.begins_with(&plain, GZIP) {
            let mut file = self.open(plain.file)?;
            file.seek(SeekFrom::Start(plain.start)).map_err(|e| e.to_string())?;
            let (file, len) =
                self.unpack(MultiGzDecoder::new(BufReader::new(file.take(plain.len)))).map_err(named)?;
            plain = Member { file, start: 0, len, ..plain };
        }
        Ok(plain)
    }
}

/// What a deflated member holds.
pub(super) fn inflate(bytes: &[u8], len: u64) -> Result<Vec<u8>, String> {
    if len > MOST {
        return Err(format!("{len} bytes are more than the {} MiB allowed", MOST >> 20));
    }
    let mut out = Vec::new();
    DeflateDecoder::new(bytes).take(len + 1).read_to_end(&mut out).map_err(|e| e.to_string())?;
    match out.len() as u64 == len {
        true => Ok(out),
        false => Err(format!("damaged: it unfolds to {} bytes, expected {len}", out.len())),
    }
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZIP: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];

/// At most so many bytes, fewer where there are no more.
fn first(mut read: impl Read, most: usize) -> Vec<u8> {
    let mut bytes = vec![0; most];
    let mut len = 0;
    while len < most {
        match read.read(&mut bytes[len..]) {
            Ok(n) if n > 0 => len += n,
            _ => break,
        }
    }
    bytes.truncate(len);
    bytes
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Whether a path is an archive or arrays, and not a folder of images.
pub fn is_packed(path: &Path) -> bool {
    if path.is_file() {
        return true;
    }
    let Ok(children) = fs::read_dir(path) else { return false };
    let children: Vec<_> = children.flatten().collect();
    let is_image = |path: &Path| {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        crate::decode::EXTENSIONS.contains(&&*ending)
    };
    if children.iter().any(|child| is_shard(&child.path()))
        && !children.iter().any(|child| child.path().is_dir() || is_image(&child.path()))
    {
        return true;
    }
    children.iter().any(|child| {
        let name = child.file_name().to_string_lossy().to_lowercase();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        plain.ends_with("-ubyte")
            || plain.ends_with(".npy")
            || plain.ends_with(".npz")
            || plain.starts_with("data_batch_")
            || (plain == "train.bin" && child.path().is_file())
    })
}

/// The files that `path` holds: a folder's own, an archive's, or itself and, of IDX, the labels beside it.
pub(super) fn of(path: &Path, files: &mut Files) -> Result<Vec<Member>, String> {
    if path.is_dir() {
        let mut members = Vec::new();
        for child in fs::read_dir(path).map_err(|e| e.to_string())? {
            let child = child.map_err(|e| e.to_string())?.path();
            if child.is_file() {
                let own = whole(&child, files)?;
                if own.has_extension(&["npz"]) {
                    members.extend(zip::members(&own, files)?);
                } else if is_shard(&child) {
                    let named = |e: String| format!("{}: {e}", own.name);
                    let inside =
                        |member: Member| Member { name: format!("{}/{}", own.name, member.name), ..member };
                    members.extend(tar(&own, files).map_err(named)?.into_iter().map(inside));
                } else {
                    members.push(own);
                }
            }
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        return Ok(members);
    }
    let own = whole(path, files)?;
    let gzipped = files.begins_with(&own, GZIP);
    let head = files.unpacked_head(&own, 512);
    if gzipped && head.is_empty() {
        return Err("damaged: it begins as gzip does, and cannot be unpacked".into());
    }
    if is_tar(&head) {
        let plain = if gzipped { files.plain(&own)? } else { own };
        return tar(&plain, files);
    }
    if ZIP.iter().any(|magic| head.starts_with(magic)) {
        return zip::members(&own, files);
    }
    let mut members = vec![own];
    let name = members[0].name.clone();
    if name.contains("images") && name.contains("-ubyte") {
        for labels in ["idx1", "idx2"].map(|idx| name.replace("images", "labels").replace("idx3", idx)) {
            let beside = path.with_file_name(labels);
            if beside.is_file() {
                members.push(whole(&beside, files)?);
            }
        }
    }
    Ok(members)
}

/// Whether a file in a folder is one of the archives of a data set.
fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar")) && path.is_file()
}

fn whole(path: &Path, files: &mut Files) -> Result<Member, String> {
    let len = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?.len();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Member { name, file: files.add(path), start: 0, len, inflated: None })
}

fn tar(archive: &Member, files: &Files) -> Result<Vec<Member>, String> {
    let damaged = |e: io::Error| format!("a damaged or truncated tar archive: {e}");
    let mut tar = ::tar::Archive::new(files.open(archive.file)?);
    let mut members = Vec::new();
    for entry in tar.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(damaged)?.to_string_lossy().replace('\\', "/");
        let (start, len) = (entry.raw_file_position(), entry.size());
        if start.checked_add(len).is_none_or(|end| end > archive.len) {
            return Err(format!("a truncated tar archive: {name} reaches past its end"));
        }
        let name = name.trim_start_matches("./").to_owned();
        members.push(Member { name, file: archive.file, start, len, inflated: None });
    }
    Ok(members)
}
