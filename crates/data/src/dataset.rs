//! Indexed items of any collection.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rayon::prelude::*;

use crate::{
    BufferUse, DataConfig, DataError, Image, OnError, Order, Picture, Rgb, Skipped, Source, Words, decode,
    emoji, folder,
    form::{self, Decode, Sounds},
    moving,
    order::mix_name,
    packed, parquet,
    resize::{Frame, Raster, cover, fit},
    source::{Collection, Entry},
};

/// One item of a dataset.
#[derive(Clone, Debug)]
pub struct Item<T = Image> {
    /// The decoded item: an image of the dataset's size, or a sound.
    pub sample: Arc<T>,
    /// An index into [`Dataset::class_names`].
    pub class: Option<usize>,
    /// Its description in words.
    pub words: Arc<Words>,
    /// A name that is unique in the collection, for example a path relative to the folder.
    pub name: String,
}

/// Images of one size, or items of another medium, with classes and captions if the collection has them. Cheap to clone.
pub struct Dataset<D: Decode = Frame> {
    shared: Arc<Shared<D>>,
    indices: Arc<[usize]>,
}

impl<D: Decode> Clone for Dataset<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), indices: self.indices.clone() }
    }
}

struct Shared<D: Decode> {
    collection: Collection,
    by: D,
    on_error: OnError,
    holdout: f64,
    /// Items that change places; 0 for all.
    shuffle: usize,
    /// All images in the collection's order, with `None` for corrupt ones. `None` if they do not fit in memory.
    cache: Option<Vec<Option<Arc<D::Sample>>>>,
    skipped: Mutex<Vec<Skipped>>,
    /// Images found to be corrupt, which are neither decoded nor listed again.
    corrupt: Vec<AtomicBool>,
}

impl Dataset {
    /// Opens the whole configured collection of images; [`Dataset::split`] separates the held-out part.
    ///
    /// Decodes all images if they fit in `cache_mb`. Corrupt ones are then skipped, or the first one is an error,
    /// depending on `on_error`.
    ///
    /// # Errors
    /// A configuration value out of range, a missing or unreadable path, no images, or a corrupt image with
    /// `on_error = "fail"`.
    pub fn open(config: &DataConfig) -> Result<Self, DataError> {
        Self::open_by(config, Frame::of(config))
    }

    /// Width and height of the images in pixels.
    pub fn size(&self) -> usize {
        self.shared.by.size
    }
}

impl<D: Decode> Dataset<D> {
    /// Opens a collection of another medium, whose items `by` decodes. Of `config`, the fields about images are not used.
    ///
    /// # Errors
    /// Those of [`Dataset::open`].
    pub fn open_by(config: &DataConfig, by: D) -> Result<Self, DataError> {
        config.validate()?;
        let mut collection = collection(config, &by)?;
        let bytes = by.bytes().map_or(usize::MAX, |each| collection.entries.len().saturating_mul(each));
        let mut shared = Shared {
            by,
            on_error: config.on_error,
            holdout: config.holdout,
            shuffle: config.shuffle,
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

    /// Number of items.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no items, which only a held-out part can have.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Names of the classes; empty if the collection has none.
    pub fn class_names(&self) -> &[String] {
        &self.shared.collection.class_names
    }

    /// The class of each item; decodes nothing.
    pub fn classes(&self) -> Vec<Option<usize>> {
        self.indices.iter().map(|&i| self.shared.collection.entries[i].class).collect()
    }

    /// The name of each item; decodes nothing.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.indices.iter().map(|&i| self.shared.collection.entries[i].name.as_str())
    }

    /// The words of each item; decodes nothing.
    pub fn words(&self) -> impl Iterator<Item = &Words> {
        self.indices.iter().map(|&i| &*self.shared.collection.entries[i].words)
    }

    /// What its items are called in messages, in the plural.
    pub fn noun(&self) -> &'static str {
        self.shared.by.noun()
    }

