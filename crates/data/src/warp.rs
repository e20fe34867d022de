//! Affine image transformations.
//!
//! Each output pixel is sampled from the source with Catmull and Rom's interpolating cubic. Where the map shrinks the image,
//! a pixel averages 3x3 such samples, spread such that the additional variance matches the larger footprint. The spread
//! vanishes at scale one, so quality is continuous. This is cheaper than the wavelet filters of Karras et al. 2020
//! (arXiv:2006.06676), appendix B, and as sharp at the sizes used here.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Image, Rgb, resize::catmull_rom};

/// What is beyond an image's border: `"reflect"`, `"edge"` or a colour like `"#ffffff"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// The mirrored image, without repeating border pixels.
    #[default]
    Reflect,
    /// The nearest border pixel.
    Edge,
    /// A single colour.
    Color(Rgb),
}

impl Serialize for Padding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reflect => serializer.serialize_str("reflect"),
            Self::Edge => serializer.serialize_str("edge"),
            Self::Color(color) => color.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Padding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "reflect" => Ok(Self::Reflect),
            "edge" => Ok(Self::Edge),
            text => text.parse().map(Self::Color).map_err(|_: String| {
                serde::de::Error::custom(format!(
                    "unknown padding `{text}`: expected \"reflect\", \"edge\" or a colour like \"#ffffff\""
                ))
            }),
        }
    }
}

impl Padding {
    /// The index within `0..len` for `at`; `None` for the padding colour.
    fn resolve(self, at: i64, len: usize) -> Option<usize> {
        let len = len as i64;
        if (0..len).contains(&at) {
            return Some(at as usize);
        }
        match self {
            Self::Reflect if len == 1 => Some(0),
            Self::Reflect => {
                let folded = at.rem_euclid(2 * len - 2);
                Some(folded.min(2 * len - 2 - folded) as usize)
            }
            Self::Edge => Some(at.clamp(0, len - 1) as usize),
            Self::Color(_) => None,
        }
    }

    fn color(self) -> [f32; 3] {
        match self {
            Self::Color(Rgb(color)) => color.map(f32::from),
            _ => [0.0; 3],
        }
    }
}

/// The map from output to source coordinates, both in pixels from the image's centre:
/// `source = linear * output + shift`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    pub linear: [[f64; 2]; 2],
    pub shift: [f64; 2],
}

impl Affine {
    pub const IDENTITY: Self = Self { linear: [[1.0, 0.0], [0.0, 1.0]], shift: [0.0, 0.0] };

    pub fn scale(x: f64, y: f64) -> Self {
        Self { linear: [[x, 0.0], [0.0, y]], ..Self::IDENTITY }
    }

    pub fn rotation(angle: f64) -> Self {
        let (sin, cos) = angle.sin_cos();
        Self { linear: [[cos, -sin], [sin, cos]], ..Self::IDENTITY }
    }

    pub fn translation(x: f64, y: f64) -> Self {
        Self { shift: [x, y], ..Self::IDENTITY }
    }

    /// Composition: first `inner`, then `self`.
    pub fn after(self, inner: Self) -> Self {
        let [[a, b], [c, d]] = self.linear;
        let [[e, f], [g, h]] = inner.linear;
        let [x, y] = inner.shift;
        Self {
            linear: [[a * e + b * g, a * f + b * h], [c * e + d * g, c * f + d * h]],
            shift: [a * x + b * y + self.shift[0], c * x + d * y + self.shift[1]],
        }
    }

    fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [[a, b], [c, d]] = self.linear;
        [a * x + b * y + self.shift[0], c * x + d * y + self.shift[1]]
    }

    /// Whether the map only mirrors and shifts by whole pixels.
    fn is_on_grid(&self) -> bool {
        let [[a, b], [c, d]] = self.linear;
        a.abs() == 1.0
            && d.abs() == 1.0
            && b == 0.0
            && c == 0.0
            && self.shift.iter().all(|s| s.fract() == 0.0)
    }
}

/// The image transformed by `map`: values `[3, height, width]` in `[-1, 1]`. Maps that only mirror or shift by whole pixels
/// copy values exactly.
pub(crate) fn warp(image: &Image, map: &Affine, padding: Padding) -> Vec<f32> {
    if *map == Affine::IDENTITY {
        return image.to_planes();
    }
    let (width, height) = (image.width, image.height);
    let center = [width as f64 / 2.0 - 0.5, height as f64 / 2.0 - 0.5];
    let source = |x: f64, y: f64| {
        let [u, v] = map.apply([x - center[0], y - center[1]]);
        [u + center[0], v + center[1]]
    };
    let area = width * height;
    let mut planes = vec![0.0; 3 * area];
    if map.is_on_grid() {
        for i in 0..area {
            let [u, v] = source((i % width) as f64, (i / width) as f64);
            let value =
                pixel(image, padding.resolve(u as i64, width), padding.resolve(v as i64, height), padding);
            (0..3).for_each(|c| planes[c * area + i] = value[c] / 127.5 - 1.0);
        }
        return planes;
    }
    let offsets = footprint(map);
    for i in 0..area {
        let mut sum = [0.0; 3];
        for [dx, dy] in &offsets {
            let at = source((i % width) as f64 + dx, (i / width) as f64 + dy);
            let value = read(image, at, padding);
            (0..3).for_each(|c| sum[c] += value[c]);
        }
        for c in 0..3 {
            let mean = sum[c] / offsets.len() as f32;
            planes[c * area + i] = mean.clamp(0.0, 255.0) / 127.5 - 1.0;
        }
    }
    planes
}

