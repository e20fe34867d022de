//! Conjugate gradients for symmetric positive semi-definite systems. Hestenes & Stiefel 1952.

use super::dot;

/// Relative residual at which the iteration ends.
const PRECISION: f64 = 1e-10;
/// Maximum number of products.
const MOST: usize = 500;

/// `(signal·B + noise)⁺·y` for `y` in the range, where `product` multiplies by `B`.
pub(super) fn solve(product: impl Fn(&[f64]) -> Vec<f64>, signal: f64, noise: f64, y: &[f64]) -> Vec<f64> {
    let mut x = vec![0.0; y.len()];
    let mut rest = y.to_vec();
    let mut direction = rest.clone();
    let mut size = dot(&rest, &rest);
    let end = size * PRECISION * PRECISION;
    for _ in 0..MOST {
        if size <= end || size == 0.0 {
            break;
        }
        let mut image = product(&direction);
        for (v, d) in image.iter_mut().zip(&direction) {
            *v = signal * *v + noise * d;
        }
        let curvature = dot(&direction, &image);
        if curvature <= 0.0 {
            break;
        }
        let step = size / curvature;
        for i in 0..x.len() {
            x[i] += step * direction[i];
            rest[i] -= step * image[i];
        }
        let next = dot(&rest, &rest);
        let kept = next / size;
        for (d, r) in direction.iter_mut().zip(&rest) {
            *d = r + kept * *d;
        }
        size = next;
    }
    x
}
