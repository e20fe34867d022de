//! What of a signal lies below a frequency.

use tweedie_media::Cosines;

use super::{Linear, Operator};

/// Keeps the lowest coefficients of the cosine transform along the last axis, of each channel: an ideal low-pass filter
/// without wrapping around. A projection: its singular values are 1 and 0.
#[derive(Clone, Debug)]
pub struct Lowpass {
    cosines: Cosines,
    kept: usize,
    values: Vec<f64>,
}

impl Lowpass {
    /// The operator on `[channels, length]` that keeps the frequencies from 0 to `share` of half of the rate.
    ///
    /// # Panics
    /// If there are no values, or `share` is not in `0..=1`.
    pub fn new([channels, length]: [usize; 2], share: f64) -> Self {
        assert!(channels > 0 && length > 0 && (0.0..=1.0).contains(&share));
        let kept = (length as f64 * share).round() as usize;
        let one = |i: usize| if i < kept { 1.0 } else { 0.0 };
        let values = (0..length).map(one).collect::<Vec<f64>>().repeat(channels);
        Self { cosines: Cosines::new(length), kept, values }
    }

    fn each(&self, x: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
        x.chunks(self.cosines.length()).flat_map(f).collect()
    }
}

impl Operator for Lowpass {
    fn inputs(&self) -> usize {
        self.values.len()
    }

    fn outputs(&self) -> usize {
        self.values.len()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        self.each(x, |channel| {
            let mut c = self.cosines.forward(channel);
            c[self.kept..].fill(0.0);
            self.cosines.inverse(&c)
        })
    }

    fn pull(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.apply(v)
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Lowpass {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        self.apply(y)
    }

    fn singular_values(&self) -> Option<&[f64]> {
        Some(&self.values)
    }

    fn rotated(&self, y: &[f64]) -> Vec<f64> {
        self.each(y, |channel| self.cosines.forward(channel))
    }

    fn rotated_back(&self, c: &[f64]) -> Vec<f64> {
        self.each(c, |channel| self.cosines.inverse(channel))
    }
}
