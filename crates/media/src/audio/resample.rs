//! Resampling by a windowed sinc.

use rubato::{
    Resampler, SincFixedIn, SincInterpolationParameters, SincInterpolationType, WindowFunction,
    calculate_cutoff,
};

/// Values of the sinc, and of a block.
const SINC: usize = 256;
const BLOCK: usize = 1024;

/// `signal` at the rate `to` instead of `from`, in Hz: `signal.len()·to/from` values, rounded up. It may be shifted by some
/// values, fewer than half of the filter.
///
/// # Panics
/// If a rate is 0.
pub fn resampled(signal: &[f32], from: u32, to: u32) -> Vec<f32> {
    assert!(from > 0 && to > 0, "rates above 0 Hz");
    if from == to || signal.is_empty() {
        return signal.to_vec();
    }
    let window = WindowFunction::BlackmanHarris2;
    let parameters = SincInterpolationParameters {
        sinc_len: SINC,
        f_cutoff: calculate_cutoff(SINC, window),
        interpolation: SincInterpolationType::Cubic,
        oversampling_factor: 256,
        window,
    };
    let ratio = f64::from(to) / f64::from(from);
    let mut resampler = SincFixedIn::<f32>::new(ratio, 1.0, parameters, BLOCK, 1)
        .expect("a ratio above 0 that does not change, and one channel");
    let length = (signal.len() as f64 * ratio).ceil() as usize;
    let delay = resampler.output_delay();
    let mut out = Vec::with_capacity(delay + length + BLOCK);
    let mut start = 0;
    while out.len() < delay + length {
        let mut block = vec![0.0; BLOCK];
        if let Some(rest) = signal.get(start..) {
            let count = rest.len().min(BLOCK);
            block[..count].copy_from_slice(&rest[..count]);
        }
        start += BLOCK;
        let made = resampler.process(&[block], None).expect("a block of the expected length");
        out.extend(made.into_iter().next().unwrap_or_default());
    }
    out[delay..delay + length].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_keep_their_frequency() {
        let tone = |rate: f32, n: usize| -> Vec<f32> {
            (0..n).map(|i| (std::f32::consts::TAU * 440.0 * i as f32 / rate).sin()).collect()
        };
        for (from, to) in [(44_100, 8000), (8000, 44_100), (48_000, 44_100), (8000, 16_000)] {
            let signal = tone(from as f32, from as usize / 4);
            let found = resampled(&signal, from, to);
            let expected = tone(to as f32, found.len());
            assert_eq!(found.len(), (signal.len() as f64 * f64::from(to) / f64::from(from)).ceil() as usize);
            // The place may be off by less than a period of the tone.
            let at =
                |lag: usize| (400..800).map(|i| (found[i + lag] - expected[i]).abs()).fold(0.0, f32::max);
            let error = (0..110).map(at).fold(f32::MAX, f32::min);
            assert!(error < 0.1, "{from} to {to}: {error}");
        }
        // Above half of the new rate nothing remains.
        let high: Vec<f32> =
            (0..44_100).map(|i| (std::f32::consts::TAU * 6000.0 * i as f32 / 44_100.0).sin()).collect();
        let found = resampled(&high, 44_100, 8000);
        assert!(found[200..found.len() - 200].iter().all(|v| v.abs() < 1e-3));
        assert!(resampled(&[], 8000, 16_000).is_empty());
        assert_eq!(resampled(&[0.5], 8000, 8000), [0.5]);
        assert_eq!(resampled(&[0.5], 8000, 16_000).len(), 2);
    }
}