    /// What an archive or arrays were recognized as, such as "IDX, 60000 images in train-images-idx3-ubyte.gz, with labels";
    /// empty for other sources.
    pub fn recognized_as(&self) -> &str {
        &self.shared.collection.recognized_as
    }

    /// Whether all images are in memory.
    pub fn is_cached(&self) -> bool {
        self.shared.cache.is_some()
    }

    /// The images skipped so far. Complete after [`Dataset::open`] if the dataset is cached; otherwise it grows when corrupt
    /// images are found.
    pub fn skipped(&self) -> Vec<Skipped> {
        self.shared.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The images skipped so far, from number `first` on.
    pub fn skipped_from(&self, first: usize) -> Vec<Skipped> {
        let all = self.shared.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(first..).unwrap_or_default().to_vec()
    }

    /// Number of ignored files of the source, which are neither images nor captions, by file extension, for example
    /// `.svg`.
    pub fn passed_over(&self) -> &BTreeMap<String, usize> {
        &self.shared.collection.passed_over
    }

    /// The items that have a caption or keywords.
    #[must_use]
    pub fn captioned(&self) -> Self {
        let has = |i: &usize| !self.shared.collection.entries[*i].words.is_silent();
        Self { shared: self.shared.clone(), indices: self.indices.iter().copied().filter(has).collect() }
    }

    /// The order of these items in training: a permutation of all, or, with `data.shuffle`, of windows along the files.
    pub fn order(&self, seed: u64) -> Order {
        if self.shared.shuffle == 0 || self.is_empty() {
            return Order::new(seed, self.len());
        }
        let place = |at: usize| self.shared.collection.entries[self.indices[at]].place.run();
        let mut runs: Vec<Range<usize>> = Vec::new();
        for at in 0..self.len() {
            match runs.last_mut().filter(|run| place(run.start) == place(at)) {
                Some(run) => run.end = at + 1,
                None => runs.push(at..at + 1),
            }
        }
        Order::windowed(seed, runs, self.shared.shuffle)
    }

    /// How much of Parquet files was read ahead so far, with `data.shuffle`.
    pub fn buffer_use(&self) -> BufferUse {
        self.shared.collection.tables.as_ref().map(|tables| tables.used()).unwrap_or_default()
    }

    /// Splits into the training part and the held-out part: on average the fraction `config.holdout` of the items, and emoji
    /// held out by name. The part of an item only depends on its name, so it does not change when others are added or removed.
    pub fn split(&self) -> (Self, Self) {
        let held = |i: &usize| self.shared.is_held_out(&self.shared.collection.entries[*i]);
        let (held, train): (Vec<_>, Vec<_>) = self.indices.iter().copied().partition(held);
        let part = |indices: Vec<usize>| Self { shared: self.shared.clone(), indices: indices.into() };
        (part(train), part(held))
    }

    /// What `read` makes of the item at `index`, for items that are decoded further by who uses them. An error of it is as if the
    /// item could not be decoded: with `on_error = "skip"` it is listed in [`Dataset::skipped`], and the result is `None`.
    ///
    /// # Errors
    /// An index out of range; an item that cannot be read with `on_error = "fail"`.
    pub fn read<T>(
        &self,
        index: usize,
        read: impl FnOnce(&D::Sample) -> Result<T, String>,
    ) -> Result<Option<T>, DataError> {
        let len = self.len();
        let at = *self.indices.get(index).ok_or(DataError::Index { index, len })?;
        let refused = |reason| self.shared.refuse(at, reason);
        let made = self.shared.sample(at).and_then(|sample| read(&sample).map_err(refused));
        match made {
            Err(_) if self.shared.on_error == OnError::Skip => Ok(None),
            made => made.map(Some),
        }
    }

    /// The error that no item of the collection is left, because all were skipped.
    pub fn none_left(&self) -> DataError {
        self.shared.all_corrupt()
    }

    /// The item at `index`. With `on_error = "skip"`, an image that turns out to be corrupt now is replaced by the next good
    /// one, so that the result only depends on the data.
    ///
    /// # Errors
    /// An index out of range; a corrupt image with `on_error = "fail"`, or if no image is good.
    pub fn get(&self, index: usize) -> Result<Item<D::Sample>, DataError> {
        let len = self.len();
        if index >= len {
            return Err(DataError::Index { index, len });
        }
        for step in 0..len {
            let at = self.indices[(index + step) % len];
            if self.shared.on_error == OnError::Skip && self.shared.corrupt[at].load(Ordering::Relaxed) {
                continue;
            }
            match self.shared.sample(at) {
                Ok(sample) => {
                    let Entry { name, class, words, .. } = &self.shared.collection.entries[at];
                    let (name, words) = (name.clone(), words.clone());
                    return Ok(Item { sample, class: *class, words, name });
                }
                Err(error) if self.shared.on_error == OnError::Fail => return Err(error),
                Err(_) => {}
            }
        }
        Err(self.shared.all_corrupt())
    }
}

impl<D: Decode> Shared<D> {
    fn sample(&self, at: usize) -> Result<Arc<D::Sample>, DataError> {
        if let Some(sample) = self.cache.as_ref().and_then(|cache| cache[at].clone()) {
            return Ok(sample);
        }
        let decoded = self.collection.decode(at, |content| self.by.decode(content));
        decoded.map(Arc::new).map_err(|reason| self.refuse(at, reason))
    }

