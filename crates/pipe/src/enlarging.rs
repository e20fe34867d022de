//! Enlarging images with a network that also gets the small image (Saharia et al. 2021, arXiv:2104.07636), with some noise
//! whose level it is told (Ho et al. 2021, arXiv:2106.15282).

use tweedie_ops::{Batch, Tensor};

use crate::{
    Pipeline, Request,
    operators::{Operator, boxes, resized as to_size},
};

impl Pipeline {
    /// A request to enlarge images of these texts, if the model reads texts. Without a text it is not guided, because an empty
    /// text would change nothing.
    pub fn describing(&self, request: Request, texts: &[String]) -> Request {
        if !self.reads_texts() {
            return request;
        }
        match texts {
            [] => {
                Request { prompts: vec![String::new()], guidance: request.guidance.or(Some(1.0)), ..request }
            }
            texts => Request { prompts: texts.to_vec(), ..request },
        }
    }
}

/// Resizes images `[C, H, W]` to `to = [H, W]` with Pillow's `BICUBIC`.
///
/// # Panics
/// If `values` do not have the shape `dims`, or a side is 0.
pub fn resized(values: &[f32], dims: [usize; 3], to: [usize; 2]) -> Vec<f32> {
    let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    to_size(&dims, &to).apply(&values).into_iter().map(|v| v as f32).collect()
}

/// Reduces images `[C, H, W]` in −1..1 by means of `factor × factor` values, rounded to 8 bits.
///
/// # Panics
/// If `values` do not have the shape `dims`, or `factor` is 0.
pub fn reduced(values: &[f32], dims: [usize; 3], factor: usize) -> Vec<f32> {
    let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
    boxes(&dims, factor).apply(&values).into_iter().map(in_bytes).collect()
}

/// `[B, C, H, W]` with each value repeated to `factor × factor`.
pub(crate) fn repeated(x: &Batch, factor: usize) -> Batch {
    let x: Tensor<4> = x.tensor();
    let [_, _, h, w] = x.dims();
    Batch::of(tweedie_ops::upsample_nearest2d(x, [factor * h, factor * w]))
}

/// The nearest of the 256 values of a byte.
pub fn in_bytes(v: f64) -> f32 {
    (((v + 1.0) * 127.5).round().clamp(0.0, 255.0) / 127.5 - 1.0) as f32
}

/// `alpha·x + sigma·eps`.
pub fn noised(x: &[f32], [alpha, sigma]: [f64; 2], eps: &[f32]) -> Vec<f32> {
    let (alpha, sigma) = (alpha as f32, sigma as f32);
    x.iter().zip(eps).map(|(x, e)| alpha * x + sigma * e).collect()
}
