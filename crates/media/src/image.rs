//! The in-memory image: 8-bit RGB.

use std::path::Path;

use crate::{MediaError, Rgb, png, size, store};

/// An sRGB image with 8 bits per channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `height * width * 3` values: rows from the top, pixels from the left, red, green, blue.
    pub pixels: Vec<u8>,
}

impl Image {
    /// An image of a single colour.
    pub fn filled(width: usize, height: usize, color: Rgb) -> Self {
        Self { width, height, pixels: color.0.repeat(width * height) }
    }

    /// Converts values `[3, height, width]` in `[-1, 1]`; values outside are clamped and NaN becomes black.
    ///
    /// # Panics
    /// If `planes` does not have `3 * width * height` values.
    pub fn from_planes(width: usize, height: usize, planes: &[f32]) -> Self {
        let area = width * height;
        assert_eq!(planes.len(), 3 * area, "three planes of {width}x{height}");
        let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let pixels = (0..area).flat_map(|i| [0, 1, 2].map(|c| byte(planes[c * area + i]))).collect();
        Self { width, height, pixels }
    }

    /// Converts to values `[3, height, width]` in `[-1, 1]`: `v / 127.5 - 1`.
    pub fn to_planes(&self) -> Vec<f32> {
        let plane = |c| self.pixels.iter().skip(c).step_by(3).map(|&v| f32::from(v) / 127.5 - 1.0);
        plane(0).chain(plane(1)).chain(plane(2)).collect()
    }

    /// The same with 3 channels, or with 1, their mean. `None` for another number of channels.
    pub fn planes_of(&self, channels: usize) -> Option<Vec<f32>> {
        let values = self.to_planes();
        let area = self.width * self.height;
        let mean = |i| (values[i] + values[area + i] + values[2 * area + i]) / 3.0;
        match channels {
            1 => Some((0..area).map(mean).collect()),
            3 => Some(values),
            _ => None,
        }
    }

    /// The colour at column `x` and row `y`.
    ///
    /// # Panics
    /// If the position is outside the image.
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        assert!(x < self.width && y < self.height, "pixel ({x}, {y}) of {}x{}", self.width, self.height);
        let i = 3 * (y * self.width + x);
        [self.pixels[i], self.pixels[i + 1], self.pixels[i + 2]]
    }

    /// Whether no pixel has a colour.
    pub fn is_grey(&self) -> bool {
        self.pixels.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2])
    }

    /// Encodes as PNG; errors name `path`.
    ///
    /// # Errors
    /// For an image without pixels.
    pub fn to_png(&self, path: &Path) -> Result<Vec<u8>, MediaError> {
        let sides = size(path, self, i32::MAX as u32)?;
        png::encode(self, sides, None).map_err(|e| MediaError::format(path, e))
    }

    /// Writes a PNG. On failure `path` is unchanged.
    ///
    /// # Errors
    /// Names the path.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<(), MediaError> {
        let path = path.as_ref();
        store(path, &self.to_png(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_round_trip_every_value() {
        let pixels: Vec<u8> = (0..=254).chain(1..=255).chain([0; 2]).collect();
        let image = Image { width: 4, height: 43, pixels: pixels.into_iter().cycle().take(516).collect() };
        let planes = image.to_planes();
        assert!(planes.iter().all(|v| (-1.0..=1.0).contains(v)));
        assert_eq!(Image::from_planes(4, 43, &planes), image);
        assert_eq!(Image::from_planes(1, 1, &[f32::NAN, 9.0, -9.0]).pixels, [0, 255, 0]);
    }

    #[test]
    fn png_is_written_completely_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::filled(3, 2, Rgb([1, 2, 3]));
        let path = dir.path().join("a.png");
        image.save_png(&path).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = ::png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, image.pixels);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = image.save_png(dir.path().join("none/a.png")).unwrap_err();
        assert!(error.to_string().contains("none/a.png"), "{error}");
        let empty = Image { width: 0, height: 0, pixels: vec![] };
        assert!(empty.save_png(dir.path().join("b.png")).is_err());
    }
}
