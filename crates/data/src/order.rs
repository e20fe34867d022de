//! The order of items in training: a new permutation in each epoch, computed without storing it. A permutation of `0..len`
//! is a Feistel network on the next even power of two (Luby and Rackoff 1988), followed along its cycle until the result is
//! below `len` (Black and Rogaway 2002): O(1) memory, and on average at most four rounds through the network.

/// The endless shuffled stream of indices below `len`, a pure function of the seed and the position.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    len: usize,
    classes: Vec<Vec<usize>>,
}

impl Order {
    /// Every item once per epoch, in a new order each epoch.
    pub fn new(seed: u64, len: usize) -> Self {
        Self { seed, len, classes: Vec::new() }
    }

    /// Every class equally often, whatever its size: once per round, in a new order each round, and within a class every item
    /// before any repetition. Items without a class form their own class.
    pub fn balanced(seed: u64, classes: &[Option<usize>]) -> Self {
        let mut members = std::collections::BTreeMap::<Option<usize>, Vec<usize>>::new();
        for (index, class) in classes.iter().enumerate() {
            members.entry(*class).or_default().push(index);
        }
        Self { seed, len: classes.len(), classes: members.into_values().collect() }
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
