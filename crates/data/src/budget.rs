//! Limits the memory that all threads together use for decoding: a small file can expand to hundreds of megabytes.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes of encoded files held at once.
pub(crate) static ENCODED: Budget = Budget::new(512 << 20);
/// Bytes of images held at once, from decoding until they are resized.
pub(crate) static DECODED: Budget = Budget::new(1 << 30);

/// A number of bytes, lent to one caller after another.
pub(crate) struct Budget {
    total: u64,
    lent: Mutex<u64>,
    returned: Condvar,
}

/// Bytes that are lent until this is dropped.
pub(crate) struct Lent {
    budget: &'static Budget,
    bytes: u64,
}

impl Budget {
    const fn new(total: u64) -> Self {
        Self { total, lent: Mutex::new(0), returned: Condvar::new() }
    }

    /// Waits until `bytes` are available. A request for more than the total waits until nothing is lent.
    ///
    /// A holder of bytes of [`DECODED`] must not request more of either, which could deadlock.
    pub fn take(&'static self, bytes: u64) -> Lent {
        let bytes = bytes.min(self.total);
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |lent: &mut u64| *lent + bytes > self.total;
        let mut lent = self.returned.wait_while(lent, full).unwrap_or_else(PoisonError::into_inner);
        *lent += bytes;
        Lent { budget: self, bytes }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.budget.lent.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_total() {
        static BUDGET: Budget = Budget::new(10);
        let (held, most) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for bytes in [1, 4, 7, 10, 30, 3] {
                let (held, most) = (&held, &most);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let _lent = BUDGET.take(bytes);
                        let now = held.fetch_add(bytes.min(10), Ordering::SeqCst) + bytes.min(10);
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        held.fetch_sub(bytes.min(10), Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=10).contains(&most.into_inner()));
    }
}
