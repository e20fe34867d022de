//! Loudness as people hear it: ITU-R BS.1770-4 and EBU R 128.

use ebur128::{EbuR128, Mode};

use super::Audio;

/// How a sound was brought to a loudness.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leveled {
    /// Its integrated loudness before, in LUFS.
    pub before: f64,
    /// By how much it was amplified, in decibels.
    pub gain: f64,
    /// Whether it is quieter than asked for, because its largest magnitude would exceed 1.
    pub limited: bool,
}

/// The integrated loudness in LUFS. `None` for sounds of less than 0.4 s, silent ones (below −70 LUFS), and rates or numbers of
/// channels for which it is not defined.
pub fn loudness(sound: &Audio) -> Option<f64> {
    let channels: Vec<&[f32]> = sound.channels.iter().map(Vec::as_slice).collect();
    let mut meter = EbuR128::new(u32::try_from(channels.len()).ok()?, sound.rate, Mode::I).ok()?;
    meter.add_frames_planar_f32(&channels).ok()?;
    meter.loudness_global().ok().filter(|loudness| loudness.is_finite())
}

/// Amplifies a sound to an integrated loudness in LUFS, but no further than to a magnitude of 1. `None`, and no change, if it
/// has no [`loudness`].
pub fn level(sound: &mut Audio, lufs: f64) -> Option<Leveled> {
    let before = loudness(sound)?;
    let peak = sound.channels.iter().flatten().fold(0.0f32, |most, v| most.max(v.abs()));
    let most = -20.0 * f64::from(peak).log10();
    let (wanted, limited) = (lufs - before, lufs - before > most);
    let gain = if limited { most } else { wanted };
    let factor = 10f64.powf(gain / 20.0);
    for v in sound.channels.iter_mut().flatten() {
        *v = ((f64::from(*v) * factor) as f32).clamp(-1.0, 1.0);
    }
    Some(Leveled { before, gain, limited })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, seconds: u32, hertz: f64, decibels: f64, channels: usize) -> Audio {
        let amplitude = 10f64.powf(decibels / 20.0);
        let value = |i: u32| {
            (amplitude * (std::f64::consts::TAU * hertz * f64::from(i) / f64::from(rate)).sin()) as f32
        };
        let channel: Vec<f32> = (0..rate * seconds).map(value).collect();
        Audio { channels: vec![channel; channels], rate, guessed: false }
    }

    /// EBU Tech 3341, cases 1 and 2, and the definition: a sine of 997 Hz in one channel at full scale has −3.01 LUFS.
    #[test]
    fn loudness_is_that_of_the_standard() {
        for (rate, hertz, decibels, channels, expected) in [
            (48_000, 1000.0, -23.0, 2, -23.0),
            (48_000, 1000.0, -33.0, 2, -33.0),
            (48_000, 997.0, 0.0, 1, -3.01),
            (44_100, 997.0, -20.0, 1, -23.01),
            (16_000, 997.0, -20.0, 1, -23.01),
        ] {
            let found = loudness(&tone(rate, 5, hertz, decibels, channels)).unwrap();
            assert!((found - expected).abs() <= 0.1, "{rate} Hz, {decibels} dB: {found}");
        }
        assert_eq!(loudness(&tone(48_000, 1, 997.0, -90.0, 1)), None);
        let short = Audio { channels: vec![vec![0.5; 3000]], rate: 8000, guessed: false };
        assert_eq!(loudness(&short), None);
    }

    #[test]
    fn sounds_are_amplified_but_not_clipped() {
        let mut sound = tone(8000, 2, 500.0, -30.0, 1);
        let done = level(&mut sound, -20.0).unwrap();
        assert!(!done.limited && (loudness(&sound).unwrap() + 20.0).abs() < 0.01, "{done:?}");
        let done = level(&mut sound, 6.0).unwrap();
        let peak = sound.channels[0].iter().fold(0.0f32, |most, v| most.max(v.abs()));
        assert!(done.limited && (0.9999..=1.0).contains(&peak), "{done:?} {peak}");
        let mut silent = Audio { channels: vec![vec![0.0; 9000]], rate: 8000, guessed: false };
        assert_eq!(level(&mut silent, -16.0), None);
    }
}
