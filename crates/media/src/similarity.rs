//! Similarity of images by pixels.

/// Window size of [`ssim`].
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;

/// Peak signal-to-noise ratio in decibels for values in −1..1; higher is better, infinite for equal images.
pub fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.len() as f64;
    // The range of values is 2.
    10.0 * (4.0 / mean).log10()
}

/// Structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861) of images of `width` × `width` in −1..1: Gaussian
/// windows of 11×11 within the image, averaged over channels; 1 for equal images. `None` for images smaller than a window.
pub fn ssim(a: &[f32], b: &[f32], width: usize) -> Option<f64> {
    if width < WINDOW {
        return None;
    }
    let (c1, c2) = ((0.01f64 * 2.0).powi(2), (0.03f64 * 2.0).powi(2));
    let (mut sum, mut count) = (0.0, 0);
    for (a, b) in a.chunks_exact(width * width).zip(b.chunks_exact(width * width)) {
        let blur = |f: &dyn Fn(f64, f64) -> f64| {
            let values: Vec<f64> = a.iter().zip(b).map(|(a, b)| f(f64::from(*a), f64::from(*b))).collect();
            windows(&values, width)
        };
        let (ma, mb) = (blur(&|a, _| a), blur(&|_, b| b));
        let (aa, bb, ab) = (blur(&|a, _| a * a), blur(&|_, b| b * b), blur(&|a, b| a * b));
        for i in 0..ma.len() {
            let (ma, mb) = (ma[i], mb[i]);
            let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
            sum += (2.0 * ma * mb + c1) * (2.0 * cov + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            count += 1;
        }
    }
    Some(sum / f64::from(count))
}

/// The means under Gaussian windows within the image.
fn windows(values: &[f64], width: usize) -> Vec<f64> {
    let radius = WINDOW / 2;
    let mut kernel = [0.0; WINDOW];
    for (i, k) in kernel.iter_mut().enumerate() {
        *k = (-0.5 * ((i as f64 - radius as f64) / SIGMA).powi(2)).exp();
    }
    let total: f64 = kernel.iter().sum();
    kernel.iter_mut().for_each(|k| *k /= total);
    let inside = width + 1 - WINDOW;
    let dot = |get: &dyn Fn(usize) -> f64| kernel.iter().enumerate().map(|(i, k)| k * get(i)).sum::<f64>();
    let height = values.len() / width;
    let rows: Vec<f64> =
        (0..height * inside).map(|at| dot(&|i| values[at / inside * width + at % inside + i])).collect();
    (0..inside * inside).map(|at| dot(&|i| rows[(at / inside + i) * inside + at % inside])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn both_agree_with_scikit_image() {
        let golden: Value = serde_json::from_str(include_str!("../tests/goldens/similarity.json")).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let list = |key: &str| -> Vec<f32> {
                case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
            };
            let (a, b) = (list("a"), list("b"));
            let width = case["width"].as_u64().unwrap() as usize;
            let near = |found: f64, key: &str| {
                let expected = case[key].as_f64().unwrap();
                assert!((found - expected).abs() < 1e-6 * expected.abs(), "{key}: {found} {expected}");
            };
            near(psnr(&a, &b), "psnr");
            near(ssim(&a, &b, width).unwrap(), "ssim");
        }
    }

    #[test]
    fn equal_images_are_alike() {
        let a: Vec<f32> = (0..3 * 12 * 12).map(|i| (i as f32 * 0.3).sin()).collect();
        assert_eq!(psnr(&a, &a), f64::INFINITY);
        assert!((ssim(&a, &a, 12).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(ssim(&a[..300], &a[..300], 10), None);
    }
}
