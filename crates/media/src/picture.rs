//! An image with the channels and the depth of its file, so that editing one part leaves every other value as it was.

use std::path::Path;

use png::{BitDepth, ColorType, Encoder};

use crate::{Image, MediaError, Rgb, png::KEYWORD, store};

/// Bits per value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 8 bits.
    Eight,
    /// 16 bits.
    Sixteen,
}

impl Depth {
    /// The largest value.
    pub fn most(self) -> u16 {
        match self {
            Self::Eight => u8::MAX.into(),
            Self::Sixteen => u16::MAX,
        }
    }
}

/// An image of 1 to 4 channels and 8 or 16 bits, as PNG files store it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    channels: usize,
    depth: Depth,
    values: Vec<u16>,
}

impl From<&Image> for Picture {
    /// Of three channels of 8 bits.
    fn from(image: &Image) -> Self {
        let values = image.pixels.iter().map(|v| u16::from(*v)).collect();
        Self { height: image.height, width: image.width, channels: 3, depth: Depth::Eight, values }
    }
}

impl Picture {
    /// The picture with `values`, pixel by pixel in rows from the top. 1 channel is grey, 3 are red, green and blue, and
    /// opacity follows with 2 or 4.
    ///
    /// # Errors
    /// If it has no pixels, other channels, another number of values, or a value above the depth's largest.
    pub fn new(
        [height, width, channels]: [usize; 3],
        depth: Depth,
        values: Vec<u16>,
    ) -> Result<Self, String> {
        if !(1..=4).contains(&channels) {
            return Err(format!("{channels} channels, expected 1 to 4"));
        }
        let expected = height.checked_mul(width).and_then(|area| area.checked_mul(channels));
        if expected != Some(values.len()) || values.is_empty() {
            let found = values.len();
            return Err(format!("{found} values for {channels} channels of {width}×{height} pixels"));
        }
        match values.iter().find(|v| **v > depth.most()) {
            Some(value) => Err(format!("{value}: expected at most {}", depth.most())),
            None => Ok(Self { width, height, channels, depth, values }),
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of channels, with opacity.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Bits per value.
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// Number of channels without opacity: 1 or 3.
    pub fn colors(&self) -> usize {
        if self.channels < 3 { 1 } else { 3 }
    }

    /// Whether pixels have an opacity.
    pub fn has_alpha(&self) -> bool {
        self.channels.is_multiple_of(2)
    }

    /// The values, pixel by pixel.
    pub fn values(&self) -> &[u16] {
        &self.values
    }

    /// The values of pixel number `i`, counted row by row.
    ///
    /// # Panics
    /// If there is no such pixel.
    pub fn pixel(&self, i: usize) -> &[u16] {
        &self.values[i * self.channels..(i + 1) * self.channels]
    }

    /// The values of pixel number `i`, to be changed.
    ///
    /// # Panics
    /// If there is no such pixel.
    pub fn pixel_mut(&mut self, i: usize) -> &mut [u16] {
        &mut self.values[i * self.channels..(i + 1) * self.channels]
    }

    /// Opacity of pixel number `i`, in `0..=1`.
    pub fn opacity(&self, i: usize) -> f32 {
        match self.has_alpha() {
            true => f32::from(self.pixel(i)[self.channels - 1]) / f32::from(self.depth.most()),
            false => 1.0,
        }
    }

    /// Whether some pixel is not opaque.
    pub fn is_transparent(&self) -> bool {
        self.has_alpha()
            && self.values.chunks_exact(self.channels).any(|p| p[p.len() - 1] < self.depth.most())
    }

    /// Red, green and blue of pixel number `i` on a background, in `-1..=1`.
    pub fn color(&self, i: usize, background: Rgb) -> [f32; 3] {
        let (pixel, most, a) = (self.pixel(i), f32::from(self.depth.most()), self.opacity(i));
        std::array::from_fn(|c| {
            let own = f32::from(pixel[if self.colors() == 1 { 0 } else { c }]) / most;
            let under = f32::from(background.0[c]) / 255.0;
            2.0 * (a * own + (1.0 - a) * under) - 1.0
        })
    }

    /// The value of this depth for `v` in `-1..=1`; values outside are clamped.
    pub fn level(&self, v: f32) -> u16 {
        let most = f64::from(self.depth.most());
        ((f64::from(v) + 1.0) / 2.0 * most).round().clamp(0.0, most) as u16
    }

    /// The picture with 8 bits on a background.
    pub fn to_image(&self, background: Rgb) -> Image {
        let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let pixels =
            (0..self.width * self.height).flat_map(|i| self.color(i, background).map(byte)).collect();
        Image { width: self.width, height: self.height, pixels }
    }

    /// Writes a PNG. A `text` is stored like that of [`write_png`](crate::write_png). On failure `path` is unchanged.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save_png(&self, path: &Path, text: Option<&str>) -> Result<(), MediaError> {
        let bytes = self.encode(text).map_err(|e| MediaError::format(path, e))?;
        store(path, &bytes)
    }

    fn encode(&self, text: Option<&str>) -> Result<Vec<u8>, png::EncodingError> {
        let side = |n: usize| u32::try_from(n).unwrap_or(0);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, side(self.width), side(self.height));
        encoder.set_color(match self.channels {
            1 => ColorType::Grayscale,
            2 => ColorType::GrayscaleAlpha,
            3 => ColorType::Rgb,
            _ => ColorType::Rgba,
        });
        encoder.set_depth(match self.depth {
            Depth::Eight => BitDepth::Eight,
            Depth::Sixteen => BitDepth::Sixteen,
        });
        if let Some(text) = text {
            encoder.add_itxt_chunk(KEYWORD.into(), text.into())?;
        }
        // 16-bit values have the high byte first.
        let data: Vec<u8> = match self.depth {
            Depth::Eight => self.values.iter().map(|v| *v as u8).collect(),
            Depth::Sixteen => self.values.iter().flat_map(|v| v.to_be_bytes()).collect(),
        };
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&data)?;
        writer.finish()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_are_composed_on_the_background() {
        let grey = Picture::new([1, 2, 2], Depth::Eight, vec![255, 255, 0, 51]).unwrap();
        assert!(grey.has_alpha() && grey.is_transparent() && grey.colors() == 1);
        let image = grey.to_image(Rgb([255, 0, 100]));
        assert_eq!(image.pixels, [255, 255, 255, 204, 0, 80]);
        let deep = Picture::new([1, 1, 3], Depth::Sixteen, vec![0, 65535, 32768]).unwrap();
        assert_eq!(deep.to_image(Rgb([9; 3])).pixels, [0, 255, 128]);
        assert_eq!((deep.level(-3.0), deep.level(1.0), deep.level(0.0)), (0, 65535, 32768));
    }

    #[test]
    fn values_that_are_no_picture_are_rejected() {
        for (dims, depth, values) in [
            ([1, 1, 5], Depth::Eight, vec![0; 5]),
            ([2, 2, 1], Depth::Eight, vec![0; 3]),
            ([0, 2, 1], Depth::Eight, vec![]),
            ([1, 1, 1], Depth::Eight, vec![256]),
        ] {
            assert!(Picture::new(dims, depth, values).is_err(), "{dims:?}");
        }
    }
}
