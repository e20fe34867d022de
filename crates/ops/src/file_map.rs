//! Files in memory, and tensors that read them where they are.

use std::{
    fs::File,
    io,
    ops::{Deref, Range},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
use memmap2::Mmap;

/// A file mapped for reading. It must not be changed in place while it is in use; one that is replaced by
/// renaming keeps its old content under the map.
#[derive(Clone, Debug)]
pub struct FileMap(Arc<Mmap>);

/// All maps whose pages may be given back.
fn maps() -> MutexGuard<'static, Vec<Weak<Mmap>>> {
    static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());
    MAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileMap {
    /// Maps the file at `path`, which is not empty.
    ///
    /// # Errors
    /// As the system has them.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is read-only and private to this process. Nothing in this project modifies a weight
        // file in place: files are written aside and renamed, which leaves mapped ones intact.
        let map = Arc::new(unsafe { Mmap::map(&file) }?);
        let mut all = maps();
        all.retain(|m| m.strong_count() > 0);
        all.push(Arc::downgrade(&map));
        Ok(Self(map))
    }

    /// The little-endian 32-bit floats in `range` as a tensor's data, not copied; `None` where they do not lie as
    /// tensors need them.
    pub fn floats(&self, range: Range<usize>, shape: Vec<usize>) -> Option<TensorData> {
        let bytes = self.0.get(range.clone())?;
        let fits = bytes.len() == size_of::<f32>() * shape.iter().product::<usize>();
        let aligned = bytes.as_ptr().cast::<f32>().is_aligned();
        if cfg!(target_endian = "big") || !fits || !aligned || bytes.is_empty() {
            return None;
        }
        let shared = bytes::Bytes::from_owner(self.clone()).slice(range);
        let bytes = Bytes::from_shared(shared, AllocationProperty::File);
        Some(TensorData::from_bytes(bytes, shape, DType::F32))
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The map that holds all of these addresses.
fn map_of(start: usize, len: usize) -> Option<Arc<Mmap>> {
    maps().iter().filter_map(Weak::upgrade).find(|map| {
        let first = map.as_ptr() as usize;
        start >= first && start + len <= first + map.len()
    })
}

/// Whether numbers lie in a mapped file, so that [`give_back`] frees their memory.
pub(crate) fn is_mapped(values: &[f32]) -> bool {
    map_of(values.as_ptr() as usize, size_of_val(values)).is_some()
}

/// Numbers that will hardly be read again: if they lie in a mapped file, the system may take their memory back,
/// and reads them again should it be wrong.
pub(crate) fn give_back(values: &[f32]) {
    give_back_range(values.as_ptr() as usize, size_of_val(values));
}

/// As [`give_back`], for the addresses of numbers that may be gone: nothing is read there.
pub(crate) fn give_back_range(start: usize, len: usize) {
    if let Some(map) = map_of(start, len) {
        let offset = start - map.as_ptr() as usize;
        #[cfg(unix)]
        // SAFETY: pages of a file mapped for reading come back with the same content.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
        #[cfg(not(unix))]
        let _ = (map, offset);
    }
}
