//! Parallel loops and scratch memory.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    sync::Mutex,
};

use crate::pool;

/// A pointer that tasks share, each writing its own part.
#[repr(transparent)]
pub(crate) struct Ptr<T>(*mut T);

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Ptr<T> {}
// SAFETY: whoever dereferences the pointer guarantees that tasks write disjoint parts.
unsafe impl<T> Send for Ptr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Ptr<T> {}

impl<T> Ptr<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr())
    }

    pub(crate) fn from_const(p: *const T) -> Self {
        Self(p.cast_mut())
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }

    pub(crate) fn cast<U>(self) -> Ptr<U> {
        Ptr(self.0.cast())
    }
}

/// Number of threads that a loop may use.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `f(0)` to `f(n - 1)`, in any order and on any thread.
pub(crate) fn for_each(n: usize, f: impl Fn(usize) + Sync + Send) {
    if n <= 1 || threads() == 1 {
        (0..n).for_each(f);
    } else {
        pool::run(n, threads() - 1, &f);
    }
}

/// Runs `f(start, end)` over pieces of `0..n` of at most `piece`.
pub(crate) fn for_each_piece(n: usize, piece: usize, f: impl Fn(usize, usize) + Sync + Send) {
    let piece = piece.max(1);
    for_each(n.div_ceil(piece), |i| f(i * piece, n.min((i + 1) * piece)));
}

const ALIGN: usize = 64;
/// Alignment of large buffers, that of huge pages. They avoid most TLB misses when a transform writes to 36 places at
/// once.
const HUGE: usize = 2 << 20;
/// Buffers kept for reuse.
const KEPT: usize = 32;
static POOL: Mutex<Vec<Scratch>> = Mutex::new(Vec::new());

/// An aligned buffer with arbitrary contents.
pub(crate) struct Scratch {
    start: *mut f32,
    capacity: usize,
}

// SAFETY: the buffer is owned, and only accessed through `Ptr`.
unsafe impl Send for Scratch {}
// SAFETY: as above.
unsafe impl Sync for Scratch {}

impl Scratch {
    /// A buffer of at least `len` values, reused if one fits.
    pub(crate) fn take(len: usize) -> Lease {
        let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
        let fits = pool.iter().enumerate().filter(|(_, s)| s.capacity >= len && s.capacity / 4 <= len);
        let best = fits.min_by_key(|(_, s)| s.capacity).map(|(i, _)| i);
        let scratch = best.map(|i| pool.swap_remove(i));
        drop(pool);
        Lease(Some(scratch.unwrap_or_else(|| Self::allocate(len.next_multiple_of(1 << 12)))))
    }

    fn layout(capacity: usize) -> Layout {
        let align = if capacity * size_of::<f32>() >= 2 * HUGE { HUGE } else { ALIGN };
        Layout::array::<f32>(capacity)
            .and_then(|l| l.align_to(align))
            .expect("scratch memory exceeds the address space")
    }

    /// A buffer outside the pool.
    pub(crate) fn allocate(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let layout = Self::layout(capacity);
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc(layout) }.cast::<f32>();
        if start.is_null() {
            handle_alloc_error(layout);
        }
        #[cfg(target_os = "linux")]
        if layout.align() == HUGE {
            // SAFETY: advises about whole pages inside the buffer just allocated.
            unsafe { libc::madvise(start.cast(), layout.size() / HUGE * HUGE, libc::MADV_HUGEPAGE) };
        }
        Self { start, capacity }
    }
}

impl Scratch {
    pub(crate) fn ptr(&self) -> Ptr<f32> {
        Ptr(self.start)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.cast(), Self::layout(self.capacity)) }
    }
}

/// A [`Scratch`] that goes back to the pool.
pub(crate) struct Lease(Option<Scratch>);

impl Lease {
    pub(crate) fn ptr(&self) -> Ptr<f32> {
        Ptr(self.0.as_ref().map_or(std::ptr::null_mut(), |s| s.start))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(s) = self.0.take() {
            pool.push(s);
        }
        if pool.len() > KEPT {
            pool.remove(0);
        }
    }
}