    /// The error for an item that cannot be decoded, which is listed once.
    fn refuse(&self, at: usize, reason: String) -> DataError {
        let path = self.collection.path(at);
        if !self.corrupt[at].swap(true, Ordering::Relaxed) {
            let skipped = Skipped { path: path.clone(), reason: reason.clone() };
            self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(skipped);
        }
        match self.by.opens_files() {
            true => DataError::Clip { path, reason },
            false => DataError::Corrupt { what: self.by.one(), path, reason },
        }
    }

    fn decode_all(&self) -> Result<Vec<Option<Arc<D::Sample>>>, DataError> {
        let decoded = self.collection.decode_all(&self.by);
        let mut skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = |(at, sample): (usize, Result<D::Sample, String>)| match sample {
            Ok(sample) => Ok(Some(Arc::new(sample))),
            Err(reason) if self.on_error == OnError::Fail => {
                Err(DataError::Corrupt { what: self.by.one(), path: self.collection.path(at), reason })
            }
            Err(reason) => {
                skipped.push(Skipped { path: self.collection.path(at), reason });
                Ok(None)
            }
        };
        decoded.into_iter().enumerate().map(keep).collect()
    }

    fn is_held_out(&self, entry: &Entry) -> bool {
        let name = entry.family.as_ref().unwrap_or(&entry.name);
        entry.held_out || ((mix_name(name) >> 11) as f64) < self.holdout * (1_u64 << 53) as f64
    }

    fn empty(&self, but: String) -> DataError {
        let Collection { place, looked_for, .. } = &self.collection;
        let noun = self.by.noun();
        DataError::Empty { noun, place: place.clone(), looked_for: format!("{looked_for}{but}") }
    }

