//! Items by index, whatever they come from.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    DataConfig, DataError, Image, OnError, Skipped, Source, Words, decode, emoji, folder,
    order::mix,
    parquet,
    resize::{Frame, cover, fit},
    source::{Collection, Entry},
};

/// One image of a dataset.
#[derive(Clone, Debug)]
pub struct Item {
    /// Decoded, of the dataset's size.
    pub image: Arc<Image>,
    /// An index into [`Dataset::class_names`].
    pub class: Option<usize>,
    /// What is known of it in words.
    pub words: Arc<Words>,
    /// Unique within the collection, such as a path relative to the folder.
    pub name: String,
}

/// Images of one size, with classes and captions where the collection has them. Cheap to clone.
#[derive(Clone)]
pub struct Dataset {
    shared: Arc<Shared>,
    indices: Arc<[usize]>,
}

struct Shared {
    collection: Collection,
    frame: Frame,
    on_error: OnError,
    holdout: f64,
    /// Every image in the collection's order; `None` for a corrupt one. Absent when they would not fit.
    cache: Option<Vec<Option<Arc<Image>>>>,
    skipped: Mutex<Vec<Skipped>>,
    /// Which images were found to be corrupt: neither decoded nor listed again.
    corrupt: Vec<AtomicBool>,
}

impl Dataset {
    /// Opens the configured collection, all of it: see [`Dataset::split`] for the held-out part.
    ///
    /// Decodes every image when `cache_mb` allows to keep them; then corrupt ones are left out, or the
    /// first is an error, as `on_error` says.
    ///
    /// # Errors
    /// A configuration out of range; a missing or unreadable path; no images; a corrupt image under
    /// `on_error = "fail"`.
    pub fn open(config: &DataConfig) -> Result<Self, DataError> {
        config.validate()?;
        let mut collection = match &config.source {
            Source::Emoji => emoji::open(&config.emoji)?,
            Source::Folder(path) => folder::open(path, &config.folder, config.on_error)?,
            Source::Parquet(path) => parquet::open(path, &config.parquet, config.on_error)?,
        };
        let frame = Frame::of(config);
        let bytes = collection.entries.len().saturating_mul(3 * config.size * config.size + 64);
        let mut shared = Shared {
            frame,
            on_error: config.on_error,
            holdout: config.holdout,
            cache: None,
            skipped: Mutex::new(std::mem::take(&mut collection.skipped)),
            corrupt: collection.entries.iter().map(|_| AtomicBool::new(false)).collect(),
            collection,
        };
        let mut indices: Vec<usize> = (0..shared.collection.entries.len()).collect();
        if indices.is_empty() {
            return Err(shared.empty(String::new()));
        }
        if bytes >> 20 < config.cache_mb {
            let cache = shared.decode_all()?;
            indices.retain(|&i| cache[i].is_some());
            shared.cache = Some(cache);
        }
        if indices.is_empty() {
            return Err(shared.all_corrupt());
        }
        Ok(Self { shared: Arc::new(shared), indices: indices.into() })
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no items; only a held-out part can be so.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Side of the square images, in pixels.
    pub fn size(&self) -> usize {
        self.shared.frame.size
    }

    /// The names of the classes, in order; empty for a collection without classes.
    pub fn class_names(&self) -> &[String] {
        &self.shared.collection.class_names
    }

    /// Each item's class, without decoding anything.
    pub fn classes(&self) -> Vec<Option<usize>> {
        self.indices.iter().map(|&i| self.shared.collection.entries[i].class).collect()
    }

    /// Each item's name, without decoding anything.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.indices.iter().map(|&i| self.shared.collection.entries[i].name.as_str())
    }

    /// What is known of each item in words, without decoding anything.
    pub fn words(&self) -> impl Iterator<Item = &Words> {
        self.indices.iter().map(|&i| &*self.shared.collection.entries[i].words)
    }

    /// Whether every image is held in memory.
    pub fn is_cached(&self) -> bool {
        self.shared.cache.is_some()
    }

