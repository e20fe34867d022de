//! A folder of files, at any depth.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use tweedie_system::files;

use crate::{
    DataError, FolderConfig, OnError, Skipped, Words,
    form::{Decode, Label},
    source::{Collection, Entry, Place, ending},
};

/// Captions files that are used by default: Hugging Face's `imagefolder` names and ours. See also [`is_transcripts`].
const CAPTION_FILES: [&str; 3] = ["metadata.csv", "metadata.jsonl", "captions.jsonl"];

pub(crate) fn open<D: Decode>(
    root: &Path,
    config: &FolderConfig,
    on_error: OnError,
    by: &D,
) -> Result<Collection, DataError> {
    if !root.exists() {
        return Err(DataError::Missing { what: "the folder", path: root.into() });
    }
    if !root.is_dir() {
        return Err(DataError::WrongKind { path: root.into(), expected: "a folder" });
    }
    let mut found = Found::default();
    walk(root, "", by, &mut found, &mut HashSet::new())?;
    let (captions, skipped) = captions(root, config, on_error, &mut found)?;
    let (told, recognized_as) = told_by_names(&found, &captions, by);
    let class_of = |name: &str| match told.get(name) {
        Some(label) => Some(label.kind.clone()),
        None => name.split_once('/').map(|(first, _)| first.to_owned()),
    };
    let mut class_names: Vec<String> = match config.classes {
        true => found.images.keys().filter_map(|name| class_of(name)).collect(),
        false => Vec::new(),
    };
    // The paths are sorted, but `a-b/` sorts before `a/` while `a` sorts before `a-b`.
    class_names.sort();
    class_names.dedup();
    let entry = |(name, path): (String, PathBuf)| Entry {
        class: class_of(&name).and_then(|class| class_names.binary_search(&class).ok()),
        words: Arc::new(Words {
            caption: captions.get(&name).or(told.get(&name).map(|label| &label.caption)).cloned(),
            kinds: class_of(&name).filter(|_| config.classes).into_iter().collect(),
            ..Words::default()
        }),
        family: None,
        held_out: told.get(&name).is_some_and(|label| label.held_out),
        place: if by.opens_files() { Place::Path(path) } else { Place::File(path) },
        name,
    };
    Ok(Collection {
        entries: found.images.into_iter().map(entry).collect(),
        class_names,
        place: root.display().to_string(),
        looked_for: format!("{} files in it and in its subfolders", by.endings().join(", ")),
        skipped,
        passed_over: found.others,
        recognized_as,
        ..Collection::default()
    })
}

/// What the files' names say of their contents, and as what collection they are known.
fn told_by_names<D: Decode>(
    found: &Found,
    captions: &BTreeMap<String, String>,
    by: &D,
) -> (BTreeMap<String, Label>, String) {
    let names: Vec<&String> = found.images.keys().filter(|name| !captions.contains_key(*name)).collect();
    let file = |name: &'_ String| stem(name).rsplit_once('/').map_or(0, |(folder, _)| folder.len() + 1);
    let stems: Vec<&str> = names.iter().map(|name| &stem(name)[file(name)..]).collect();
    match by.told_by_names(&stems) {
        Some((collection, labels)) => {
            let recognized = format!("{collection}, {} {} labelled by their names", labels.len(), by.noun());
            (names.into_iter().cloned().zip(labels).collect(), recognized)
        }
        None => Default::default(),
    }
}

/// Files by their path relative to the root, with slashes.
#[derive(Default)]
struct Found {
    images: BTreeMap<String, PathBuf>,
    texts: BTreeMap<String, PathBuf>,
    captions: BTreeMap<String, PathBuf>,
    /// Number of other files, by extension.
    others: BTreeMap<String, usize>,
}

