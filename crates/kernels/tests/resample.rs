//! Resizing and pooling over more channels and sizes than `layers.rs`, compared with plain loops.

mod common;

use common::{bits, close, numbers, same_on_any_threads};
use tweedie_kernels::resample::{avg_pool, avg_pool_gradient, upsample, upsample_gradient};

/// PyTorch's rule: the scale and the product are rounded to `f32`.
fn source(i: usize, from: usize, to: usize) -> usize {
    ((i as f32 * (from as f32 / to as f32)).floor() as usize).min(from - 1)
}

#[test]
fn resizing() {
    for (from, to) in
        [([1, 1], [3, 2]), ([4, 4], [8, 8]), ([3, 5], [7, 11]), ([7, 9], [3, 4]), ([8, 8], [16, 24])]
    {
        for channels in [1, 3, 16, 20, 100] {
            let batch = 3;
            let (x, dy) = (
                numbers(batch * from[0] * from[1] * channels, 1),
                numbers(batch * to[0] * to[1] * channels, 2),
            );
            let mut y = vec![f32::NAN; dy.len()];
            let mut dx = vec![f32::NAN; x.len()];
            upsample(&x, batch, from, to, channels, &mut y);
            upsample_gradient(&dy, batch, from, to, channels, &mut dx);
            let mut want = vec![0.0f64; x.len()];
            for (i, value) in y.iter().enumerate() {
                let (p, c) = (i / channels, i % channels);
                let (b, ty, tx) = (p / (to[0] * to[1]), p / to[1] % to[0], p % to[1]);
                let pixel = (b * from[0] + source(ty, from[0], to[0])) * from[1] + source(tx, from[1], to[1]);
                assert_eq!(*value, x[pixel * channels + c], "{from:?} to {to:?}");
                want[pixel * channels + c] += f64::from(dy[i]);
            }
            close(&dx, &want, 1e-6, "gradient");
            let (image, target) = (x.len() / batch, y.len() / batch);
            let mut alone = vec![f32::NAN; image];
            upsample_gradient(&dy[target..2 * target], 1, from, to, channels, &mut alone);
            assert!(bits(&alone) == bits(&dx[image..2 * image]), "an image alone");
            same_on_any_threads("resizing", || {
                let mut dx = vec![f32::NAN; x.len()];
                upsample_gradient(&dy, batch, from, to, channels, &mut dx);
                dx
            });
        }
    }
}

#[test]
fn pooling() {
    for (from, k) in [([1, 1], 1), ([4, 6], 2), ([7, 5], 2), ([9, 10], 3)] {
        for channels in [1, 7, 16, 64, 100] {
            let (batch, to) = (2, [from[0] / k, from[1] / k]);
            let (x, dy) = (
                numbers(batch * from[0] * from[1] * channels, 1),
                numbers(batch * to[0] * to[1] * channels, 2),
            );
            let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
            avg_pool(&x, batch, from, k, channels, &mut y);
            avg_pool_gradient(&dy, batch, from, k, channels, &mut dx);
            let (mut want, mut want_dx) = (vec![0.0f64; y.len()], vec![0.0f64; x.len()]);
            for (i, value) in x.iter().enumerate() {
                let (p, c) = (i / channels, i % channels);
                let (b, sy, sx) = (p / (from[0] * from[1]), p / from[1] % from[0], p % from[1]);
                if sy / k < to[0] && sx / k < to[1] {
                    let target = ((b * to[0] + sy / k) * to[1] + sx / k) * channels + c;
                    want[target] += f64::from(*value) / (k * k) as f64;
                    want_dx[i] = f64::from(dy[target]) / (k * k) as f64;
                }
            }
            close(&y, &want, 1e-6, "pooling");
            close(&dx, &want_dx, 1e-6, "gradient of pooling");
        }
    }
}
