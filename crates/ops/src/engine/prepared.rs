//! Transformed weights of layers that run again and again with the same weights, as in sampling.
//!
//! An entry holds the weight's buffer weakly. While a weak reference exists, `Arc` lets nobody write to the
//! buffer in place: whoever wants to gets another one. So the same buffer means the same numbers.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak},
};

use burn::{backend::flex::FlexTensor, tensor::Bytes};
use tweedie_kernels::conv::{Conv, Prepared};

use super::{isa, layout::values};

/// Bytes that all transformed weights may take.
const LIMIT: usize = 1 << 30;

struct Entry {
    buffer: Weak<Bytes>,
    /// Made at the second use: in training every buffer is used once.
    prepared: Option<Arc<Prepared>>,
    bytes: usize,
}

/// Address of the buffer, offset in it, channels in and out.
type Key = (usize, usize, [usize; 2]);

fn entries() -> MutexGuard<'static, HashMap<Key, Entry>> {
    static ENTRIES: LazyLock<Mutex<HashMap<Key, Entry>>> = LazyLock::new(Default::default);
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The transformed weights of `c`, from its second use on. `weight` is dense.
pub(super) fn prepared(c: &Conv, weight: &FlexTensor) -> Option<Arc<Prepared>> {
    let bytes = Prepared::bytes(c);
    if bytes == 0 {
        return None;
    }
    let buffer: Arc<Bytes> = weight.data_arc();
    let (offset, _) = weight.layout().contiguous_offsets()?;
    let key = (Arc::as_ptr(&buffer) as usize, offset, [c.in_channels, c.out_channels]);
    let mut all = entries();
    match all.get(&key) {
        Some(e) if e.buffer.strong_count() > 0 => {
            if let Some(p) = &e.prepared {
                return Some(p.clone());
            }
        }
        _ => {
            all.retain(|_, e| e.buffer.strong_count() > 0);
            all.insert(key, Entry { buffer: Arc::downgrade(&buffer), prepared: None, bytes: 0 });
            return None;
        }
    }
    if all.values().map(|e| e.bytes).sum::<usize>() + bytes > LIMIT {
        return None;
    }
    drop(all);
    let prepared = Arc::new(Prepared::new(isa(), c, values(weight))?);
    // `buffer` is alive, so the entry still stands for it.
    if let Some(e) = entries().get_mut(&key) {
        (e.prepared, e.bytes) = (Some(prepared.clone()), bytes);
    }
    Some(prepared)
}
