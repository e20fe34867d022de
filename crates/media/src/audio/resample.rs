//! Resampling by Fourier transforms.

use rubato::{FftFixedInOut, Resampler};

/// At least as many values are transformed at once.
const BLOCK: usize = 1024;

/// `signal` at the rate `to` instead of `from`, in Hz: `signal.len()·to/from` values, rounded up. Value `i` of the result is at
/// `i/to` seconds; what is above half of the lower rate is removed.
///
/// # Panics
/// If a rate is 0.
pub fn resampled(signal: &[f32], from: u32, to: u32) -> Vec<f32> {
    assert!(from > 0 && to > 0, "rates above 0 Hz");
    if from == to || signal.is_empty() {
        return signal.to_vec();
    }
    let (from, to) = (from as usize, to as usize);
    // An even number of the smallest blocks, so that the delay of half a block is a whole number of values.
    let smallest = from / gcd(from, to);
    let block = 2 * smallest * BLOCK.div_ceil(2 * smallest);
    let mut resampler = FftFixedInOut::<f64>::new(from, to, block, 1).expect("two rates above 0");
    let length = (signal.len() * to).div_ceil(from);
    let delay = resampler.output_delay();
    let mut out = Vec::with_capacity(delay + length + block * to / from);
    let mut blocks = signal.chunks(block);
    while out.len() < delay + length {
        let mut values: Vec<f64> = blocks.next().unwrap_or_default().iter().map(|&v| v.into()).collect();
        values.resize(block, 0.0);
        let made = resampler.process(&[values], None).expect("a block of the expected length");
        out.extend(made.into_iter().next().unwrap_or_default().into_iter().map(|v| v as f32));
    }
    out[delay..delay + length].to_vec()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A smooth pulse at 0.2 s.
    fn pulse(rate: u32, n: usize) -> Vec<f32> {
        let value = |i: usize| (-((i as f64 / f64::from(rate) - 0.2) / 0.002).powi(2)).exp();
        (0..n).map(|i| value(i) as f32).collect()
    }

    #[test]
    fn everything_stays_where_it_was() {
        for (from, to) in [(44_100, 8000), (8000, 44_100), (48_000, 44_100), (96_000, 8000), (7999, 8000)] {
            let signal = pulse(from, from as usize / 2);
            let found = resampled(&signal, from, to);
            assert_eq!(found.len(), (signal.len() * to as usize).div_ceil(from as usize));
            let expected = pulse(to, found.len());
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(error < 1e-5, "{from} to {to}: {error}");
        }
    }

    #[test]
    fn high_tones_are_removed() {
        let high: Vec<f32> =
            (0..44_100).map(|i| (std::f32::consts::TAU * 6000.0 * i as f32 / 44_100.0).sin()).collect();
        let found = resampled(&high, 44_100, 8000);
        assert!(found[200..found.len() - 200].iter().all(|v| v.abs() < 1e-3));
        assert!(resampled(&[], 8000, 16_000).is_empty());
        assert_eq!(resampled(&[0.5], 8000, 8000), [0.5]);
        assert_eq!(resampled(&[0.5], 8000, 16_000).len(), 2);
    }
}
