//! Shrinking: means of boxes, and Pillow's bicubic filter.

use super::{Matrix, Separable};

/// Means of `factor` values along every axis but the channels, like Pillow's `Image.reduce`: a box at the end is smaller if
/// `factor` does not divide the axis.
///
/// # Panics
/// If `factor` is 0.
pub fn boxes(dims: &[usize], factor: usize) -> Separable {
    shrunk(dims, |n| {
        let rows = (0..n.div_ceil(factor)).map(|i| {
            let count = factor.min(n - i * factor);
            (i * factor, vec![1.0 / count as f64; count])
        });
        Matrix::new(n, rows.collect())
    })
}

/// Shrinks every axis but the channels to `1/factor` (rounded up) of its length with Pillow's `BICUBIC`, which averages over
/// `4·factor` values.
///
/// # Panics
/// If `factor` is 0.
pub fn bicubic(dims: &[usize], factor: usize) -> Separable {
    shrunk(dims, |n| pillow(n, n.div_ceil(factor)))
}

/// Resizes every axis but the channels to these lengths with Pillow's `BICUBIC`.
///
/// # Panics
/// If there is not one length for each axis, or one is 0.
pub fn resized(dims: &[usize], to: &[usize]) -> Separable {
    assert_eq!(dims.len(), to.len() + 1, "a length for each axis");
    let axes = dims[1..].iter().zip(to).map(|(from, to)| Some(pillow(*from, *to)));
    Separable::new(dims, std::iter::once(None).chain(axes).collect())
}

fn shrunk(dims: &[usize], matrix: impl Fn(usize) -> Matrix) -> Separable {
    let axes = dims.iter().enumerate().map(|(axis, n)| (axis > 0).then(|| matrix(*n)));
    Separable::new(dims, axes.collect())
}

/// The rows of Pillow's `precompute_coeffs` for its bicubic filter (`a = −0.5`), in `f64`.
fn pillow(from: usize, to: usize) -> Matrix {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = 2.0 * stretch;
    let row = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        let first = ((center - reach + 0.5).max(0.0)) as usize;
        let last = ((center + reach + 0.5) as usize).min(from);
        let raw: Vec<f64> = (first..last).map(|x| cubic((x as f64 - center + 0.5) / stretch)).collect();
        let sum: f64 = raw.iter().sum();
        (first, raw.iter().map(|w| w / sum).collect())
    };
    Matrix::new(from, (0..to).map(row).collect())
}

/// Keys' cubic with `a = −0.5`.
fn cubic(x: f64) -> f64 {
    match x.abs() {
        a if a < 1.0 => (1.5 * a - 2.5) * a * a + 1.0,
        a if a < 2.0 => ((2.5 - 0.5 * a) * a - 4.0) * a + 2.0,
        _ => 0.0,
    }
}
