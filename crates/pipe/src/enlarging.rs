//! Enlarging images with a network that also gets the small image (Saharia et al. 2021, arXiv:2104.07636), with some noise
//! whose level it is told (Ho et al. 2021, arXiv:2106.15282).

use crate::operators::{Operator, resized as to_size};

/// Resizes images `[C, H, W]` to `to = [H, W]` with Pillow's `BICUBIC`.
///
/// # Panics
/// If `values` do not have the shape `dims`, or a side is 0.
pub fn resized(values: &[f32], dims: [usize; 3], to: [usize; 2]) -> Vec<f32> {
    let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    to_size(&dims, &to).apply(&values).into_iter().map(|v| v as f32).collect()
}

/// `alpha·x + sigma·eps`.
pub fn noised(x: &[f32], [alpha, sigma]: [f64; 2], eps: &[f32]) -> Vec<f32> {
    let (alpha, sigma) = (alpha as f32, sigma as f32);
    x.iter().zip(eps).map(|(x, e)| alpha * x + sigma * e).collect()
}
