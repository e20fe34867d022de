//! Silence before and after a sound.

use std::ops::Range;

/// Length of the frames whose loudness is compared, and their distance.
const FRAME: usize = 2048;
const HOP: usize = 512;

/// The part of `signal` between its first and its last frame of which the root mean square is at most `decibels` below that
/// of the loudest: `librosa.effects.trim`. Empty if all values are 0.
pub fn sounding(signal: &[f32], decibels: f64) -> Range<usize> {
    sounding_in(signal, decibels, FRAME, HOP)
}

/// The same with frames of `frame` values, `hop` values apart, each centred on its first value.
///
/// # Panics
/// If `frame` or `hop` is 0.
pub fn sounding_in(signal: &[f32], decibels: f64, frame: usize, hop: usize) -> Range<usize> {
    assert!(frame > 0 && hop > 0, "a frame and a hop of at least one value");
    let power = |index: usize| {
        let start = (index * hop).saturating_sub(frame / 2).min(signal.len());
        let end = (index * hop + frame - frame / 2).min(signal.len());
        signal[start..end].iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / frame as f64
    };
    let powers: Vec<f64> = (0..signal.len() / hop + 1).map(power).collect();
    let loudest = powers.iter().copied().fold(0.0, f64::max);
    if loudest == 0.0 {
        return 0..0;
    }
    let least = loudest * 10f64.powf(-decibels / 10.0);
    let sounds = |power: &f64| *power > least;
    let first = powers.iter().position(sounds).unwrap_or(0);
    let last = powers.iter().rposition(sounds).unwrap_or(0);
    (first * hop).min(signal.len())..((last + 1) * hop).min(signal.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_cut_on_both_sides() {
        let mut signal = vec![0.0; 4000];
        (1500..2600).for_each(|i| signal[i] = if i % 2 == 0 { 0.5 } else { -0.5 });
        let found = sounding_in(&signal, 40.0, 160, 40);
        assert!((1400..=1500).contains(&found.start) && (2600..=2720).contains(&found.end), "{found:?}");
        assert_eq!(sounding(&[0.0; 100], 60.0), 0..0);
        assert_eq!(sounding(&[], 60.0), 0..0);
        assert_eq!(sounding(&[0.3], 60.0), 0..1);
    }
}
