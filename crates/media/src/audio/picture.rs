//! Spectrograms as images.

use super::{Audio, Stft};
use crate::{Image, Rgb};

/// Magnitudes below the loudest by more than this are black, in decibels.
const RANGE: f32 = 60.0;
/// The colours from silent to loud, evenly spaced: those of matplotlib's `magma`.
const COLORS: [[u8; 3]; 9] = [
    [0, 0, 4],
    [28, 16, 68],
    [79, 18, 123],
    [129, 37, 129],
    [181, 54, 122],
    [229, 80, 100],
    [251, 135, 97],
    [254, 194, 135],
    [252, 253, 191],
];

/// The spectrogram of the mean of a sound's channels: time to the right, frequency upwards from 0 to half of the rate. The
/// sound takes as much of the `width` as its duration is of `seconds`; the rest is black, and what is longer is left out.
pub fn spectrogram(sound: &Audio, width: usize, height: usize, seconds: f64) -> Image {
    let mut image = Image::filled(width, height, Rgb(COLORS[0]));
    let signal = sound.mono();
    let step = (seconds * f64::from(sound.rate) / width.max(1) as f64).max(1.0);
    let columns = ((signal.len() as f64 / step).ceil() as usize).min(width);
    let size = (2 * height).next_power_of_two().clamp(128, 2048);
    let stft = Stft::new(size, size, 0);
    let mut levels = Vec::with_capacity(columns * height);
    for column in 0..columns {
        // One window around the middle of the column.
        let middle = ((column as f64 + 0.5) * step) as usize;
        let start = middle.saturating_sub(size / 2).min(signal.len());
        let end = (middle + size / 2).min(signal.len()).max(start);
        let mut window = vec![0.0; size];
        let offset = (size / 2).saturating_sub(middle);
        window[offset..offset + (end - start)].copy_from_slice(&signal[start..end]);
        let bins: Vec<f32> = stft.forward(&window).iter().map(|c| c.norm()).collect();
        levels.extend((0..height).map(|row| {
            let first = row * bins.len() / height;
            let last = ((row + 1) * bins.len() / height).max(first + 1);
            bins[first..last].iter().copied().fold(0.0, f32::max)
        }));
    }
    let loudest = levels.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    for (column, levels) in levels.chunks_exact(height.max(1)).enumerate() {
        for (row, level) in levels.iter().rev().enumerate() {
            let level = 1.0 + 20.0 * (level.max(1e-30) / loudest).log10() / RANGE;
            let at = 3 * (row * width + column);
            image.pixels[at..at + 3].copy_from_slice(&color(level.clamp(0.0, 1.0)));
        }
    }
    image
}

/// The colour of a level from 0 to 1.
fn color(level: f32) -> [u8; 3] {
    let at = level * (COLORS.len() - 1) as f32;
    let below = (at as usize).min(COLORS.len() - 2);
    let part = at - below as f32;
    std::array::from_fn(|i| {
        let [low, high] = [COLORS[below][i], COLORS[below + 1][i]].map(f32::from);
        (low + (high - low) * part).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_a_line_at_its_frequency() {
        let tone = (0..4000).map(|i| (std::f32::consts::TAU * 1000.0 * i as f32 / 8000.0).sin()).collect();
        let sound = Audio { channels: vec![tone], rate: 8000, guessed: false };
        let image = spectrogram(&sound, 50, 64, 1.0);
        // Half of the image is the sound, and a quarter of 4 kHz is the tone's row.
        let brightness = |x: usize, y: usize| image.pixel(x, y).iter().map(|v| u32::from(*v)).sum::<u32>();
        let brightest = |x: usize| (0..64).max_by_key(|y| brightness(x, *y)).unwrap_or(0);
        assert!((5..20).all(|x| brightest(x).abs_diff(47) <= 1), "{}", brightest(10));
        assert!((30..50).all(|x| (0..64).all(|y| image.pixel(x, y) == COLORS[0])));
    }
}