/// Offsets of the samples of a pixel, in output pixels from its centre. Three equal samples at `-d, 0, d` have the
/// variance `2 d^2 / 3`; a step of `s` source pixels lacks `(s^2 - 1) / 12` of a box's `s^2 / 12`.
fn footprint(map: &Affine) -> Vec<[f64; 2]> {
    let [[a, b], [c, d]] = map.linear;
    let spread = |step: f64| if step > 1.0 { ((step * step - 1.0) / 8.0).sqrt() / step } else { 0.0 };
    let (x, y) = (spread(a.hypot(c)), spread(b.hypot(d)));
    let along = |d: f64| if d > 0.0 { vec![-d, 0.0, d] } else { vec![0.0] };
    along(y).iter().flat_map(|&dy| along(x).into_iter().map(move |dx| [dx, dy])).collect()
}

fn pixel(image: &Image, column: Option<usize>, row: Option<usize>, padding: Padding) -> [f32; 3] {
    match (column, row) {
        (Some(x), Some(y)) => {
            let i = 3 * (y * image.width + x);
            [0, 1, 2].map(|c| f32::from(image.pixels[i + c]))
        }
        _ => padding.color(),
    }
}

fn read(image: &Image, [u, v]: [f64; 2], padding: Padding) -> [f32; 3] {
    let (left, top) = (u.floor(), v.floor());
    let weights = |t: f64| [-1.0, 0.0, 1.0, 2.0].map(|k| catmull_rom(t - k) as f32);
    let (across, down) = (weights(u - left), weights(v - top));
    let columns = [-1, 0, 1, 2].map(|k| padding.resolve(left as i64 + k, image.width));
    let rows = [-1, 0, 1, 2].map(|k| padding.resolve(top as i64 + k, image.height));
    let mut sum = [0.0; 3];
    for (row, wy) in rows.into_iter().zip(down) {
        for (column, wx) in columns.into_iter().zip(across) {
            let weight = wx * wy;
            if weight != 0.0 {
                let value = pixel(image, column, row, padding);
                (0..3).for_each(|c| sum[c] += weight * value[c]);
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> Image {
        Image { width, height, pixels: (0..3 * width * height).map(|i| (i * 89 % 251) as u8).collect() }
    }

    fn shown(image: &Image, map: Affine, padding: Padding) -> Image {
        Image::from_planes(image.width, image.height, &warp(image, &map, padding))
    }

    #[test]
    fn mirrors_and_whole_steps_copy_exactly() {
        for (w, h) in [(8, 8), (7, 5), (1, 4)] {
            let image = picture(w, h);
            let flipped = shown(&image, Affine::scale(-1.0, 1.0), Padding::Edge);
            let turned = shown(&image, Affine::scale(-1.0, -1.0), Padding::Edge);
            let moved = shown(&image, Affine::translation(2.0, -1.0), Padding::Color(Rgb([9, 8, 7])));
            for (x, y) in (0..w * h).map(|i| (i % w, i / w)) {
                assert_eq!(flipped.pixel(x, y), image.pixel(w - 1 - x, y));
                assert_eq!(turned.pixel(x, y), image.pixel(w - 1 - x, h - 1 - y));
                let want = if x + 2 < w && y >= 1 { image.pixel(x + 2, y - 1) } else { [9, 8, 7] };
                assert_eq!(moved.pixel(x, y), want);
            }
        }
    }

    #[test]
    fn paddings() {
        let at = |padding: Padding| (-3..=5).map(|i| padding.resolve(i, 3)).collect::<Vec<_>>();
        assert_eq!(at(Padding::Reflect), [1, 2, 1, 0, 1, 2, 1, 0, 1].map(Some));
        assert_eq!(at(Padding::Edge), [0, 0, 0, 0, 1, 2, 2, 2, 2].map(Some));
        assert_eq!(at(Padding::Color(Rgb([0; 3])))[..4], [None, None, None, Some(0)]);
        assert_eq!(Padding::Reflect.resolve(-7, 1), Some(0));
    }

    #[test]
    fn four_quarter_turns_and_their_undoing() {
        let image = picture(9, 9);
        let quarter = Affine::rotation(std::f64::consts::FRAC_PI_2);
        let once = shown(&image, quarter, Padding::Edge);
        assert_eq!(once.pixel(0, 0), image.pixel(8, 0));
        let four = (0..4).fold(image.clone(), |i, _| shown(&i, quarter, Padding::Edge));
        assert_eq!(four, image);
        let map = Affine::rotation(0.7).after(Affine::scale(1.3, 0.8)).after(Affine::translation(1.0, 2.0));
        let [x, y] = map.apply([3.0, -1.0]);
        let (s, c) = 0.7_f64.sin_cos();
        assert!((x - (c * 5.2 - s * 0.8)).abs() < 1e-12 && (y - (s * 5.2 + c * 0.8)).abs() < 1e-12);
    }

    #[test]
    fn shrinking_does_not_alias() {
        let stripes = Image {
            width: 32,
            height: 32,
            pixels: (0..32 * 32).flat_map(|i| [255 * (i % 2) as u8; 3]).collect(),
        };
        let planes = warp(&stripes, &Affine::scale(2.2, 2.2), Padding::Reflect);
        let worst = planes.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(worst < 0.45, "stripes finer than a pixel fade to grey: {worst}");
    }
}
