//! Random values as a pure function of (seed, purpose, step, row), so that there is no state to save.

use rand::Rng;
use tweedie_core::noise::{fill_normal, generator};

/// The purpose of a random number; each has its own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Order = 1,
    Augment,
    Time,
    Noise,
    Labels,
    Dropout,
    ValidationTime,
    ValidationNoise,
    Preview,
    Caption,
    Variant,
    Posterior,
    Degradation,
    /// Whether a decoder gets no embedding.
    Embedding,
    /// Where in a clip a sample begins.
    Window,
}

/// The seed for `purpose` at `step`: SplitMix64 (Steele et al. 2014) over the three.
pub(crate) fn key(seed: u64, purpose: Purpose, step: u64) -> u64 {
    [purpose as u64, step].into_iter().fold(mix(seed), |k, v| mix(k ^ mix(v)))
}

fn mix(v: u64) -> u64 {
    let v = v.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let v = (v ^ (v >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let v = (v ^ (v >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ (v >> 31)
}

/// A uniform value in `[0, 1)`.
pub(crate) fn uniform(seed: u64, purpose: Purpose, step: u64, row: u64) -> f64 {
    let bits = generator(key(seed, purpose, step), row).next_u64();
    (bits >> 11) as f64 * (0.5f64).powi(53)
}

/// Standard normals.
pub(crate) fn normal(seed: u64, purpose: Purpose, step: u64, row: u64, out: &mut [f32]) {
    fill_normal(key(seed, purpose, step), row, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_matters() {
        let base = uniform(1, Purpose::Time, 2, 3);
        assert_eq!(base, uniform(1, Purpose::Time, 2, 3));
        for other in [
            uniform(2, Purpose::Time, 2, 3),
            uniform(1, Purpose::Labels, 2, 3),
            uniform(1, Purpose::Time, 3, 3),
            uniform(1, Purpose::Time, 2, 4),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(key(0, Purpose::Time, 0), key(0, Purpose::Order, 0));
    }
}
