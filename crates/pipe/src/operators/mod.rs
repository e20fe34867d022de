//! Measurements `y = A(x)` of a clean sample: what of it is known.
//!
//! Operators act on the values of one sample, whatever its rank: channels first, then axes. A linear operator has an adjoint
//! `Aᵀ` and a pseudo-inverse `A⁺ = Aᵀ·(A·Aᵀ)⁺`. Where its singular value decomposition `A = U·S·Vᵀ` is known, functions of
//! `A·Aᵀ` are exact; elsewhere conjugate gradients solve for them.

mod blur;
mod chain;
mod conjugate;
mod jpeg;
mod lowpass;
mod mask;
mod phase;
mod pointwise;
mod resample;
mod separable;
mod symmetric;

use std::fmt::Debug;

pub use blur::{Convolution, gaussian};
pub use chain::{Chain, Stack, Sum};
pub use jpeg::Jpeg;
pub use lowpass::Lowpass;
pub use mask::Mask;
pub use phase::Magnitude;
pub use pointwise::{Clip, Quantize};
pub use resample::{bicubic, boxes, resized};
pub use separable::{Matrix, Separable, grey};

/// A differentiable measurement of a sample.
pub trait Operator: Debug + Send + Sync {
    /// Number of values of a sample.
    fn inputs(&self) -> usize;

    /// Number of values of its measurement.
    fn outputs(&self) -> usize;

    /// `A(x)`.
    fn apply(&self, x: &[f64]) -> Vec<f64>;

    /// `Jᵀ·v` with the Jacobian `J` of `A` at `x`, or that of the differentiable approximation that the operator documents.
    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64>;

    /// The operator, if it is linear.
    fn as_linear(&self) -> Option<&dyn Linear> {
        None
    }

    /// A sample near `x` with the measurement `y`, if the operator has such a projection: `x − A⁺·(A·x − y)` if it is linear.
    fn consistent(&self, x: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        let linear = self.as_linear()?;
        let residual: Vec<f64> = self.apply(x).iter().zip(y).map(|(a, b)| a - b).collect();
        Some(minus(x, &linear.pseudo_inverse(&residual)))
    }
}

/// A linear measurement.
pub trait Linear: Operator {
    /// `Aᵀ·y`.
    fn adjoint(&self, y: &[f64]) -> Vec<f64>;

    /// The singular values, one per value of the measurement, if the decomposition is known. Some may be zero.
    fn singular_values(&self) -> Option<&[f64]> {
        None
    }

    /// `Uᵀ·y`; only if there are singular values.
    fn rotated(&self, y: &[f64]) -> Vec<f64> {
        y.to_vec()
    }

    /// `U·c`; only if there are singular values.
    fn rotated_back(&self, c: &[f64]) -> Vec<f64> {
        c.to_vec()
    }

    /// `(signal·A·Aᵀ + noise)⁺·y` for `signal, noise ≥ 0`.
    fn solve(&self, signal: f64, noise: f64, y: &[f64]) -> Vec<f64> {
        let Some(values) = self.singular_values() else {
            return conjugate::solve(|v| self.apply(&self.adjoint(v)), signal, noise, y);
        };
        let most = values.iter().copied().fold(0.0, f64::max);
        let mut c = self.rotated(y);
        for (c, s) in c.iter_mut().zip(values) {
            // What the measurement does not contain cannot be inverted.
            let divisor = signal * s * s + noise;
            *c = if *s <= SMALLEST * most && noise == 0.0 { 0.0 } else { *c / divisor };
        }
        self.rotated_back(&c)
    }

    /// `A⁺·y = Aᵀ·(A·Aᵀ)⁺·y`.
    fn pseudo_inverse(&self, y: &[f64]) -> Vec<f64> {
        self.adjoint(&self.solve(1.0, 0.0, y))
    }
}

/// Singular values below this fraction of the largest count as zero.
pub(crate) const SMALLEST: f64 = 1e-6;

/// `x − y`.
pub(crate) fn minus(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(a, b)| a - b).collect()
}

/// `Σ xᵢ·yᵢ`.
pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| a * b).sum()
}
