//! Measurements of every value by itself: clipping and quantization.

use super::Operator;

/// Clips values to a range, as an overexposed image or an overdriven recording is. The gradient is that of the clipped
/// function: zero outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// Number of values.
    pub values: usize,
    /// The range.
    pub range: [f64; 2],
}

impl Operator for Clip {
    fn inputs(&self) -> usize {
        self.values
    }

    fn outputs(&self) -> usize {
        self.values
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        x.iter().map(|v| v.clamp(self.range[0], self.range[1])).collect()
    }

    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        let inside = |x: f64| (self.range[0]..=self.range[1]).contains(&x);
        x.iter().zip(v).map(|(x, v)| if inside(*x) { *v } else { 0.0 }).collect()
    }

    /// Values that were not clipped are known; clipped ones are only known to lie beyond the end.
    fn consistent(&self, x: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        let [low, high] = self.range;
        let value = |(x, y): (&f64, &f64)| match *y {
            y if y >= high => x.max(high),
            y if y <= low => x.min(low),
            y => y,
        };
        Some(x.iter().zip(y).map(value).collect())
    }
}

/// Rounds values in `-1..=1` to `levels` equally spaced ones. Its gradient is that of the identity (a straight-through
/// estimate: Bengio et al. 2013, arXiv:1308.3432).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantize {
    /// Number of values.
    pub values: usize,
    /// Number of levels, at least 2.
    pub levels: usize,
}

impl Quantize {
    fn step(&self) -> f64 {
        2.0 / (self.levels.max(2) - 1) as f64
    }
}

impl Operator for Quantize {
    fn inputs(&self) -> usize {
        self.values
    }

    fn outputs(&self) -> usize {
        self.values
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let step = self.step();
        x.iter().map(|v| ((v.clamp(-1.0, 1.0) + 1.0) / step).round() * step - 1.0).collect()
    }

    fn pull(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        v.to_vec()
    }

    /// Values are moved into the interval that is rounded to theirs.
    fn consistent(&self, x: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        // Just inside, since both ends are rounded to even or up.
        let half = self.step() / 2.0 * (1.0 - 1e-6);
        Some(x.iter().zip(y).map(|(x, y)| x.clamp(y - half, y + half)).collect())
    }
}