    fn all_corrupt(&self) -> DataError {
        let skipped = self.skipped.lock().unwrap_or_else(PoisonError::into_inner);
        let first = skipped.first().map(|s| format!("; first {}: {}", s.path.display(), s.reason));
        self.empty(format!(
            ", and none of the {} {} found can be used{}",
            skipped.len(),
            self.by.noun(),
            first.unwrap_or_default()
        ))
    }
}

/// Formats the counts of [`Dataset::passed_over`]: `3 .tga, 1 without extension`.
pub fn counted_endings(counts: &BTreeMap<String, usize>) -> String {
    let one = |(ending, count): (&String, &usize)| match ending.as_str() {
        "" => format!("{count} without extension"),
        ending => format!("{count} {ending}"),
    };
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn collection<D: Decode>(config: &DataConfig, by: &D) -> Result<Collection, DataError> {
    match &config.source {
        Source::Emoji => emoji::open(&config.emoji),
        Source::MovingEmoji => Ok(moving::open(&config.moving)),
        Source::Folder(path) => folder::open(path, &config.folder, config.on_error, by),
        Source::Parquet(path) => parquet::open(path, config),
        Source::Packed(path) => packed::open(path, config.folder.classes, by.endings()),
    }
}

/// What a collection contains, judged by some of its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Number of images, including those that cannot be decoded.
    pub images: usize,
    /// Classes.
    pub classes: usize,
    /// As [`Dataset::recognized_as`].
    pub recognized_as: String,
    /// Images that were decoded for the fields below, evenly spread over the collection.
    pub looked_at: usize,
    /// The lower quartile of their shorter sides, in pixels.
    pub side: usize,
    /// Whether all are of one size.
    pub one_size: bool,
    /// Whether none has a colour.
    pub grey: bool,
}

/// Number of images that a survey decodes.
const SURVEYED: usize = 256;

/// Inspects a collection without resizing its images.
///
/// # Errors
/// As [`Dataset::open`], and if none of the images looked at can be decoded.
pub fn survey(config: &DataConfig) -> Result<Survey, DataError> {
    config.validate()?;
    let collection = collection(config, &Frame::of(config))?;
    let images = collection.entries.len();
    let picks: Vec<usize> = (0..SURVEYED.min(images)).map(|i| i * images / SURVEYED.min(images)).collect();
    let facts = |&at: &usize| {
        let raster = collection.decode(at, form::raster)?;
        Ok(ImageFacts { width: raster.width, height: raster.height, grey: raster.is_grey() })
    };
    let found: Vec<Result<ImageFacts, String>> = picks.par_iter().map(facts).collect();
    let good: Vec<ImageFacts> = found.iter().flatten().copied().collect();
    let mut sides: Vec<usize> = good.iter().map(|f| f.width.min(f.height)).collect();
    sides.sort_unstable();
    let Some(&side) = sides.get(sides.len() / 4) else {
        let Collection { place, looked_for, .. } = &collection;
        let but = match found.into_iter().find_map(Result::err) {
            Some(reason) => format!(", and none of {} can be decoded; first {reason}", picks.len()),
            None => String::new(),
        };
        let looked_for = format!("{looked_for}{but}");
        return Err(DataError::Empty { noun: "images", place: place.clone(), looked_for });
    };
    Ok(Survey {
        images,
        classes: collection.class_names.len(),
        recognized_as: collection.recognized_as.clone(),
        looked_at: good.len(),
        side,
        one_size: good.iter().all(|f| (f.width, f.height) == (good[0].width, good[0].height)),
        grey: good.iter().all(|f| f.grey),
    })
}

/// What a collection of sounds contains, judged by some of them.
#[derive(Clone, Debug, PartialEq)]
pub struct SoundSurvey {
    /// Number of sounds, including those that cannot be decoded.
    pub sounds: usize,
    /// As [`Dataset::recognized_as`].
    pub recognized_as: String,
    /// The most frequent rate in Hz; of equally frequent ones the highest.
    pub rate: u32,
    /// Whether more than half of them have two channels.
    pub stereo: bool,
    /// The median of their lengths in seconds.
    pub seconds: f64,
}

/// Number of sounds that a survey decodes.
const HEARD: usize = 64;

/// Inspects a collection of sounds.
///
/// # Errors
/// As [`Dataset::open_by`], and if none of the sounds listened to can be decoded.
pub fn survey_sounds(config: &DataConfig) -> Result<SoundSurvey, DataError> {
    let data = Dataset::open_by(config, Sounds)?;
    let picks: Vec<usize> =
        (0..HEARD.min(data.len())).map(|i| i * data.len() / HEARD.min(data.len())).collect();
    // Of the decoded sounds only this is kept.
    let facts = |&at: &usize| {
        data.get(at).map(|item| (item.sample.rate, item.sample.channels.len(), item.sample.seconds()))
    };
    let found: Vec<(u32, usize, f64)> = picks.par_iter().map(facts).collect::<Result<_, _>>()?;
    let mut rates = BTreeMap::<u32, usize>::new();
    found.iter().for_each(|(rate, _, _)| *rates.entry(*rate).or_default() += 1);
    let mut seconds: Vec<f64> = found.iter().map(|(_, _, seconds)| *seconds).collect();
    seconds.sort_unstable_by(f64::total_cmp);
    Ok(SoundSurvey {
        sounds: data.len(),
        recognized_as: data.recognized_as().to_owned(),
        rate: rates.into_iter().max_by_key(|(_, count)| *count).map_or(0, |(rate, _)| rate),
        stereo: 2 * found.iter().filter(|(_, channels, _)| *channels == 2).count() > found.len(),
        seconds: seconds.get(seconds.len() / 2).copied().unwrap_or(0.0),
    })
}

/// The error for an image file that cannot be decoded.
fn corrupt(path: &Path, reason: String) -> DataError {
    DataError::Corrupt { what: "image", path: path.into(), reason }
}

/// Decodes the image file at `path`, brought to the size, background and fit of `config`.
///
/// # Errors
/// If the file is missing or cannot be decoded; names it.
pub fn open_image(path: &Path, config: &DataConfig) -> Result<Image, DataError> {
    config.validate()?;
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let corrupt = |reason| corrupt(path, reason);
    Ok(fit(&decode::file(path).map_err(corrupt)?, &Frame::of(config)))
}

/// An image, cropped about its centre to the aspect ratio of `height` to `width`, and resized; the same if it has this size.
pub fn fitted(image: &Image, [height, width]: [usize; 2]) -> Image {
    match (image.height, image.width) == (height, width) || image.width == 0 || image.height == 0 {
        true => image.clone(),
        false => cover(&Raster::opaque(image), [height.max(1), width.max(1)], Rgb([255; 3])),
    }
}

/// Decodes the image file at `path`, crops it about its centre to the aspect ratio of `height` to `width`, and resizes it.
///
/// # Errors
/// Those of [`open_image`].
pub fn open_sized(path: &Path, [height, width]: [usize; 2]) -> Result<Image, DataError> {
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let corrupt = |reason: String| corrupt(path, reason);
    if height == 0 || width == 0 {
        return Err(corrupt(format!("cannot be resized to {width}×{height} pixels")));
    }
    let raster = decode::file(path).map_err(corrupt)?;
    Ok(cover(&raster, [height, width], DataConfig::default().background))
}

/// Decodes the image file at `path` with the channels and the depth that it has, upright.
///
/// # Errors
/// Those of [`open_image`], and for values of 32 bits.
pub fn open_picture(path: &Path) -> Result<Picture, DataError> {
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    decode::picture(path).map_err(|reason| corrupt(path, reason))
}

/// Properties of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// Width of the decoded image in pixels.
    pub width: usize,
    /// Height of the decoded image in pixels.
    pub height: usize,
    /// Whether all pixels are grey.
    pub grey: bool,
}

/// Decodes the image file at `path` and returns its properties.
///
/// # Errors
/// Those of [`open_image`].
pub fn image_facts(path: &Path) -> Result<ImageFacts, DataError> {
    std::fs::metadata(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let raster = decode::file(path).map_err(|reason| corrupt(path, reason))?;
    let grey = raster.rgba.chunks_exact(4).all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
    Ok(ImageFacts { width: raster.width, height: raster.height, grey })
}
