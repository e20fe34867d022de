//! Processes an image in overlapping tiles and blends the results.

use burn::tensor::Tensor;
use tweedie_ops::{from_host, to_host};

use crate::network::InputError;

/// How to cut tiles. Neighbours are blended linearly over their overlap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiles {
    /// Height and width of a tile in pixels of the latents.
    pub latents: usize,
    /// The fraction of a tile that it shares with the next, in 0..1.
    pub overlap: f64,
}

impl Tiles {
    /// Tiles of `latents` pixels that overlap by a quarter.
    pub fn new(latents: usize) -> Self {
        Self { latents: latents.max(1), overlap: 0.25 }
    }

    /// Applies `f` to the tiles of `x: [B, C, H, W]`. The size of the result is `out_of.0 / out_of.1` times that of `x`; one
    /// of the two is 1.
    pub(crate) fn map(
        self,
        x: Tensor<4>,
        (up, down): (usize, usize),
        f: &mut dyn FnMut(Tensor<4>) -> Result<Tensor<4>, InputError>,
    ) -> Result<Tensor<4>, InputError> {
        let [_, _, height, width] = x.dims();
        let tile = self.latents * down;
        if height <= tile && width <= tile {
            return f(x);
        }
        let overlap = self.overlap.clamp(0.0, 0.5);
        // An integer number of pixels in both input and output.
        let step = ((self.latents as f64 * (1.0 - overlap)) as usize).max(1) * down;
        let blend = (tile - step) * up / down;
        let device = x.device();
        let mut out: Option<Canvas> = None;
        for top in starts(height, tile, step) {
            let rows = x.clone().narrow(2, top, tile.min(height - top));
            let mut strip: Option<Canvas> = None;
            for left in starts(width, tile, step) {
                let y = f(rows.clone().narrow(3, left, tile.min(width - left)))?;
                let shape @ [b, c, h, _] = y.dims();
                let strip = strip.get_or_insert_with(|| Canvas::new([b, c, h, width * up / down]));
                strip.paint(&to_host(y), shape, [0, left * up / down], blend);
            }
            if let Some(Canvas { values, shape }) = strip {
                let [b, c, _, w] = shape;
                let out = out.get_or_insert_with(|| Canvas::new([b, c, height * up / down, w]));
                out.paint(&values, shape, [top * up / down, 0], blend);
            }
        }
        match out {
            Some(Canvas { values, shape }) => Ok(from_host(values, shape, &device)),
            None => Err(InputError("the image is empty".into())),
        }
    }
}

/// Where tiles start; the last one reaches the end.
fn starts(length: usize, tile: usize, step: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(step).take_while(move |start| *start == 0 || start + tile < length + step)
}

struct Canvas {
    values: Vec<f32>,
    shape: [usize; 4],
}

impl Canvas {
    fn new(shape: [usize; 4]) -> Self {
        Self { values: vec![0.0; shape.iter().product()], shape }
    }

    /// Blends a tile over the existing pixels; its first `blend` rows and columns fade in, except at the edge.
    fn paint(&mut self, tile: &[f32], [b, c, h, w]: [usize; 4], [top, left]: [usize; 2], blend: usize) {
        let [_, _, height, width] = self.shape;
        let fade = |at: usize, start: usize| match start {
            0 => 1.0,
            _ if at >= blend => 1.0,
            _ => at as f32 / blend as f32,
        };
        for plane in 0..b * c {
            for y in 0..h.min(height - top) {
                let vertical = fade(y, top);
                let from = &tile[(plane * h + y) * w..][..w.min(width - left)];
                let to = &mut self.values[(plane * height + top + y) * width + left..][..from.len()];
                for (x, (to, from)) in to.iter_mut().zip(from).enumerate() {
                    let weight = vertical * fade(x, left);
                    *to += weight * (from - *to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// A function that does not mix pixels gives the same result with and without tiles, as weights sum to 1.
    #[test]
    fn weights_add_up() {
        let values: Vec<f32> = (0..2 * 19 * 26).map(|i| (i as f32 * 0.37).sin()).collect();
        let x = from_host(values, [1, 2, 19, 26], &Device::flex());
        for latents in [4, 7, 16, 40] {
            let mut calls = 0;
            let y = Tiles::new(latents).map(x.clone(), (2, 1), &mut |tile| {
                calls += 1;
                let [_, _, h, w] = tile.dims();
                assert!(h <= latents.max(1) && w <= latents || latents == 40);
                Ok(tweedie_ops::upsample_nearest2d(tile, [2 * h, 2 * w]))
            });
            let whole = to_host(tweedie_ops::upsample_nearest2d(x.clone(), [38, 52]));
            for (a, b) in to_host(y.unwrap()).iter().zip(&whole) {
                assert!((a - b).abs() < 1e-6, "{latents}: {a} {b}");
            }
            assert_eq!(calls == 1, latents == 40);
        }
    }

    #[test]
    fn the_last_tile_reaches_the_end_and_none_is_superfluous() {
        let list = |length, tile, step| starts(length, tile, step).collect::<Vec<_>>();
        assert_eq!(list(28, 16, 12), [0, 12]);
        assert_eq!(list(29, 16, 12), [0, 12, 24]);
        assert_eq!(list(16, 16, 12), [0]);
        assert_eq!(list(3, 16, 12), [0]);
    }
}
