//! Draws a sprite at any position, size and angle.

use std::sync::{Arc, LazyLock};

use tweedie_media::Image;

use super::{Pose, THINGS};
use crate::{decode, emoji};

/// The artwork of a thing, with colours times opacity, `[side, side, 4]` in `0..=1`.
pub(super) struct Sprite {
    side: usize,
    values: Vec<[f32; 4]>,
}

impl Sprite {
    pub(super) fn of(thing: usize) -> Arc<Self> {
        static ALL: LazyLock<Vec<Arc<Sprite>>> =
            LazyLock::new(|| THINGS.iter().map(|thing| Arc::new(Sprite::load(thing.emoji))).collect());
        ALL[thing % THINGS.len()].clone()
    }

    fn load(emoji: &str) -> Self {
        let raster = emoji::artwork(emoji).and_then(|bytes| decode::bytes(bytes).ok());
        let raster = raster.expect("the built-in artwork, which a test decodes");
        let value = |p: &[u8]| {
            let alpha = f32::from(p[3]) / 255.0;
            [0, 1, 2, 3].map(|c| if c == 3 { alpha } else { alpha * f32::from(p[c]) / 255.0 })
        };
        Self { side: raster.width, values: raster.rgba.chunks_exact(4).map(value).collect() }
    }

    /// Colour and opacity at `(u, v)` in `0..1`, between pixels linear, outside transparent.
    fn read(&self, u: f64, v: f64) -> [f32; 4] {
        let side = self.side as f64;
        let (x, y) = (u * side - 0.5, v * side - 0.5);
        let (left, top) = (x.floor(), y.floor());
        let (fx, fy) = ((x - left) as f32, (y - top) as f32);
        let mut sum = [0.0; 4];
        for (dx, dy, weight) in [
            (0, 0, (1.0 - fx) * (1.0 - fy)),
            (1, 0, fx * (1.0 - fy)),
            (0, 1, (1.0 - fx) * fy),
            (1, 1, fx * fy),
        ] {
            let (column, row) = (left as i64 + dx, top as i64 + dy);
            let inside = |n: i64| (0..self.side as i64).contains(&n);
            if inside(column) && inside(row) {
                let value = &self.values[row as usize * self.side + column as usize];
                (0..4).for_each(|c| sum[c] += weight * value[c]);
            }
        }
        sum
    }
}

/// Most points along a side of a pixel: for clips, and for comparisons.
pub(super) const FINE: usize = 16;
pub(super) const COARSE: usize = 2;

/// Draws a thing on `image`: each pixel is the mean over a grid of points in it that is finer than the artwork, of at most
/// `most` points along a side.
pub(super) fn draw(image: &mut Image, sprite: &Sprite, pose: &Pose, most: usize) {
    let (width, height) = (image.width as f64, image.height as f64);
    let side = pose.size * width;
    if !pose.visible || side <= 0.0 {
        return;
    }
    let points = ((1.5 * sprite.side as f64 / side).ceil() as usize).clamp(2, most);
    let (sin, cos) = pose.angle.sin_cos();
    let (x, y) = (pose.x * width, pose.y * height);
    let reach = side / 2.0 * (sin.abs() + cos.abs()) + 1.0;
    let span = |centre: f64, most: f64| {
        let clamp = |v: f64| v.clamp(0.0, most) as usize;
        clamp((centre - reach).floor())..clamp((centre + reach).ceil())
    };
    let share = 1.0 / (points * points) as f32;
    for row in span(y, height) {
        for column in span(x, width) {
            let mut sum = [0.0f32; 4];
            for i in 0..points * points {
                let offset = |n: usize| (n as f64 + 0.5) / points as f64;
                let dx = column as f64 + offset(i % points) - x;
                let dy = row as f64 + offset(i / points) - y;
                let (u, v) = ((cos * dx + sin * dy) / side + 0.5, (cos * dy - sin * dx) / side + 0.5);
                let value = sprite.read(u, v);
                (0..4).for_each(|c| sum[c] += share * value[c]);
            }
            let at = 3 * (row * image.width + column);
            for (c, pixel) in image.pixels[at..at + 3].iter_mut().enumerate() {
                let mixed = f32::from(*pixel) * (1.0 - sum[3]) + 255.0 * sum[c];
                *pixel = mixed.round().clamp(0.0, 255.0) as u8;
            }
        }
    }
}