    /// The images left out so far. Complete after [`Dataset::open`] when the dataset is cached; otherwise it
    /// grows as corrupt images are met.
    pub fn skipped(&self) -> Vec<Skipped> {
        self.shared.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those from number `first` on of the images left out so far.
    pub fn skipped_from(&self, first: usize) -> Vec<Skipped> {
        let all = self.shared.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(first..).unwrap_or_default().to_vec()
    }

    /// How many files of the source were passed over because they are neither images nor texts about them, by the
    /// ending of their names, such as `.svg`.
    pub fn passed_over(&self) -> &BTreeMap<String, usize> {
        &self.shared.collection.passed_over
    }

    /// The items that have a caption or keywords.
    #[must_use]
    pub fn captioned(&self) -> Self {
        let has = |i: &usize| !self.shared.collection.entries[*i].words.is_silent();
        Self { shared: self.shared.clone(), indices: self.indices.iter().copied().filter(has).collect() }
    }

    /// The part to train on and the held-out part: `config.holdout` of the items on average, and emoji
    /// that are held out by name. Which part an item is in depends on its name alone, so it stays there when others come and go.
    pub fn split(&self) -> (Self, Self) {
        let held = |i: &usize| self.shared.is_held_out(&self.shared.collection.entries[*i]);
        let (held, train): (Vec<_>, Vec<_>) = self.indices.iter().copied().partition(held);
        let part = |indices: Vec<usize>| Self { shared: self.shared.clone(), indices: indices.into() };
        (part(train), part(held))
    }

    /// The item at `index`. Under `on_error = "skip"` a corrupt image that only now turns out to be so is
    /// replaced by the next good one, so that the answer depends on the data alone.
    ///
    /// # Errors
    /// An index past the end; a corrupt image under `on_error = "fail"`, or when no image is good.
    pub fn get(&self, index: usize) -> Result<Item, DataError> {
        let len = self.len();
        if index >= len {
            return Err(DataError::Index { index, len });
        }
        for step in 0..len {
            let at = self.indices[(index + step) % len];
            if self.shared.on_error == OnError::Skip && self.shared.corrupt[at].load(Ordering::Relaxed) {
                continue;
            }
            match self.shared.image(at) {
                Ok(image) => {
                    let Entry { name, class, words, .. } = &self.shared.collection.entries[at];
                    let (name, words) = (name.clone(), words.clone());
                    return Ok(Item { image, class: *class, words, name });
                }
                Err(error) if self.shared.on_error == OnError::Fail => return Err(error),
                Err(_) => {}
            }
        }
        Err(self.shared.all_corrupt())
    }
}

impl Shared {
    fn image(&self, at: usize) -> Result<Arc<Image>, DataError> {
        if let Some(image) = self.cache.as_ref().and_then(|cache| cache[at].clone()) {
            return Ok(image);
        }
        self.collection.decode(at, &self.frame).map(Arc::new).map_err(|reason| {
            let path = self.collection.path(at);
            if !self.corrupt[at].swap(true, Ordering::Relaxed) {
                let skipped = Skipped { path: path.clone(), reason: reason.clone() };
                self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(skipped);
            }
            DataError::Corrupt { path, reason }
        })
    }

    fn decode_all(&self) -> Result<Vec<Option<Arc<Image>>>, DataError> {
        let decoded = self.collection.decode_all(&self.frame);
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = |(at, image): (usize, Result<Image, String>)| match image {
            Ok(image) => Ok(Some(Arc::new(image))),
            Err(reason) if self.on_error == OnError::Fail => {
                Err(DataError::Corrupt { path: self.collection.path(at), reason })
            }
            Err(reason) => {
                skipped.push(Skipped { path: self.collection.path(at), reason });
                Ok(None)
            }
        };
        decoded.into_iter().enumerate().map(keep).collect()
    }

    fn is_held_out(&self, entry: &Entry) -> bool {
        // FNV-1a, then mixed: the low bits of similar names are too alike alone.
        let name = entry.family.as_ref().unwrap_or(&entry.name);
        if entry.held_out {
            return true;
        }
        let bytes = name.bytes();
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        ((mix(hash) >> 11) as f64) < self.holdout * (1_u64 << 53) as f64
    }

    fn empty(&self, but: String) -> DataError {
        let Collection { place, looked_for, .. } = &self.collection;
        DataError::Empty { place: place.clone(), looked_for: format!("{looked_for}{but}") }
    }

    fn all_corrupt(&self) -> DataError {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let first = skipped.first().map(|s| format!("; first {}: {}", s.path.display(), s.reason));
        self.empty(format!(", and all {} found are corrupt{}", skipped.len(), first.unwrap_or_default()))
    }
}

/// What [`Dataset::passed_over`] counts, in words: `3 .tga, 1 without ending`.
pub fn counted_endings(counts: &BTreeMap<String, usize>) -> String {
    let one = |(ending, count): (&String, &usize)| match ending.as_str() {
        "" => format!("{count} without ending"),
        ending => format!("{count} {ending}"),
    };
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Decodes the image file at `path`, brought to the size, background and fit of `config`.
///
/// # Errors
/// If the file is missing or is no image that can be decoded; the message names it.
pub fn open_image(path: &Path, config: &DataConfig) -> Result<Image, DataError> {
    config.validate()?;
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let corrupt = |reason| DataError::Corrupt { path: path.into(), reason };
    Ok(fit(&decode::file(path).map_err(corrupt)?, &Frame::of(config)))
}

/// The image file at `path`, its middle cut to the aspect of `height` to `width` and brought to that size.
///
/// # Errors
/// As [`open_image`].
pub fn open_sized(path: &Path, [height, width]: [usize; 2]) -> Result<Image, DataError> {
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let corrupt = |reason: String| DataError::Corrupt { path: path.into(), reason };
    if height == 0 || width == 0 {
        return Err(corrupt(format!("cannot be brought to {width}×{height} pixels")));
    }
    let raster = decode::file(path).map_err(corrupt)?;
    Ok(cover(&raster, [height, width], DataConfig::default().background))
}

/// What an image file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Columns, as it is decoded.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Whether no pixel has a colour.
    pub grey: bool,
}

/// Decodes the image file at `path` and tells what it holds.
///
/// # Errors
/// As [`open_image`].
pub fn image_facts(path: &Path) -> Result<ImageFacts, DataError> {
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let raster = decode::file(path).map_err(|reason| DataError::Corrupt { path: path.into(), reason })?;
    let grey = raster.rgba.chunks_exact(4).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
    Ok(ImageFacts { width: raster.width, height: raster.height, grey })
}
