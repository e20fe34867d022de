//! Resizing as diffusers does it for the encoder of images of Stable Video Diffusion (`_resize_with_antialiasing`): a Gaussian blur
//! that suits the reduction, then bicubic interpolation between pixels such that the corners stay corners.

/// Resizes images `[C, H, W]` to `to = [H, W]`, whatever their aspect ratio is.
///
/// # Panics
/// If `values` do not have the shape `dims`, or a side is 0.
pub(crate) fn squashed(values: &[f32], [channels, height, width]: [usize; 3], to: [usize; 2]) -> Vec<f32> {
    assert_eq!(values.len(), channels * height * width, "values of the given shape");
    let (down, across) = (Axis::new(height, to[0]), Axis::new(width, to[1]));
    let lines = |values: &[f32], width: usize, axis: &Axis| -> Vec<f32> {
        values.chunks_exact(width).flat_map(|line| axis.apply(line)).collect()
    };
    // Each direction as lines; the image is transposed in between.
    let wide = lines(values, width, &across);
    let turned = transposed(&wide, [channels, height, to[1]]);
    let small = lines(&turned, height, &down);
    transposed(&small, [channels, to[1], to[0]])
}

/// `[C, H, W]` as `[C, W, H]`.
fn transposed(values: &[f32], [channels, height, width]: [usize; 3]) -> Vec<f32> {
    let at = |c: usize, x: usize, y: usize| values[(c * height + y) * width + x];
    (0..channels).flat_map(|c| (0..width).flat_map(move |x| (0..height).map(move |y| at(c, x, y)))).collect()
}

/// Blurring and interpolating lines of one length.
struct Axis {
    from: usize,
    to: usize,
    /// An odd number of weights.
    kernel: Vec<f64>,
}

impl Axis {
    fn new(from: usize, to: usize) -> Self {
        let sigma = ((from as f64 / to as f64 - 1.0) / 2.0).max(0.001);
        let size = ((4.0 * sigma).max(3.0) as usize) | 1;
        let weight = |i: usize| (-((i as f64 - (size / 2) as f64) / sigma).powi(2) / 2.0).exp();
        let sum: f64 = (0..size).map(weight).sum();
        Self { from, to, kernel: (0..size).map(|i| weight(i) / sum).collect() }
    }

    fn apply(&self, line: &[f32]) -> Vec<f32> {
        let blurred: Vec<f64> = (0..self.from).map(|i| self.blurred(line, i)).collect();
        (0..self.to).map(|i| self.between(&blurred, i) as f32).collect()
    }

    /// What is beyond an end is mirrored at it.
    fn blurred(&self, line: &[f32], i: usize) -> f64 {
        let (half, last) = (self.kernel.len() / 2, self.from as isize - 1);
        let mirrored = |i: isize| match last {
            0 => 0,
            _ => {
                let at = i.rem_euclid(2 * last);
                at.min(2 * last - at) as usize
            }
        };
        let taps = self.kernel.iter().enumerate();
        taps.map(|(k, w)| w * f64::from(line[mirrored(i as isize + k as isize - half as isize)])).sum()
    }

    /// PyTorch's cubic convolution with `a` = −0.75; what is beyond an end is as at the end.
    fn between(&self, line: &[f64], i: usize) -> f64 {
        const A: f64 = -0.75;
        let place = match self.to {
            1 => 0.0,
            to => i as f64 * (self.from - 1) as f64 / (to - 1) as f64,
        };
        let (start, t) = (place.floor(), place - place.floor());
        let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
        let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
        let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
        let at = |k: usize| {
            let place = (start as isize + k as isize - 1).clamp(0, self.from as isize - 1);
            line[place as usize]
        };
        weights.iter().enumerate().map(|(k, w)| w * at(k)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: [([usize; 2], &[f32]); 2] = [
        (
            [2, 3],
            &[
                -0.324337, -0.0345, 0.265143, -0.024615, -0.058873, 0.133235, -0.142006, -0.081127, 0.120606,
                0.264467, -0.11059, 0.184337,
            ],
        ),
        (
            [8, 4],
            &[
                -0.666097, -0.344268, -0.144268, 0.177562, -0.307632, 0.050072, 0.250072, 0.607776,
                -0.095279, -0.037568, 0.162432, 0.098949, 0.332119, -0.332746, -0.132746, -0.038118,
                0.163714, -0.190242, 0.009758, 0.415293, -0.289575, 0.061754, 0.261754, 0.443409, 0.043972,
                -0.204788, -0.004788, -0.119426, 0.402438, -0.384268, -0.184268, 0.137562, -0.277562,
                0.044268, 0.244268, 0.566097, -0.107836, -0.135212, 0.064788, -0.049849, 0.353836, -0.401754,
                -0.201754, -0.020099, -0.002641, -0.149758, 0.050242, 0.455778, -0.30549, -0.007254,
                0.192746, 0.287373, 0.062155, -0.302432, -0.102432, -0.165916, 0.424177, -0.390072,
                -0.190072, 0.167631, 0.593903, 0.004268, 0.204268, 0.526097,
            ],
        ),
    ];

    /// `_resize_with_antialiasing` of diffusers 0.42.1 gave these values.
    #[test]
    fn values_are_those_of_diffusers() {
        let image: Vec<f32> = (0..2 * 7 * 10).map(|i| ((i * 37 % 101) as f32) / 50.0 - 1.0).collect();
        for (to, expected) in GOLDEN {
            let found = squashed(&image, [2, 7, 10], to);
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(expected) {
                assert!((f - e).abs() < 2e-6, "{to:?}: {f} {e}");
            }
        }
    }
}
