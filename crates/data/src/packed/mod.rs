//! Data sets as they are downloaded: archives of images, alone or many in a folder, and arrays in IDX, CIFAR's binary batches, NPY and NPZ.
//!
//! The contents decide what a file is, not its name. Images are read where they are stored. A file that is compressed as a
//! whole is first unpacked to a temporary file, so memory is needed for an index only.

mod arrays;
mod cifar;
mod idx;
mod members;
mod npy;
mod shards;
mod zip;

use std::{path::Path, sync::Arc};

use crate::{
    DataError, Words,
    source::{Collection, Entry, Place},
};

pub(crate) use arrays::Stretch;
pub(crate) use members::Files;
use members::Member;
pub use members::is_packed;

/// The images of a data set, and what it was recognized as.
struct Found {
    entries: Vec<Entry>,
    class_names: Vec<String>,
    recognized_as: String,
}

impl Found {
    /// Images in the order of their classes' numbers; `class_names` may be empty.
    fn new(
        images: Vec<(String, Stretch)>,
        classes: Option<Vec<usize>>,
        mut class_names: Vec<String>,
        recognized_as: String,
    ) -> Self {
        let most = classes.iter().flatten().max().map_or(0, |most| most + 1);
        class_names.extend((class_names.len()..most).map(|class| class.to_string()));
        let entry = |(at, (name, stretch)): (usize, (String, Stretch))| {
            let class = classes.as_ref().map(|classes| classes[at]);
            let kinds = class.map(|class| class_names[class].clone()).into_iter().collect();
            Entry {
                name,
                family: None,
                held_out: false,
                class,
                words: Arc::new(Words { kinds, ..Words::default() }),
                place: Place::Stretch(stretch),
            }
        };
        let entries = images.into_iter().enumerate().map(entry).collect();
        Self { entries, class_names, recognized_as }
    }
}

pub(crate) fn open(
    path: &Path,
    by_folder: bool,
    endings: &'static [&'static str],
) -> Result<Collection, DataError> {
    if !path.exists() {
        return Err(DataError::Missing { what: "the data set", path: path.into() });
    }
    let wrong = |reason| DataError::Packed { path: path.into(), reason };
    let mut files = Files::default();
    let members = members::of(path, &mut files).map_err(wrong)?;
    let found = read(&members, &mut files, by_folder, endings).map_err(wrong)?;
    Ok(Collection {
        entries: found.entries,
        class_names: found.class_names,
        place: path.display().to_string(),
        looked_for: format!("{} files in it", endings.join(", ")),
        recognized_as: found.recognized_as,
        files,
        ..Collection::default()
    })
}

fn read(members: &[Member], files: &mut Files, by_folder: bool, endings: &[&str]) -> Result<Found, String> {
    let images: Vec<&Member> = members.iter().filter(|m| m.has_extension(endings)).collect();
    if !images.is_empty() {
        return match shards::find(&images, members, files)? {
            Some(found) => Ok(found),
            None => Ok(of_images(&images, by_folder)),
        };
    }
    if let Some(found) = idx::find(members, files)? {
        return Ok(found);
    }
    if let Some(found) = cifar::find(members, files)? {
        return Ok(found);
    }
    if let Some(found) = npy::find(members, files)? {
        return Ok(found);
    }
    if members.iter().any(|m| files.begins_with(m, &[0x80])) {
        return Err("contains Python pickles, which can run code and are never read; download the binary version of the data \
                    set, such as cifar-10-binary.tar.gz"
            .into());
    }
    let names: Vec<&str> = members.iter().take(3).map(|m| m.name.as_str()).collect();
    Err(format!(
        "contains neither images nor supported arrays (IDX, CIFAR's binary batches, NPY, NPZ), but {}{}",
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") },
        if members.len() > 3 { " and more" } else { "" },
    ))
}

/// The images of an archive. Their folders, below one that contains everything, are the classes.
fn of_images(images: &[&Member], by_folder: bool) -> Found {
    let first = |name: &str| name.split_once('/').map(|(first, _)| first.to_owned());
    let mut skip = 0;
    while let Some(top) = images.first().and_then(|m| first(&m.name[skip..])) {
        let whole = format!("{top}/");
        if !images.iter().all(|m| m.name[skip..].starts_with(&whole)) {
            break;
        }
        // A folder of images alone is not a class, and its folders are.
        skip += whole.len();
    }
    let mut class_names: Vec<String> =
        images.iter().filter(|_| by_folder).filter_map(|m| first(&m.name[skip..])).collect();
    class_names.sort();
    class_names.dedup();
    let mut entries: Vec<Entry> = images
        .iter()
        .map(|m| {
            let class = first(&m.name[skip..]).filter(|_| by_folder);
            Entry {
                name: m.name.clone(),
                family: None,
                held_out: false,
                class: class.as_ref().and_then(|class| class_names.binary_search(class).ok()),
                words: Arc::new(Words { kinds: class.into_iter().collect(), ..Words::default() }),
                place: Place::Stretch(Stretch::file(m)),
            }
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let recognized_as = format!("an archive of {} image files", entries.len());
    Found { entries, class_names, recognized_as }
}