/// Hidden files are ignored; links are followed, and each folder is visited once.
fn walk<D: Decode>(
    folder: &Path,
    prefix: &str,
    by: &D,
    found: &mut Found,
    seen: &mut HashSet<PathBuf>,
) -> Result<(), DataError> {
    let io = |source| DataError::Io { path: folder.into(), source };
    if !seen.insert(folder.canonicalize().map_err(io)?) {
        return Ok(());
    }
    let mut children = Vec::new();
    for child in fs::read_dir(folder).map_err(io)? {
        children.push(child.map_err(io)?.path());
    }
    children.sort();
    for path in children {
        let Some(file_name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
        let name = format!("{prefix}{file_name}");
        let ending = ending(&path);
        if file_name.starts_with('.') {
            continue;
        } else if path.is_dir() && by.takes_folder(&path) {
            found.images.insert(name, path);
        } else if path.is_dir() {
            walk(&path, &format!("{name}/"), by, found, seen)?;
        } else if by.endings().contains(&ending.trim_start_matches('.')) {
            found.images.insert(name, path);
        } else if is_transcripts(&file_name) {
            found.captions.insert(prefix.into(), path);
        } else if ending == ".txt" {
            found.texts.insert(stem(&name).into(), path);
        } else if CAPTION_FILES.contains(&file_name.as_str()) {
            found.captions.insert(prefix.into(), path);
        } else if by.recognizes(&path) {
            found.images.insert(name, path);
        } else {
            *found.others.entry(ending).or_default() += 1;
        }
    }
    Ok(())
}

/// The name without its extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Maximum size of a text file beside an image, and of a captions file.
const LONGEST_TEXT: u64 = 1 << 20;
const LONGEST_TABLE: u64 = 1 << 30;

type Captions = (BTreeMap<String, String>, Vec<Skipped>);

/// Captions by image name; and the images that are listed in a captions file but missing, or whose caption cannot be
/// read, which are removed from `found`.
fn captions(
    root: &Path,
    config: &FolderConfig,
    on_error: OnError,
    found: &mut Found,
) -> Result<Captions, DataError> {
    let (mut captions, mut skipped) = (BTreeMap::new(), Vec::new());
    let mut unreadable = Vec::new();
    for (name, image) in &found.images {
        // The name of a folder has no extension.
        let stem = if image.is_dir() { name } else { stem(name) };
        let Some(path) = found.texts.get(stem) else { continue };
        match files::read_text(path, LONGEST_TEXT) {
            Ok(text) => {
                captions.insert(name.clone(), unmarked(&text).trim().to_owned());
            }
            Err(source) if on_error == OnError::Fail => {
                return Err(DataError::Io { path: path.clone(), source });
            }
            Err(error) => {
                let reason = format!("its caption {}: {error}", path.display());
                skipped.push(Skipped { path: image.clone(), reason });
                unreadable.push(name.clone());
            }
        }
    }
    let listed = match &config.captions {
        Some(path) if !root.join(path).exists() => {
            return Err(DataError::Missing { what: "the captions file", path: root.join(path) });
        }
        Some(path) => BTreeMap::from([(String::new(), root.join(path))]),
        None => found.captions.clone(),
    };
    for (prefix, path) in listed {
        let bytes = files::read(&path, LONGEST_TABLE)
            .map_err(|source| DataError::Io { path: path.clone(), source })?;
        let unpacked = unpacked(&bytes).map_err(|source| DataError::Io { path: path.clone(), source })?;
        let bytes = unpacked.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(&unpacked);
        let named = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let rows = if named.ends_with(".csv") {
            table(bytes)
        } else if named.ends_with(".txt") || named.ends_with(".txt.gz") {
            transcripts(bytes, &found.images)
        } else {
            lines(bytes)
        };
        let (count, mut absent) = (rows.len(), Vec::new());
        for (line, row) in rows {
            let wrong = |reason: String| DataError::Captions { path: path.clone(), line, reason };
            let (file_name, caption) = row.map_err(wrong)?;
            let name = format!("{prefix}{}", file_name.replace('\\', "/").trim_start_matches("./"));
            let Some(image) = found.images.get(&name) else {
                absent.push((line, name));
                continue;
            };
            match caption {
                Ok(caption) => captions.extend(caption.map(|caption| (name, caption))),
                Err(reason) if on_error == OnError::Fail => return Err(wrong(format!("{name}: {reason}"))),
                Err(reason) => {
                    let reason = format!("its caption in {}, line {line}: {reason}", path.display());
                    skipped.push(Skipped { path: image.clone(), reason });
                    unreadable.push(name);
                }
            }
        }
        match absent.first() {
            Some((line, name)) if absent.len() == count || on_error == OnError::Fail => {
                let reason = none_of(name, count, absent.len(), found);
                return Err(DataError::Captions { path, line: *line, reason });
            }
            _ => {}
        }
        skipped.extend(absent.into_iter().map(|(line, name)| {
            let reason = format!("listed in {}, line {line}, but not found", path.display());
            Skipped { path: root.join(name), reason }
        }));
    }
    for name in unreadable {
        found.images.remove(&name);
    }
    Ok((captions, skipped))
}

/// The error for a captions file with `count` rows, `absent` of which name no image of the folder, first `name`.
fn none_of(name: &str, count: usize, absent: usize, found: &Found) -> String {
    let mut text = format!("the folder has no image {name}");
    if count > 1 && absent == count {
        text.push_str(&format!(", nor any of the other {count} images listed here"));
    }
    text.push_str("; names are paths relative to the folder of this file");
    match name.split_once('/') {
        Some((first, rest)) if found.images.contains_key(rest) => {
            text.push_str(&format!(": it would be found without `{first}/`"));
        }
        _ => {}
    }
    text
}

/// Some editors write this at the start of a text.
const BYTE_ORDER_MARK: &str = "\u{feff}";

fn unmarked(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// File name and optional text, or the reason why the text cannot be read; or the fault of the row.
type Row = Result<(String, Result<Option<String>, String>), String>;

/// The rows of a table with a header, and their line numbers.
fn table(text: &[u8]) -> Vec<(usize, Row)> {
    let mut reader = csv::Reader::from_reader(text);
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(error) => return vec![(1, Err(error.to_string()))],
    };
    let column = |name: &str| header.iter().position(|found| found.trim() == name);
    let Some(name) = column("file_name") else {
        return vec![(1, Err("expected a header with a column `file_name`".into()))];
    };
    let caption = column("text").or_else(|| column("caption"));
    let line_of = |position: Option<&csv::Position>| position.map_or(1, |at| at.line() as usize);
    let row = |record: csv::Result<csv::ByteRecord>| match record {
        Ok(record) => {
            let field = |at: usize| utf8(record.get(at).unwrap_or_default());
            let caption = caption.map(field).transpose();
            let caption = caption.map(|caption| caption.filter(|caption| !caption.is_empty()));
            let name = field(name).map_err(|reason| format!("file_name: {reason}"));
            (line_of(record.position()), name.map(|name| (name, caption)))
        }
        Err(error) => (line_of(error.position()), Err(error.to_string())),
    };
    reader.byte_records().map(row).collect()
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|e| format!("not UTF-8 text: byte {} is invalid", e.valid_up_to()))
}

