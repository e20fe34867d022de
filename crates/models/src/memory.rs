//! Estimates of the memory that a pass of a network needs.

use tweedie_ops::{Precision, SampleShape};

/// Maps of a network's first level that a pass holds besides the skip connections: a concatenated map with twice the
/// channels, its normalized form, and the result.
const AT_ONCE: u64 = 5;
/// The same with transformers, whose middle layers are eight times as wide.
const AT_ONCE_IN_TRANSFORMERS: u64 = 14;
/// Samples that a solver holds: the current one, and present and past predictions.
const SAMPLES: u64 = 8;

fn bytes_of(precision: Precision) -> u64 {
    if precision == Precision::Bf16 { 2 } else { 4 }
}

/// Bytes per row of a U-Net with these channels and `layers` per level.
pub(crate) fn unet_row(
    channels: &[usize],
    layers: impl Fn(usize) -> usize,
    transformers: bool,
    shape: &SampleShape,
    precision: Precision,
) -> u64 {
    let area = |level: usize| {
        let sides = shape.axes().iter().map(|n| (n >> level).max(1) as u64);
        sides.fold(1u64, u64::saturating_mul)
    };
    let kept = channels.iter().enumerate().map(|(level, &channels)| {
        (layers(level) as u64 + 1).saturating_mul(channels as u64).saturating_mul(area(level))
    });
    let first = channels.first().map_or(0, |&channels| channels as u64).saturating_mul(area(0));
    let at_once = if transformers { AT_ONCE_IN_TRANSFORMERS } else { AT_ONCE };
    let maps = kept.fold(first.saturating_mul(at_once), u64::saturating_add);
    let samples = (shape.channels() as u64).saturating_mul(area(0)).saturating_mul(SAMPLES * 4);
    maps.saturating_mul(bytes_of(precision)).saturating_add(samples)
}

/// Bytes per row of a transformer on this number of tokens of `width`, whose feed-forward layers have the width `inner`: the residual
/// stream twice in `f32`, what a layer computes of it, and the rotations of all tokens.
pub(crate) fn transformer_row(
    tokens: usize,
    [width, inner]: [usize; 2],
    shape: &SampleShape,
    precision: Precision,
) -> u64 {
    const AT_ONCE_IN_LAYERS: u64 = 6;
    let tokens = tokens as u64;
    let stream = tokens.saturating_mul(width as u64).saturating_mul(2 * 4);
    let layer = (AT_ONCE_IN_LAYERS.saturating_mul(width as u64)).saturating_add(inner as u64);
    let layer = tokens.saturating_mul(layer).saturating_mul(bytes_of(precision));
    let samples = (shape.len() as u64).saturating_mul(SAMPLES * 4);
    stream.saturating_add(layer).saturating_add(samples)
}

/// Bytes to decode an image of `pixels` pixels with an autoencoder whose last level has `channels` channels.
pub fn decoding(channels: usize, pixels: usize, precision: Precision) -> u64 {
    let map = (channels as u64).saturating_mul(pixels as u64);
    map.saturating_mul(AT_ONCE * bytes_of(precision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_pixels_need_more() {
        let row = |side: usize| {
            unet_row(&[64, 128], |_| 2, false, &SampleShape::from([3, side, side]), Precision::F32)
        };
        // Three maps per level are skip connections, and five are held at once.
        assert_eq!(row(32), 4 * ((3 + 5) * 64 * 1024 + 3 * 128 * 256) + 3 * 1024 * 32);
        assert_eq!(row(64), 4 * row(32));
    }
}
