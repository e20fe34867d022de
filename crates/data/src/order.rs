//! The order of items in training: a new permutation in each epoch, computed without storing it. A permutation of `0..len`
//! is a Feistel network on the next even power of two (Luby and Rackoff 1988), followed along its cycle until the result is
//! below `len` (Black and Rogaway 2002): O(1) memory, and on average at most four rounds through the network.
//!
//! For data that is read in long runs, such as row groups of Parquet files, a permutation of all items would read each run
//! once per item. [`Order::windowed`] permutes the runs, and then the items of a window that moves along them: only a
//! window's runs are needed at a time, and the order is still a pure function of seed and position.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// The endless shuffled stream of indices below `len`, a pure function of the seed and the position.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    len: usize,
    classes: Vec<Vec<usize>>,
    windows: Option<Arc<Windows>>,
}

/// Runs of items, and the window that moves along them.
#[derive(Debug)]
struct Windows {
    runs: Vec<Range<usize>>,
    size: usize,
    /// The latest epoch that was asked for.
    latest: Mutex<Option<(u64, Arc<Epoch>)>>,
}

/// The runs in the order of an epoch, each with the number of items before it.
#[derive(Debug)]
struct Epoch(Vec<(usize, Range<usize>)>);

impl Order {
    /// Every item once per epoch, in a new order each epoch.
    pub fn new(seed: u64, len: usize) -> Self {
        Self { seed, len, classes: Vec::new(), windows: None }
    }

    /// Every item once per epoch. The runs, which must follow each other from item 0 on, come in a new order each epoch, and
    /// items change places within windows of `size` (at least 1) along them.
    pub fn windowed(seed: u64, runs: Vec<Range<usize>>, size: usize) -> Self {
        let len = runs.last().map_or(0, |run| run.end);
        let windows = Windows { runs, size: size.max(1), latest: Mutex::new(None) };
        Self { seed, len, classes: Vec::new(), windows: Some(Arc::new(windows)) }
    }

    /// Every class equally often, whatever its size: once per round, in a new order each round, and within a class every item
    /// before any repetition. Items without a class form their own class.
    pub fn balanced(seed: u64, classes: &[Option<usize>]) -> Self {
        let mut members = std::collections::BTreeMap::<Option<usize>, Vec<usize>>::new();
        for (index, class) in classes.iter().enumerate() {
            members.entry(*class).or_default().push(index);
        }
        Self { seed, len: classes.len(), classes: members.into_values().collect(), windows: None }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The epoch of sample `n`: how often `len` items have been passed before it.
    pub fn epoch(&self, n: u64) -> u64 {
        n / (self.len.max(1) as u64)
    }

    /// The item of sample `n`.
    ///
    /// # Panics
    /// If there are no items.
    pub fn index(&self, n: u64) -> usize {
        assert!(self.len > 0, "an order needs at least one item");
        if let Some(windows) = &self.windows {
            return windows.index(self.seed, n, self.len);
        }
        if self.classes.is_empty() {
            return permuted(self.seed, n, self.len);
        }
        let count = self.classes.len();
        let class = permuted(mix(self.seed), n, count);
        let members = &self.classes[class];
        let round = n / count as u64;
        members[permuted(mix(self.seed ^ mix(class as u64 + 1)), round, members.len())]
    }
}

impl Windows {
    fn index(&self, seed: u64, n: u64, len: usize) -> usize {
        let (epoch, at) = (n / len as u64, (n % len as u64) as usize);
        let runs = self.epoch(seed, epoch);
        let window = at / self.size;
        let start = window * self.size;
        let size = self.size.min(len - start);
        let of_window = mix(mix(seed ^ mix(epoch)) ^ window as u64);
        let place = start + permuted(of_window, (at - start) as u64, size);
        let run = runs.0.partition_point(|(before, _)| *before <= place) - 1;
        let (before, run) = &runs.0[run];
        run.start + (place - before)
    }

    fn epoch(&self, seed: u64, epoch: u64) -> Arc<Epoch> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, runs)) = latest.as_ref().filter(|(known, _)| *known == epoch) {
            return runs.clone();
        }
        let count = self.runs.len();
        let mut before = 0;
        let run = |i: usize| {
            let run = self.runs[permuted(mix(seed), epoch * count as u64 + i as u64, count)].clone();
            before += run.len();
            (before - run.len(), run)
        };
        let runs = Arc::new(Epoch((0..count).map(run).filter(|(_, run)| !run.is_empty()).collect()));
        *latest = Some((epoch, runs.clone()));
        runs
    }
}

