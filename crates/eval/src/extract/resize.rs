//! Resizing as in clean-fid (Parmar et al. 2022, arXiv:2104.11222): Pillow's antialiased bicubic filter on `f32` values,
//! without rounding to bytes. The same bits, except that Pillow 13 shrinks some tall images along their height first, which
//! changes the last bits.

use tweedie_data::Image;

/// The image at `width × height`: `height·width·3` values in `0..=255`, in the layout of [`Image::pixels`].
pub fn bicubic(image: &Image, width: usize, height: usize) -> Vec<f32> {
    let narrow = if image.width == width {
        image.pixels.iter().map(|v| f32::from(*v)).collect()
    } else {
        let across = taps(image.width, width);
        let mut narrow = Vec::with_capacity(image.height * width * 3);
        for row in image.pixels.chunks_exact(3 * image.width.max(1)) {
            for (first, weights) in &across {
                for channel in 0..3 {
                    let value = |(i, w): (usize, &f64)| f64::from(row[3 * (first + i) + channel]) * w;
                    narrow.push(sum(weights.iter().enumerate().map(value)));
                }
            }
        }
        narrow
    };
    let line = 3 * width;
    let mut out = Vec::with_capacity(height * line);
    // At its own size a picture stays as it is.
    let down = if image.height == height { Vec::new() } else { taps(image.height, height) };
    if down.is_empty() {
        out.extend(narrow.iter().map(|v| v.clamp(0.0, 255.0)));
    }
    for (first, weights) in &down {
        for at in 0..line {
            let value = |(i, w): (usize, &f64)| f64::from(narrow[(first + i) * line + at]) * w;
            out.push(sum(weights.iter().enumerate().map(value)).clamp(0.0, 255.0));
        }
    }
    out
}

fn sum(values: impl Iterator<Item = f64>) -> f32 {
    values.fold(0.0, |sum, v| sum + v) as f32
}

/// For each of `to` samples, the first contributing one of the `from` samples, and the weights.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let (support, squeeze) = (2.0 * stretch, 1.0 / stretch);
    let tap = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        // Casts truncate towards zero, and clamp negative values to zero.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let raw: Vec<f64> =
            (0..end - first).map(|x| cubic(((x + first) as f64 - center + 0.5) * squeeze)).collect();
        let total: f64 = raw.iter().sum();
        (first, raw.iter().map(|w| if total == 0.0 { *w } else { w / total }).collect())
    };
    (0..to).map(tap).collect()
}

/// Keys' cubic with `a = -1/2`.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

/// Values `[3, side, side]` in `-1..=1` of the image resized to `side × side`.
pub(super) fn planes(image: &Image, side: usize) -> Vec<f32> {
    let values = bicubic(image, side, side);
    (0..3).flat_map(|c| values.iter().skip(c).step_by(3)).map(|v| 2.0 * (v / 255.0) - 1.0).collect()
}
