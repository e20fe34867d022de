//! Blur. Values beyond the border are those at the border.

use super::{Linear, Matrix, Operator, Separable};

/// A Gaussian blur along every axis but the channels, with standard deviation `sigma` in values, cut off at `4·sigma`.
///
/// # Panics
/// If `sigma` is not positive and finite.
pub fn gaussian(dims: &[usize], sigma: f64) -> Separable {
    assert!(sigma > 0.0 && sigma.is_finite());
    let axes = dims.iter().enumerate().map(|(axis, n)| {
        let reach = ((4.0 * sigma).ceil() as usize).clamp(1, *n) as isize;
        let weights: Vec<f64> = (-reach..=reach).map(|d| (-0.5 * (d as f64 / sigma).powi(2)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let row = |i: usize| {
            let mut row = vec![0.0; *n];
            for (d, w) in (-reach..=reach).zip(&weights) {
                row[beside(i, d, *n)] += w / sum;
            }
            let first = i.saturating_sub(reach as usize);
            let last = (i + reach as usize).min(n - 1);
            (first, row[first..=last].to_vec())
        };
        (axis > 0).then(|| Matrix::new(*n, (0..*n).map(row).collect()))
    });
    Separable::new(dims, axes.collect())
}

/// The place `d` values beside `i`, at most at the border.
fn beside(i: usize, d: isize, n: usize) -> usize {
    i.saturating_add_signed(d).min(n - 1)
}

/// A blur of images `[C, H, W]` with any kernel, the same for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Convolution {
    dims: [usize; 3],
    /// Vertical and horizontal distance, and weight.
    taps: Vec<([isize; 2], f64)>,
}

impl Convolution {
    /// The kernel `[rows, columns]` with odd sides, in rows; its centre is the pixel itself. Weights are divided by their
    /// sum.
    ///
    /// # Errors
    /// If a side is even, the number of weights does not match, or their sum is not positive.
    pub fn new(dims: [usize; 3], [rows, columns]: [usize; 2], weights: &[f64]) -> Result<Self, String> {
        if rows.is_multiple_of(2) || columns.is_multiple_of(2) || rows * columns != weights.len() {
            return Err(format!("a kernel of {columns}×{rows} pixels: expected odd sides"));
        }
        let sum: f64 = weights.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(format!("a kernel whose weights have the sum {sum}: expected a positive sum"));
        }
        let place = |i: usize| {
            [(i / columns) as isize - (rows / 2) as isize, (i % columns) as isize - (columns / 2) as isize]
        };
        let taps = weights.iter().enumerate().filter(|(_, w)| **w != 0.0).map(|(i, w)| (place(i), w / sum));
        Ok(Self { dims, taps: taps.collect() })
    }

    fn each(&self, mut f: impl FnMut(usize, usize, f64)) {
        let [channels, height, width] = self.dims;
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let start = c * height * width;
                    for ([down, across], w) in &self.taps {
                        let from = start + beside(y, *down, height) * width + beside(x, *across, width);
                        f(start + y * width + x, from, *w);
                    }
                }
            }
        }
    }
}

impl Operator for Convolution {
    fn inputs(&self) -> usize {
        self.dims.iter().product()
    }

    fn outputs(&self) -> usize {
        self.inputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        self.each(|to, from, w| y[to] += w * x[from]);
        y
    }

    fn pull(&self, _: &[f64], v: &[f64]) -> Vec<f64> {
        self.adjoint(v)
    }

    fn as_linear(&self) -> Option<&dyn Linear> {
        Some(self)
    }
}

impl Linear for Convolution {
    fn adjoint(&self, y: &[f64]) -> Vec<f64> {
        let mut x = vec![0.0; y.len()];
        self.each(|to, from, w| x[from] += w * y[to]);
        x
    }
}
