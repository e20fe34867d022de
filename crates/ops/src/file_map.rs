//! Memory-mapped files, and tensors that read from them without a copy.

use std::{
    io,
    ops::{Deref, Range},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use burn::tensor::{AllocationProperty, Bytes, DType, TensorData};
use memmap2::Mmap;

/// A file mapped for reading. It must not be changed in place while it is in use: if it is truncated, a program that has
/// called [`init`](crate::init) ends with a message that names it. A file that is replaced by renaming keeps its old
/// content in the map.
#[derive(Clone, Debug)]
pub struct FileMap(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    map: Mmap,
    path: PathBuf,
}

impl Deref for Mapped {
    type Target = Mmap;

    fn deref(&self) -> &Mmap {
        &self.map
    }
}

/// All maps whose pages may be released.
static MAPS: Mutex<Vec<Weak<Mapped>>> = Mutex::new(Vec::new());

fn maps() -> MutexGuard<'static, Vec<Weak<Mapped>>> {
    MAPS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileMap {
    /// Maps the regular file at `path`, which must not be empty.
    ///
    /// # Errors
    /// Those of the operating system, and if it is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = tweedie_system::files::open(path)?;
        // SAFETY: the map is read-only and private to this process. Nothing in this project modifies a weight
        // file in place: files are written under a temporary name and renamed, which leaves mapped ones intact. If
        // another program truncates one, the process ends: see `report_truncation`.
        let map = unsafe { Mmap::map(&file) }?;
        let map = Arc::new(Mapped { map, path: path.into() });
        let mut all = maps();
        all.retain(|m| m.strong_count() > 0);
        all.push(Arc::downgrade(&map));
        Ok(Self(map))
    }

    /// The little-endian 32-bit floats in `range` as tensor data without a copy; `None` if they are not aligned for that.
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

/// The map that contains this range of addresses.
fn map_of(start: usize, len: usize) -> Option<Arc<Mapped>> {
    maps().iter().filter_map(Weak::upgrade).find(|map| {
        let first = map.as_ptr() as usize;
        start >= first && start + len <= first + map.len()
    })
}

/// Whether the values lie in a mapped file, so that [`give_back`] frees their memory.
pub(crate) fn is_mapped(values: &[f32]) -> bool {
    map_of(values.as_ptr() as usize, size_of_val(values)).is_some()
}

/// Releases the memory of values that will probably not be read again, if they lie in a mapped file. They remain valid:
/// the system reads them again when needed.
pub(crate) fn give_back(values: &[f32]) {
    give_back_range(values.as_ptr() as usize, size_of_val(values));
}

/// Like [`give_back`], for an address range whose values may be gone; the range is not accessed.
pub(crate) fn give_back_range(start: usize, len: usize) {
    if let Some(map) = map_of(start, len) {
        let offset = start - map.as_ptr() as usize;
        #[cfg(unix)]
        // SAFETY: pages of a file mapped for reading are restored with the same content.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
        #[cfg(not(unix))]
        let _ = (map, offset);
    }
}

/// From now on, a mapped file that another program truncates ends this one with a message and exit code 1, instead of
/// a signal.
#[cfg(unix)]
pub(crate) fn report_truncation() {
    extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a valid `info`.
        let address = unsafe { (*info).si_addr() } as usize;
        // The thread may hold the lock itself.
        let found = MAPS.try_lock().ok().and_then(|maps| {
            maps.iter().filter_map(Weak::upgrade).find(|m| {
                let first = m.as_ptr() as usize;
                (first..first + m.len()).contains(&address)
            })
        });
        let say = |text: &[u8]| {
            // SAFETY: `text` is valid for its length; `write` may be called in handlers.
            let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
        };
        say(b"error: ");
        match &found {
            Some(map) => say(map.path.as_os_str().as_encoded_bytes()),
            None => say(b"a file in use"),
        }
        say(b": truncated by another program while in use, or no longer readable\n");
        // SAFETY: ends the process without anything else.
        unsafe { libc::_exit(1) }
    }
    // SAFETY: the handler only reads, writes to stderr and ends the process.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}
