//! The orthonormal discrete cosine transform of a whole signal: DCT-II and its inverse, by one Fourier transform of the same
//! length (Makhoul 1980, doi:10.1109/TASSP.1980.1163351). Values of `scipy.fft.dct(x, norm="ortho")`.

use std::{f64::consts::PI, fmt, sync::Arc};

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex, num_complex::Complex64};

/// The transform of one length.
#[derive(Clone)]
pub struct Cosines {
    length: usize,
    forward: Arc<dyn RealToComplex<f64>>,
    inverse: Arc<dyn ComplexToReal<f64>>,
}

impl fmt::Debug for Cosines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cosines").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Cosines {
    /// The transform of signals of `length` values.
    ///
    /// # Panics
    /// If `length` is 0.
    pub fn new(length: usize) -> Self {
        assert!(length > 0, "at least one value");
        let mut planner = RealFftPlanner::new();
        Self { length, forward: planner.plan_fft_forward(length), inverse: planner.plan_fft_inverse(length) }
    }

    /// The length of signals.
    pub fn length(&self) -> usize {
        self.length
    }

    /// `exp(−iπk/2n)`, times what makes the transform orthonormal.
    fn turn(&self, k: usize) -> Complex64 {
        let n = self.length as f64;
        let scale = if k == 0 { (1.0 / n).sqrt() } else { (2.0 / n).sqrt() };
        Complex64::from_polar(scale, -PI * k as f64 / (2.0 * n))
    }

    /// The coefficients: number `k` belongs to `k/2` turns over the length.
    ///
    /// # Panics
    /// If `x` has another length.
    pub fn forward(&self, x: &[f64]) -> Vec<f64> {
        let n = self.length;
        assert_eq!(x.len(), n, "a signal of the planned length");
        // Even places forwards, then odd places backwards.
        let mut order: Vec<f64> = x.iter().step_by(2).copied().collect();
        order.extend(x.iter().skip(1).step_by(2).rev());
        let mut bins = self.forward.make_output_vec();
        self.forward.process(&mut order, &mut bins).expect("buffers of the planned lengths");
        let bin = |k: usize| if k < bins.len() { bins[k] } else { bins[n - k].conj() };
        (0..n).map(|k| (bin(k) * self.turn(k)).re).collect()
    }

    /// The signal of coefficients.
    ///
    /// # Panics
    /// If `c` has another length.
    pub fn inverse(&self, c: &[f64]) -> Vec<f64> {
        let n = self.length;
        assert_eq!(c.len(), n, "coefficients of the planned length");
        let mut bins: Vec<Complex64> = (0..n / 2 + 1)
            .map(|k| {
                let mirrored = if k == 0 { 0.0 } else { c[n - k] };
                let both = Complex64::new(c[k], -mirrored);
                both * self.turn(k).conj() * if k == 0 { 1.0 } else { 0.5 }
            })
            .collect();
        // Exact zeros, which the inverse transform checks.
        bins[0].im = 0.0;
        if n.is_multiple_of(2) {
            bins[n / 2].im = 0.0;
        }
        let mut order = self.inverse.make_output_vec();
        self.inverse.process(&mut bins, &mut order).expect("buffers of the planned lengths");
        let mut x = vec![0.0; n];
        let half = n.div_ceil(2);
        (0..half).for_each(|i| x[2 * i] = order[i]);
        (half..n).for_each(|i| x[2 * (n - 1 - i) + 1] = order[i]);
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, term by term.
    #[test]
    fn coefficients_are_those_of_the_definition_and_come_back() {
        for n in [1, 2, 3, 4, 7, 16, 45] {
            let x: Vec<f64> = (0..n).map(|i| (i as f64 * 1.3).sin() + 0.2 * i as f64).collect();
            let found = Cosines::new(n).forward(&x);
            for (k, found) in found.iter().enumerate() {
                let term = |(i, v): (usize, &f64)| v * (PI * (i as f64 + 0.5) * k as f64 / n as f64).cos();
                let sum: f64 = x.iter().enumerate().map(term).sum();
                let scale = if k == 0 { 1.0 } else { 2.0f64 };
                let expected = sum * (scale / n as f64).sqrt();
                assert!((found - expected).abs() < 1e-12, "{n} {k}: {found} {expected}");
            }
            let back = Cosines::new(n).inverse(&found);
            assert!(back.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-12), "{n}: {back:?}");
        }
    }
}