/// Whether a file holds the transcripts of Asterisk's core sounds, such as `core-sounds-en.txt`, gzipped or not.
fn is_transcripts(file_name: &str) -> bool {
    let name = file_name.strip_prefix("core-sounds-").unwrap_or_default();
    name.ends_with(".txt") || name.ends_with(".txt.gz")
}

/// The content of a file that may be gzipped.
fn unpacked(bytes: &[u8]) -> std::io::Result<Cow<'_, [u8]>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes.into());
    }
    let mut content = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).take(LONGEST_TABLE).read_to_end(&mut content)?;
    Ok(content.into())
}

/// The rows of transcripts: `name: text`, of which the name has no extension. Lines that begin with `;` are comments.
fn transcripts(text: &[u8], files: &BTreeMap<String, PathBuf>) -> Vec<(usize, Row)> {
    let by_stem: BTreeMap<&str, &String> = files.keys().map(|name| (stem(name), name)).collect();
    let said = |line: &[u8]| !line.trim_ascii().is_empty() && !line.starts_with(b";");
    let filled = text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| said(line));
    let row = |(index, line): (usize, &[u8])| {
        let row = utf8(line).and_then(|line| match line.split_once(':') {
            Some((name, text)) => {
                let name = by_stem.get(name.trim()).map_or(name.trim(), |name| name.as_str());
                Ok((name.to_owned(), Ok(Some(text.trim().to_owned()))))
            }
            None => Err("expected a name, a colon and a text".into()),
        });
        (index + 1, row)
    };
    filled.map(row).collect()
}

/// The rows of a file with one object per line.
fn lines(text: &[u8]) -> Vec<(usize, Row)> {
    let filled = text.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    filled.map(|(index, line)| (index + 1, caption_line(line))).collect()
}

/// One line of a JSON lines file.
fn caption_line(line: &[u8]) -> Row {
    let (text, encoding) = (String::from_utf8_lossy(line), utf8(line).err());
    let value: Value = serde_json::from_str(&text).map_err(|e| format!("invalid JSON: {e}"))?;
    let Some(Value::String(name)) = value.get("file_name") else {
        return Err("expected an object with a string \"file_name\"".into());
    };
    if let Some(reason) = encoding {
        return Ok((name.clone(), Err(reason)));
    }
    match value.get("text").or(value.get("caption")) {
        Some(Value::String(caption)) => Ok((name.clone(), Ok(Some(caption.clone())))),
        None | Some(Value::Null) => Ok((name.clone(), Ok(None))),
        Some(other) => Err(format!("the text is {other}, expected a string")),
    }
}
