//! The short-time Fourier transform with a periodic Hann window, and its inverse by overlapping and adding (Griffin & Lim
//! 1984, doi:10.1109/TASSP.1984.1164317). Values of `librosa.stft` and `torch.stft`.
//!
//! All Fourier transforms of this crate are in f64: a second type would compile the library's many algorithms twice.

use std::{f64::consts::TAU, fmt, sync::Arc};

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex, num_complex::Complex64};

pub use realfft::num_complex::Complex32;

/// The transform of one window length and one distance of frames.
#[derive(Clone)]
pub struct Stft {
    size: usize,
    hop: usize,
    pad: usize,
    window: Vec<f64>,
    forward: Arc<dyn RealToComplex<f64>>,
    inverse: Arc<dyn ComplexToReal<f64>>,
}

impl fmt::Debug for Stft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stft").field("size", &self.size).field("hop", &self.hop).finish_non_exhaustive()
    }
}

/// The coefficients of a signal, frame by frame, [`Stft::bins`] for each.
pub type Frames = Vec<Complex32>;

impl Stft {
    /// Windows of `size` values, `hop` values apart, of a signal with `pad` zeros on both sides. Half a window (`size / 2`) is
    /// what librosa and torch call `center`; with `(size - hop) / 2`, a signal of `n·hop` values has `n` frames.
    ///
    /// # Panics
    /// If `size` is odd or less than 2, or `hop` is 0 or larger than `size`.
    pub fn new(size: usize, hop: usize, pad: usize) -> Self {
        assert!(size >= 2 && size.is_multiple_of(2), "an even window of at least 2 values, not {size}");
        assert!((1..=size).contains(&hop), "a hop from 1 to the window's {size} values, not {hop}");
        let hann = |i: usize| 0.5 - 0.5 * (TAU * i as f64 / size as f64).cos();
        let mut planner = RealFftPlanner::new();
        Self {
            size,
            hop,
            pad,
            window: (0..size).map(hann).collect(),
            forward: planner.plan_fft_forward(size),
            inverse: planner.plan_fft_inverse(size),
        }
    }

    /// Coefficients per frame, from the frequency 0 to half of the rate.
    pub fn bins(&self) -> usize {
        self.size / 2 + 1
    }

    /// Frames of a signal of `length` values.
    pub fn frames(&self, length: usize) -> usize {
        (length + 2 * self.pad).checked_sub(self.size).map_or(0, |rest| rest / self.hop + 1)
    }

    /// The coefficients of `signal`.
    pub fn forward(&self, signal: &[f32]) -> Frames {
        let (bins, frames) = (self.bins(), self.frames(signal.len()));
        let mut out = vec![Complex32::default(); bins * frames];
        let (mut frame, mut exact) = (vec![0.0; self.size], self.forward.make_output_vec());
        let mut scratch = self.forward.make_scratch_vec();
        for (index, coefficients) in out.chunks_exact_mut(bins).enumerate() {
            for (i, (value, window)) in frame.iter_mut().zip(&self.window).enumerate() {
                let at = (index * self.hop + i).checked_sub(self.pad);
                *value = at.and_then(|at| signal.get(at)).map_or(0.0, |v| f64::from(*v) * window);
            }
            self.forward
                .process_with_scratch(&mut frame, &mut exact, &mut scratch)
                .expect("buffers of the planned lengths");
            for (coefficient, exact) in coefficients.iter_mut().zip(&exact) {
                *coefficient = Complex32::new(exact.re as f32, exact.im as f32);
            }
        }
        out
    }

