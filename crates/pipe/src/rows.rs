//! Seeds of single images.

/// The seed of image `row` of a request with seed `seed`, the same in every batch. One step of SplitMix64 (Steele et al.
/// 2014) for each of the two.
pub fn row_seed(seed: u64, row: u64) -> u64 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    mix(mix(seed.wrapping_add(GAMMA)).wrapping_add(row.wrapping_add(1).wrapping_mul(GAMMA)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_differ_by_row_and_by_request() {
        let all: std::collections::BTreeSet<u64> =
            (0..64).flat_map(|s| (0..64).map(move |r| row_seed(s, r))).collect();
        assert_eq!(all.len(), 64 * 64);
    }
}
