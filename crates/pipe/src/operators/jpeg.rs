//! JPEG compression with 4:2:0 chroma, as libjpeg and Pillow write it by default.
//!
//! The measurement is the decompressed image. Its coefficients are rounded; the gradient is that of Shin & Song's rounding
//! `⌊x⌉ + (x − ⌊x⌉)³` (2017, "JPEG-resistant adversarial images"), which agrees at integers.

use super::Operator;

/// Compresses and decompresses images `[3, H, W]` in `-1..=1`, or grey ones `[1, H, W]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Jpeg {
    dims: [usize; 3],
    tables: [[f64; 64]; 2],
}

/// Annex K of the standard, in rows.
const LUMA: [u8; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17,
    22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78,
    87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
const CHROMA: [u8; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// JFIF's conversion: rows are Y, Cb and Cr.
const YCC: [[f64; 3]; 3] =
    [[0.299, 0.587, 0.114], [-0.168_735_892, -0.331_264_108, 0.5], [0.5, -0.418_687_589, -0.081_312_411]];
/// Its inverse.
const RGB: [[f64; 3]; 3] = [[1.0, 0.0, 1.402], [1.0, -0.344_136_286, -0.714_136_286], [1.0, 1.772, 0.0]];

impl Jpeg {
    /// Compression with libjpeg's `quality`, 1 to 100.
    ///
    /// # Errors
    /// If the quality is out of range, or images do not have 1 or 3 channels.
    pub fn new(dims: [usize; 3], quality: u8) -> Result<Self, String> {
        if !(1..=100).contains(&quality) {
            return Err(format!("{quality}: expected a value from 1 to 100"));
        }
        if !matches!(dims[0], 1 | 3) {
            return Err(format!("samples of {} channels: expected 1 or 3", dims[0]));
        }
        let quality = u32::from(quality);
        let scale = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
        let scaled = |v: u8| f64::from(((u32::from(v) * scale + 50) / 100).clamp(1, 255));
        Ok(Self { dims, tables: [LUMA.map(scaled), CHROMA.map(scaled)] })
    }

    /// The differentiable approximation of [`Operator::apply`], whose Jacobian [`Operator::pull`] transposes.
    pub fn soft(&self, x: &[f64]) -> Vec<f64> {
        let mut planes = self.planes(x);
        self.with_coefficients(&mut planes, |_, _, c| c.round() + (c - c.round()).powi(3));
        self.image(&planes, 0.5)
    }

    fn is_grey(&self) -> bool {
        self.dims[0] == 1
    }

    /// The planes of luma and chroma around 0, each padded to whole blocks: `(values, height, width)`.
    fn planes(&self, x: &[f64]) -> Vec<Plane> {
        let [_, height, width] = self.dims;
        let area = height * width;
        if self.is_grey() {
            return vec![Plane { height, width, values: x.iter().map(|v| v * 127.5 - 0.5).collect() }];
        }
        let mix = |row: [f64; 3], offset: f64| {
            let value = |i: usize| (0..3).map(|c| row[c] * x[c * area + i]).sum::<f64>() * 127.5 + offset;
            Plane { height, width, values: (0..area).map(value).collect() }
        };
        // A value v is the byte (v + 1)·127.5; bytes are shifted by 128.
        vec![mix(YCC[0], -0.5), mix(YCC[1], 0.0).halved(), mix(YCC[2], 0.0).halved()]
    }

    /// The inverse of [`Self::planes`], with nearest neighbours for the chroma. `offset` is that of luma.
    fn image(&self, planes: &[Plane], offset: f64) -> Vec<f64> {
        let [_, height, width] = self.dims;
        let luma = &planes[0].values;
        if self.is_grey() {
            return luma.iter().map(|v| (v + offset) / 127.5).collect();
        }
        let chroma: Vec<Vec<f64>> = planes[1..].iter().map(|p| p.doubled(height, width)).collect();
        let value = |c: usize, i: usize| {
            (RGB[c][0] * (luma[i] + offset) + RGB[c][1] * chroma[0][i] + RGB[c][2] * chroma[1][i]) / 127.5
        };
        (0..3).flat_map(|c| (0..height * width).map(move |i| (c, i))).map(|(c, i)| value(c, i)).collect()
    }

    fn table(&self, plane: usize) -> &[f64; 64] {
        &self.tables[usize::from(plane > 0)]
    }

    /// Changes every coefficient, divided by its step of the table.
    fn with_coefficients(&self, planes: &mut [Plane], mut f: impl FnMut(usize, usize, f64) -> f64) {
        for (number, plane) in planes.iter_mut().enumerate() {
            let table = *self.table(number);
            let mut index = 0;
            plane.each_block(|block| {
                let mut c = cosine(block, false);
                for (c, step) in c.iter_mut().zip(&table) {
                    *c = f(number, index, *c / step) * step;
                    index += 1;
                }
                *block = cosine(&c, true);
            });
        }
    }

    fn coefficients(&self, x: &[f64]) -> Vec<Vec<f64>> {
        let mut planes = self.planes(x);
        let mut all: Vec<Vec<f64>> = vec![Vec::new(); planes.len()];
        self.with_coefficients(&mut planes, |plane, _, c| {
            all[plane].push(c);
            c
        });
        all
    }
}

impl Operator for Jpeg {
    fn inputs(&self) -> usize {
        self.dims.iter().product()
    }

    fn outputs(&self) -> usize {
        self.inputs()
    }

    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let mut planes = self.planes(x);
        self.with_coefficients(&mut planes, |_, _, c| c.round());
        self.image(&planes, 0.5)
    }

    fn pull(&self, x: &[f64], v: &[f64]) -> Vec<f64> {
        let slopes = self.coefficients(x);
        let [_, height, width] = self.dims;
        let area = height * width;
        // The transposed steps of `apply` in reverse order.
        let mut planes = match self.is_grey() {
            true => vec![Plane { height, width, values: v.iter().map(|v| v / 127.5).collect() }],
            false => (0..3)
                .map(|k| {
                    let value = |i: usize| (0..3).map(|c| RGB[c][k] * v[c * area + i]).sum::<f64>() / 127.5;
                    let plane = Plane { height, width, values: (0..area).map(value).collect() };
                    if k == 0 { plane } else { plane.summed() }
                })
                .collect(),
        };
        // The transform is orthogonal, so its transpose is its inverse, and the table's steps cancel.
        self.with_transposed(&mut planes, |plane, i| {
            let c = slopes[plane][i];
            3.0 * (c - c.round()).powi(2)
        });
        if self.is_grey() {
            return planes[0].values.iter().map(|v| v * 127.5).collect();
        }
        let chroma: Vec<Vec<f64>> = planes[1..].iter().map(|p| p.spread(height, width)).collect();
        let value = |c: usize, i: usize| {
            (YCC[0][c] * planes[0].values[i] + YCC[1][c] * chroma[0][i] + YCC[2][c] * chroma[1][i]) * 127.5
        };
        (0..3).flat_map(|c| (0..area).map(move |i| (c, i))).map(|(c, i)| value(c, i)).collect()
    }

    /// Moves every coefficient into the interval that is rounded to that of `y`. Pixels that were clipped or rounded in
    /// the file make the intervals of some coefficients inexact by less than one step.
    fn consistent(&self, x: &[f64], y: &[f64]) -> Option<Vec<f64>> {
        let stored = self.coefficients(y);
        let mut planes = self.planes(x);
        let before = self.image(&planes, 0.5);
        self.with_coefficients(&mut planes, |plane, i, c| {
            let n = stored[plane][i].round();
            // Just inside, since both ends are rounded away from zero.
            c.clamp(n - 0.499, n + 0.499)
        });
        // Fine chroma, which the file does not contain, stays that of the sample.
        let after = self.image(&planes, 0.5);
        Some((0..x.len()).map(|i| x[i] + after[i] - before[i]).collect())
    }
}

impl Jpeg {
    /// Like [`Self::with_coefficients`] with factors, for the transpose: padding is summed into the border.
    fn with_transposed(&self, planes: &mut [Plane], f: impl Fn(usize, usize) -> f64) {
        for (number, plane) in planes.iter_mut().enumerate() {
            let mut index = 0;
            plane.each_block_transposed(|block| {
                let mut c = cosine(block, false);
                for c in &mut c {
                    *c *= f(number, index);
                    index += 1;
                }
                *block = cosine(&c, true);
            });
        }
    }
}

#[derive(Clone, Debug)]
struct Plane {
    height: usize,
    width: usize,
    values: Vec<f64>,
}

impl Plane {
    /// Calls `f` for blocks of 8×8 values, which continue the border beyond it, and stores what is inside.
    fn each_block(&mut self, mut f: impl FnMut(&mut [f64; 64])) {
        self.blocks(|plane, [top, left]| {
            let mut block = [0.0; 64];
            for (k, v) in block.iter_mut().enumerate() {
                *v = plane.values[plane.inside(top + k / 8, left + k % 8)];
            }
            f(&mut block);
            for (k, v) in block.iter().enumerate() {
                let (y, x) = (top + k / 8, left + k % 8);
                if y < plane.height && x < plane.width {
                    plane.values[y * plane.width + x] = *v;
                }
            }
        });
    }

    /// The transpose of [`Self::each_block`] for a symmetric `f`.
    fn each_block_transposed(&mut self, mut f: impl FnMut(&mut [f64; 64])) {
        let given = std::mem::replace(&mut self.values, vec![0.0; self.height * self.width]);
        self.blocks(|plane, [top, left]| {
            let mut block = [0.0; 64];
            for (k, v) in block.iter_mut().enumerate() {
                let (y, x) = (top + k / 8, left + k % 8);
                if y < plane.height && x < plane.width {
                    *v = given[y * plane.width + x];
                }
            }
            f(&mut block);
            for (k, v) in block.iter().enumerate() {
                let i = plane.inside(top + k / 8, left + k % 8);
                plane.values[i] += v;
            }
        });
    }

    fn blocks(&mut self, mut f: impl FnMut(&mut Self, [usize; 2])) {
        for top in (0..self.height).step_by(8) {
            for left in (0..self.width).step_by(8) {
                f(self, [top, left]);
            }
        }
    }

    fn inside(&self, y: usize, x: usize) -> usize {
        y.min(self.height - 1) * self.width + x.min(self.width - 1)
    }

    /// The sums of 2×2 values that lie in one chroma pixel, and their number.
    fn summed(&self) -> Self {
        let (height, width) = (self.height.div_ceil(2), self.width.div_ceil(2));
        let mut values = vec![0.0; height * width];
        for y in 0..self.height {
            for x in 0..self.width {
                values[y / 2 * width + x / 2] += self.values[y * self.width + x];
            }
        }
        Self { height, width, values }
    }

    /// The means of 2×2 values.
    fn halved(&self) -> Self {
        let mut half = self.summed();
        for y in 0..half.height {
            for x in 0..half.width {
                half.values[y * half.width + x] /= self.within(y, x);
            }
        }
        half
    }

    /// How many values lie in chroma pixel `(y, x)` of this plane.
    fn within(&self, y: usize, x: usize) -> f64 {
        let count = |n: usize, i: usize| (n - 2 * i).min(2);
        (count(self.height, y) * count(self.width, x)) as f64
    }

    /// Every value four times.
    fn doubled(&self, height: usize, width: usize) -> Vec<f64> {
        (0..height * width).map(|i| self.values[i / width / 2 * self.width + i % width / 2]).collect()
    }

    /// The transpose of [`Self::halved`].
    fn spread(&self, height: usize, width: usize) -> Vec<f64> {
        let full = Self { height, width, values: Vec::new() };
        let value = |i: usize| {
            let (y, x) = (i / width / 2, i % width / 2);
            self.values[y * self.width + x] / full.within(y, x)
        };
        (0..height * width).map(value).collect()
    }
}

/// The orthogonal cosine transform of 8×8 values, or its inverse.
fn cosine(block: &[f64; 64], back: bool) -> [f64; 64] {
    use std::sync::LazyLock;
    static BASIS: LazyLock<[[f64; 8]; 8]> = LazyLock::new(|| {
        std::array::from_fn(|k| {
            let scale = if k == 0 { 0.125f64.sqrt() } else { 0.5 };
            std::array::from_fn(|i| {
                scale * (std::f64::consts::PI * (2 * i + 1) as f64 * k as f64 / 16.0).cos()
            })
        })
    });
    let at = |k: usize, i: usize| if back { BASIS[i][k] } else { BASIS[k][i] };
    let mut half = [0.0; 64];
    for y in 0..8 {
        for k in 0..8 {
            half[y * 8 + k] = (0..8).map(|x| at(k, x) * block[y * 8 + x]).sum();
        }
    }
    let mut out = [0.0; 64];
    for k in 0..8 {
        for x in 0..8 {
            out[k * 8 + x] = (0..8).map(|y| at(k, y) * half[y * 8 + x]).sum();
        }
    }
    out
}
