//! A folder of image files, at any depth.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    DataError, FolderConfig, OnError, Skipped, Words,
    decode::EXTENSIONS,
    source::{Collection, Entry, Place},
};

/// Names under which a captions file is found unasked, as Hugging Face's `imagefolder` has it and ours.
const CAPTION_FILES: [&str; 3] = ["metadata.csv", "metadata.jsonl", "captions.jsonl"];

pub(crate) fn open(root: &Path, config: &FolderConfig, on_error: OnError) -> Result<Collection, DataError> {
    if !root.exists() {
        return Err(DataError::Missing { what: "the image folder", path: root.into() });
    }
    if !root.is_dir() {
        return Err(DataError::WrongKind { path: root.into(), expected: "a folder" });
    }
    let mut found = Found::default();
    walk(root, "", &mut found, &mut HashSet::new())?;
    let (captions, skipped) = captions(root, config, on_error, &found)?;
    let class_of = |name: &str| name.split_once('/').map(|(first, _)| first.to_owned());
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
            caption: captions.get(&name).cloned(),
            kinds: class_of(&name).filter(|_| config.classes).into_iter().collect(),
            ..Words::default()
        }),
        family: None,
        held_out: false,
        place: Place::File(path),
        name,
    };
    Ok(Collection {
        entries: found.images.into_iter().map(entry).collect(),
        class_names,
        place: root.display().to_string(),
        looked_for: format!("{} files in it and in its subfolders", EXTENSIONS.join(", ")),
        skipped,
        ..Collection::default()
    })
}

/// Files by their path relative to the root, with slashes.
#[derive(Default)]
struct Found {
    images: BTreeMap<String, PathBuf>,
    texts: BTreeMap<String, PathBuf>,
    captions: BTreeMap<String, PathBuf>,
}

/// Hidden files are passed over; links are followed, each folder once.
fn walk(
    folder: &Path,
    prefix: &str,
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
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if file_name.starts_with('.') {
            continue;
        } else if path.is_dir() {
            walk(&path, &format!("{name}/"), found, seen)?;
        } else if EXTENSIONS.contains(&extension.as_str()) {
            found.images.insert(name, path);
        } else if extension == "txt" {
            found.texts.insert(stem(&name).into(), path);
        } else if CAPTION_FILES.contains(&file_name.as_str()) {
            found.captions.insert(prefix.into(), path);
        }
    }
    Ok(())
}

/// The name without its last extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

type Captions = (BTreeMap<String, String>, Vec<Skipped>);

/// Captions by image name, and the images that a captions file names but the folder lacks.
fn captions(
    root: &Path,
    config: &FolderConfig,
    on_error: OnError,
    found: &Found,
) -> Result<Captions, DataError> {
    let read =
        |path: &Path| fs::read_to_string(path).map_err(|source| DataError::Io { path: path.into(), source });
    let mut captions = BTreeMap::new();
    for name in found.images.keys() {
        if let Some(path) = found.texts.get(stem(name)) {
            captions.insert(name.clone(), read(path)?.trim().to_owned());
        }
    }
    let files = match &config.captions {
        Some(path) if !root.join(path).is_file() => {
            return Err(DataError::Missing { what: "the captions file", path: root.join(path) });
        }
        Some(path) => BTreeMap::from([(String::new(), root.join(path))]),
        None => found.captions.clone(),
    };
    let mut missing = Vec::new();
    for (prefix, path) in files {
        let text = read(&path)?;
        let is_table = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        for (line, row) in if is_table { table(&text) } else { lines(&text) } {
            let wrong = |reason: String| DataError::Captions { path: path.clone(), line, reason };
            let (file_name, caption) = row.map_err(wrong)?;
            let name = format!("{prefix}{}", file_name.replace('\\', "/").trim_start_matches("./"));
            if found.images.contains_key(&name) {
                captions.extend(caption.map(|caption| (name, caption)));
            } else if on_error == OnError::Fail {
                return Err(wrong(format!("the folder holds no image {name}")));
            } else {
                let reason = format!("named in {}, line {line}, but not found", path.display());
                missing.push(Skipped { path: root.join(name), reason });
            }
        }
    }
    Ok((captions, missing))
}

/// The file's name and, if there is one, its text; or what is wrong.
type Row = Result<(String, Option<String>), String>;

/// The rows of a table with a header, and their lines.
fn table(text: &str) -> Vec<(usize, Row)> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
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
    let row = |record: csv::Result<csv::StringRecord>| match record {
        Ok(record) => {
            let field = |at: usize| record.get(at).unwrap_or_default().to_owned();
            let caption = caption.map(field).filter(|caption| !caption.is_empty());
            (line_of(record.position()), Ok((field(name), caption)))
        }
        Err(error) => (line_of(error.position()), Err(error.to_string())),
    };
    reader.records().map(row).collect()
}

/// The rows of a file with an object in each line.
fn lines(text: &str) -> Vec<(usize, Row)> {
    let filled = text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
    filled.map(|(index, text)| (index + 1, caption_line(text))).collect()
}

/// One line of such a file.
fn caption_line(text: &str) -> Row {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let Some(Value::String(name)) = value.get("file_name") else {
        return Err("expected an object with a string \"file_name\"".into());
    };
    match value.get("text").or(value.get("caption")) {
        Some(Value::String(caption)) => Ok((name.clone(), Some(caption.clone()))),
        None | Some(Value::Null) => Ok((name.clone(), None)),
        Some(other) => Err(format!("the text is {other}, expected a string")),
    }
}
