//! Parts of files that were read ahead, within a number of bytes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The parts read last, by key, until their sizes exceed the limit.
pub(crate) struct Buffer<K, V> {
    limit: usize,
    held: Mutex<Held<K, V>>,
}

struct Held<K, V> {
    parts: BTreeMap<K, Part<V>>,
    bytes: usize,
    /// Counts uses, to find the part that was not used for longest.
    clock: u64,
    reads: usize,
    most: usize,
}

struct Part<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

/// How much a buffer held at most, and how often a part was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferUse {
    /// Bytes at most at the same time.
    pub most: usize,
    /// Parts read.
    pub reads: usize,
}

impl<K: Ord + Copy, V> Buffer<K, V> {
    pub fn new(limit: usize) -> Self {
        let held = Held { parts: BTreeMap::new(), bytes: 0, clock: 0, reads: 0, most: 0 };
        Self { limit, held: Mutex::new(held) }
    }

    /// The part of a key, read by `read` unless it is there; `size` is its number of bytes. Other parts make room first, those
    /// that were not used for longest.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn get<E>(&self, key: K, size: usize, read: impl FnOnce() -> Result<V, E>) -> Result<Arc<V>, E> {
        // Also while a part is read, so that two threads do not read the same one.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.clock += 1;
        let now = held.clock;
        if let Some(part) = held.parts.get_mut(&key) {
            part.used = now;
            return Ok(part.value.clone());
        }
        while held.bytes + size > self.limit {
            let Some(oldest) = held.parts.iter().min_by_key(|(_, part)| part.used).map(|(key, _)| *key)
            else {
                break;
            };
            if let Some(part) = held.parts.remove(&oldest) {
                held.bytes -= part.bytes;
            }
        }
        let value = Arc::new(read()?);
        held.bytes += size;
        held.reads += 1;
        held.most = held.most.max(held.bytes);
        held.parts.insert(key, Part { value: value.clone(), bytes: size, used: now });
        Ok(value)
    }

    pub fn used(&self) -> BufferUse {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        BufferUse { most: held.most, reads: held.reads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_not_used_for_longest_makes_room() {
        let buffer = Buffer::new(10);
        let get = |key: u32, size| *buffer.get(key, size, || Ok::<_, ()>(key)).unwrap();
        assert_eq!([get(1, 4), get(2, 4), get(1, 4), get(3, 4)], [1, 2, 1, 3]);
        assert_eq!(buffer.used(), BufferUse { most: 8, reads: 3 });
        // 2 was removed, 1 was not.
        get(1, 4);
        assert_eq!(buffer.used().reads, 3);
        get(2, 4);
        assert_eq!(buffer.used(), BufferUse { most: 8, reads: 4 });
        assert_eq!(buffer.get(9, 1, || Err::<u32, _>("gone")), Err("gone"));
    }
}
