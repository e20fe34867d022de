//! Magnitudes of the Fourier transform, whose phases are lost.

use super::Operator;

/// `|F·x|` along every axis but the channels, without oversampling. Phase retrieval is to invert it.
#[derive(Clone, Debug, PartialEq)]
pub struct Magnitude {
    dims: Vec<usize>,
}

impl Magnitude {
    /// The magnitudes of samples of these dimensions, channels first.
    pub fn new(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec() }
    }

    /// The unitary transform along all axes but the channels; its conjugate with `sign` 1.
    fn transform(&self, mut re: Vec<f64>, mut im: Vec<f64>, sign: f64) -> (Vec<f64>, Vec<f64>) {
        for axis in 1..self.dims.len() {
            let n = self.dims[axis];
            let inner: usize = self.dims[axis + 1..].iter().product();
            let turns: Vec<(f64, f64)> = (0..n)
                .map(|k| (sign * std::f64::consts::TAU * k as f64 / n as f64).sin_cos())
                .map(|(s, c)| (c / (n as f64).sqrt(), s / (n as f64).sqrt()))
                .collect();
            let (mut next_re, mut next_im) = (vec![0.0; re.len()], vec![0.0; im.len()]);
            for start in (0..re.len()).filter(|i| (i / inner).is_multiple_of(n)) {
                for k in 0..n {
                    let (mut a, mut b) = (0.0, 0.0);
                    for j in 0..n {
                        let (c, s) = turns[k * j % n];
                        let (x, y) = (re[start + j * inner], im[start + j * inner]);
                        a += c * x - s * y;
                        b += s * x + c * y;
                    }
                    (next_re[start + k * inner], next_im[start + k * inner]) = (a, b);
                }
            }
            (re, im) = (next_re, next_im);
        }
        (re, im)
    }
}

impl Operator for Magnitude {
    fn inputs(&self) -> usize {
        self.dims.iter().product()
    }

    fn outputs(&self) -> usize {
        self.inputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let (re, im) = self.transform(x.to_vec(), vec![0.0; x.len()], -1.0);
        re.iter().zip(&im).map(|(a, b)| a.hypot(*b)).collect()
    }

    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        let (mut re, mut im) = self.transform(x.to_vec(), vec![0.0; x.len()], -1.0);
        for ((a, b), v) in re.iter_mut().zip(&mut im).zip(v) {
            let size = a.hypot(*b);
            let factor = if size == 0.0 { 0.0 } else { v / size };
            (*a, *b) = (*a * factor, *b * factor);
        }
        self.transform(re, im, 1.0).0
    }
}