    /// The signal of `length` values whose windowed frames are closest to those of `frames`, in the sense of least squares.
    ///
    /// # Panics
    /// If `frames` are not those of a signal of this length.
    pub fn inverse(&self, frames: &[Complex32], length: usize) -> Vec<f32> {
        let bins = self.bins();
        assert_eq!(frames.len(), bins * self.frames(length), "the frames of a signal of {length} values");
        let (mut sum, mut weight) = (vec![0.0f64; length], vec![0.0f64; length]);
        let (mut frame, mut coefficients) = (vec![0.0; self.size], vec![Complex64::default(); bins]);
        let mut scratch = self.inverse.make_scratch_vec();
        let scale = 1.0 / self.size as f64;
        for (index, given) in frames.chunks_exact(bins).enumerate() {
            for (coefficient, given) in coefficients.iter_mut().zip(given) {
                *coefficient = Complex64::new(given.re.into(), given.im.into());
            }
            // A real signal has real coefficients at both ends.
            coefficients[0].im = 0.0;
            coefficients[bins - 1].im = 0.0;
            self.inverse
                .process_with_scratch(&mut coefficients, &mut frame, &mut scratch)
                .expect("buffers of the planned lengths");
            for (i, (value, window)) in frame.iter().zip(&self.window).enumerate() {
                let Some(at) = (index * self.hop + i).checked_sub(self.pad) else { continue };
                if at < length {
                    sum[at] += value * window * scale;
                    weight[at] += window * window;
                }
            }
        }
        sum.iter()
            .zip(weight)
            .map(|(v, w)| if w > f64::from(f32::EPSILON) { (v / w) as f32 } else { 0.0 })
            .collect()
    }

    /// A signal of `length` values whose frames have about these `magnitudes`: the fast algorithm of Griffin and Lim (Perraudin
    /// et al. 2013, doi:10.1109/WASPAA.2013.6701851) with a momentum of 0.99, from fixed phases, so that equal magnitudes give
    /// equal signals.
    ///
    /// # Panics
    /// If `magnitudes` are not those of a signal of this length.
    pub fn of_magnitudes(&self, magnitudes: &[f32], length: usize, iterations: usize) -> Vec<f32> {
        const MOMENTUM: f32 = 0.99;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut phase = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            TAU as f32 * (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut frames: Frames = magnitudes.iter().map(|m| Complex32::from_polar(*m, phase())).collect();
        let mut before: Option<Frames> = None;
        for _ in 0..iterations {
            let rebuilt = self.forward(&self.inverse(&frames, length));
            for (i, (frame, now)) in frames.iter_mut().zip(&rebuilt).enumerate() {
                let last = before.as_ref().map_or(*now, |before| before[i]);
                let ahead = now + (now - last) * MOMENTUM;
                let norm = ahead.norm();
                *frame = if norm > 0.0 { ahead * (magnitudes[i] / norm) } else { magnitudes[i].into() };
            }
            before = Some(rebuilt);
        }
        self.inverse(&frames, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(length: usize) -> Vec<f32> {
        (0..length).map(|i| (0.13 * i as f32).sin() + 0.3 * (0.71 * i as f32).cos()).collect()
    }

    #[test]
    fn signals_come_back() {
        for (size, hop, length) in [(256, 64, 1000), (256, 80, 5120), (128, 128, 640), (8, 3, 1), (64, 16, 5)]
        {
            for pad in [size / 2, (size - hop) / 2] {
                let stft = Stft::new(size, hop, pad);
                let signal = wave(length);
                let back = stft.inverse(&stft.forward(&signal), length);
                // Without overlap, the window has zeros.
                let known = |i: &usize| hop < size && (*i > 0 && *i + 1 < length || pad == size / 2);
                for i in (0..length).filter(known).filter(|_| stft.frames(length) > 0) {
                    if (i + pad) / hop * hop + size <= length + 2 * pad && i + pad >= size - hop {
                        assert!((back[i] - signal[i]).abs() < 1e-4, "{size} {hop} {length} {pad} at {i}");
                    }
                }
            }
        }
        assert!(Stft::new(256, 64, 0).forward(&wave(10)).is_empty());
    }

    #[test]
    fn magnitudes_become_a_signal_that_has_them() {
        let stft = Stft::new(256, 64, 128);
        let signal = wave(4000);
        let norms = |signal: &[f32]| -> Vec<f32> { stft.forward(signal).iter().map(|c| c.norm()).collect() };
        let magnitudes = norms(&signal);
        let made = stft.of_magnitudes(&magnitudes, signal.len(), 32);
        assert_eq!(made, stft.of_magnitudes(&magnitudes, signal.len(), 32));
        let pairs = || norms(&made).into_iter().zip(&magnitudes);
        let error: f32 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
        let power: f32 = magnitudes.iter().map(|m| m * m).sum();
        assert!(error < 0.01 * power, "{}", error / power);
    }
}