/// Position `n` of the stream of permutations of `0..len`.
fn permuted(seed: u64, n: u64, len: usize) -> usize {
    let len = len as u64;
    let key = mix(mix(seed) ^ (n / len));
    let half = (64 - (len - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_u64 << half) - 1;
    let mut at = n % len;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 1..=8_u64 {
            (left, right) = (right, left ^ (mix(key ^ mix(right | round << 40)) & mask));
        }
        at = left << half | right;
        if at < len {
            return at as usize;
        }
    }
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): a bijection whose bits all depend on all bits.
pub(crate) fn mix(v: u64) -> u64 {
    let v = v.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let v = (v ^ (v >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let v = (v ^ (v >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ (v >> 31)
}

/// Evenly distributed bits that only depend on a name.
pub(crate) fn mix_name(name: &str) -> u64 {
    // FNV-1a, then mixed, because the low bits of similar names are too similar.
    let fold = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_is_a_permutation_of_its_own() {
        for len in [1, 2, 3, 5, 16, 17, 100, 1000, 1871] {
            let order = Order::new(7, len);
            let epoch = |e: u64| (0..len as u64).map(|i| order.index(e * len as u64 + i)).collect::<Vec<_>>();
            for e in [0, 1, 2, 1 << 40] {
                let mut seen = epoch(e);
                seen.sort_unstable();
                assert_eq!(seen, (0..len).collect::<Vec<_>>());
            }
            if len > 10 {
                assert_ne!(epoch(0), epoch(1));
                assert_ne!(epoch(0), (0..len).collect::<Vec<_>>());
                let other = Order::new(8, len);
                assert_ne!(epoch(0), (0..len as u64).map(|i| other.index(i)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn places_and_neighbours_are_uniform() {
        let (len, epochs) = (7_usize, 7000_u64);
        let order = Order::new(1, len);
        let (mut at, mut after) = (vec![0.0; 49], vec![0.0; 49]);
        for e in 0..epochs {
            let seen: Vec<_> = (0..7).map(|i| order.index(e * 7 + i)).collect();
            seen.iter().enumerate().for_each(|(i, &v)| at[i * 7 + v] += 1.0);
            seen.windows(2).for_each(|w| after[w[0] * 7 + w[1]] += 1.0);
        }
        let chi = |counts: &[f64], expected: f64| -> f64 {
            counts.iter().filter(|&&c| c > 0.0).map(|c| (c - expected).powi(2) / expected).sum()
        };
        // 36 and 41 degrees of freedom: 99.99 % lie below 77.
        assert!(chi(&at, 1000.0) < 77.0, "{}", chi(&at, 1000.0));
        assert!(chi(&after, 1000.0) < 77.0, "{}", chi(&after, 1000.0));
    }

    #[test]
    fn windows_visit_every_item_once_and_stay_near_their_runs() {
        let sizes = [100, 1, 300, 50, 249, 0, 200];
        let mut runs = Vec::new();
        for size in sizes {
            let start = runs.last().map_or(0, |run: &Range<usize>| run.end);
            runs.push(start..start + size);
        }
        let order = Order::windowed(5, runs.clone(), 128);
        assert_eq!(order.len(), 900);
        let epoch = |e: u64| (0..900).map(|i| order.index(e * 900 + i)).collect::<Vec<_>>();
        for e in [0, 1, 7] {
            let seen = epoch(e);
            // The runs of a window of 128 items are all that it reads.
            for window in seen.chunks(128) {
                let mut read: Vec<usize> =
                    window.iter().map(|i| runs.iter().position(|run| run.contains(i)).unwrap()).collect();
                read.sort_unstable();
                read.dedup();
                assert!(read.len() <= 4, "{read:?}");
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..900).collect::<Vec<_>>());
            let neighbours = seen.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
            assert!(neighbours < 60, "not shuffled: {neighbours} of 899 follow each other");
        }
        assert_ne!(epoch(0), epoch(1));
        // In any order of asking, as on resuming.
        let again = Order::windowed(5, runs, 128);
        assert_eq!([1000, 3, 1000].map(|n| again.index(n)), [1000, 3, 1000].map(|n| order.index(n)));
    }

    #[test]
    fn balanced_visits_classes_equally_and_members_evenly() {
        let classes: Vec<_> =
            (0..100).map(|i| if i < 90 { Some(0) } else { Some(4) }).chain([None]).collect();
        let order = Order::balanced(3, &classes);
        let mut counts = vec![0; 101];
        (0..2700).for_each(|n| counts[order.index(n)] += 1);
        assert_eq!(counts[100], 900);
        assert!(counts[..90].iter().all(|&c| c == 10));
        assert!(counts[90..100].iter().all(|&c| c == 90));
        assert_eq!(order.index(1234), Order::balanced(3, &classes).index(1234));
    }
}
