//! Converts a decoded raster with transparency to a square image on a background.
//!
//! Transparent pixels are composed on the background first, with sRGB values like every viewer, so that resampling only
//! sees opaque colours and there are no fringes. Resampling averages light: it works on linear values, with filters that
//! have no negative lobe when shrinking, so that there is no ringing.

use std::sync::LazyLock;

use crate::{DataConfig, Fit, Image, Rgb, budget::Lent};

/// Straight-alpha sRGB, four bytes per pixel.
pub struct Raster {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) rgba: Vec<u8>,
    /// Its share of the memory for decoding.
    pub(crate) _lent: Option<Lent>,
}

impl Raster {
    /// The raster of an image.
    pub(crate) fn opaque(image: &Image) -> Self {
        let rgba = image.pixels.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
        Self { width: image.width, height: image.height, rgba, _lent: None }
    }

    /// On paper of this colour.
    pub(crate) fn on(&self, paper: Rgb) -> Image {
        let mix = |p: &[u8]| {
            let alpha = u32::from(p[3]);
            [0, 1, 2].map(|c| {
                ((u32::from(p[c]) * alpha + u32::from(paper.0[c]) * (255 - alpha) + 127) / 255) as u8
            })
        };
        let pixels = self.rgba.chunks_exact(4).flat_map(mix).collect();
        Image { width: self.width, height: self.height, pixels }
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.rgba.iter().skip(3).step_by(4).all(|alpha| *alpha == 255)
    }

    /// Whether no pixel that can be seen has a colour.
    pub(crate) fn is_grey(&self) -> bool {
        self.rgba.chunks_exact(4).all(|p| p[0] == p[1] && p[1] == p[2] || p[3] == 0)
    }
}

/// The square of a data set's images.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub(crate) size: usize,
    pub(crate) background: Rgb,
    pub(crate) fit: Fit,
    pub(crate) margin: f64,
    /// Whether colours are taken away.
    pub(crate) grey: bool,
}

impl Frame {
    /// The square of a configuration.
    pub fn of(config: &DataConfig) -> Self {
        let &DataConfig { size, channels, background, fit, margin, .. } = config;
        Self { size, background, fit, margin, grey: channels == 1 }
    }
}

static LINEAR: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|v| to_linear(v as f32 / 255.0)));

/// IEC 61966-2-1.
fn to_linear(v: f32) -> f32 {
    if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
}

/// The inverse of [`to_linear`], as a byte.
fn to_byte(v: f32) -> u8 {
    let encoded = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    (encoded * 255.0).round().clamp(0.0, 255.0) as u8
}

/// Composes `raster` on the background and resizes it to the frame. The raster must have at least one pixel.
pub(crate) fn fit(raster: &Raster, frame: &Frame) -> Image {
    let (width, height) = (raster.width as f64, raster.height as f64);
    let inner = ((frame.size as f64 * (1.0 - 2.0 * frame.margin)).round() as usize).clamp(1, frame.size);
    let side = width.min(height);
    let whole = ((0.0, width), (0.0, height));
    let scaled = |n: f64| ((n / width.max(height) * inner as f64).round() as usize).clamp(1, inner);
    let ((columns, rows), (across, down)) = match frame.fit {
        Fit::Crop => {
            let (left, top) = (((width - side) / 2.0).floor(), ((height - side) / 2.0).floor());
            ((inner, inner), ((left, left + side), (top, top + side)))
        }
        Fit::Pad => ((scaled(width), scaled(height)), whole),
        Fit::Stretch => ((inner, inner), whole),
    };
    let part = resample(raster, frame.background, &taps(across, columns), &taps(down, rows));
    let mut image = Image::filled(frame.size, frame.size, frame.background);
    let (left, top) = ((frame.size - columns) / 2, (frame.size - rows) / 2);
    for (y, row) in part.chunks_exact(3 * columns).enumerate() {
        let start = 3 * ((top + y) * frame.size + left);
        image.pixels[start..start + row.len()].copy_from_slice(row);
    }
    if frame.grey {
        image.pixels.chunks_exact_mut(3).for_each(|pixel| pixel.fill(luma(pixel)));
    }
    image
}

/// Rec. 601's luma of an sRGB pixel, as most programs bring pictures to grey; what is grey stays as it is.
fn luma(pixel: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|c| u32::from(pixel[c]));
    ((299 * r + 587 * g + 114 * b + 500) / 1000) as u8
}

/// Crops `raster` about its centre to the aspect ratio of `height` to `width`, and resizes it.
pub(crate) fn cover(raster: &Raster, [height, width]: [usize; 2], background: Rgb) -> Image {
    let (across, down) = (raster.width as f64, raster.height as f64);
    let (columns, rows) = match raster.width * height <= raster.height * width {
        true => (across, across * height as f64 / width as f64),
        false => (down * width as f64 / height as f64, down),
    };
    let (left, top) = (((across - columns) / 2.0).floor(), ((down - rows) / 2.0).floor());
    let (across, down) = (taps((left, left + columns), width), taps((top, top + rows), height));
    Image { width, height, pixels: resample(raster, background, &across, &down) }
}

/// The source samples of one output sample, and their weights, which sum to one.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

impl Taps {
    /// Whether the output sample is a source sample.
    fn is_copy(&self) -> bool {
        self.weights.iter().all(|w| *w == 0.0 || *w == 1.0)
    }
}

/// Resamples the interval `from..to` of source samples to `count` samples.
fn taps((from, to): (f64, f64), count: usize) -> Vec<Taps> {
    let scale = (to - from) / count as f64;
    let (lowest, highest) = (from as usize, (to as usize).max(from as usize + 1));
    let stretch = scale.max(1.0);
    let (radius, kernel): (f64, fn(f64) -> f64) =
        if scale > 1.0 { (1.0, hamming) } else { (2.0, catmull_rom) };
    let tap = |i: usize| {
        let center = from + (i as f64 + 0.5) * scale;
        let reach = radius * stretch;
        let first = ((center - reach).floor().max(0.0) as usize).clamp(lowest, highest - 1);
        let last = ((center + reach).ceil() as usize).clamp(first + 1, highest);
        let raw: Vec<f64> = (first..last).map(|s| kernel((s as f64 + 0.5 - center) / stretch)).collect();
        let sum: f64 = raw.iter().sum();
        Taps { first, weights: raw.iter().map(|w| (w / sum) as f32).collect() }
    };
    (0..count).map(tap).collect()
}

/// The first lobe of the sinc under a Hamming window: never negative, sharper than a triangle.
fn hamming(x: f64) -> f64 {
    let t = std::f64::consts::PI * x.abs();
    match x.abs() {
        0.0 => 1.0,
        a if a < 1.0 => t.sin() / t * (0.54 + 0.46 * t.cos()),
        _ => 0.0,
    }
}

/// The interpolating cubic of Catmull and Rom.
pub(crate) fn catmull_rom(x: f64) -> f64 {
    match x.abs() {
        a if a < 1.0 => (1.5 * a - 2.5) * a * a + 1.0,
        a if a < 2.0 => ((2.5 - 0.5 * a) * a - 4.0) * a + 2.0,
        _ => 0.0,
    }
}

fn resample(raster: &Raster, background: Rgb, across: &[Taps], down: &[Taps]) -> Vec<u8> {
    let whole = |taps: &[Taps], len: usize| taps.len() == len && taps.iter().all(Taps::is_copy);
    if whole(across, raster.width) && whole(down, raster.height) && raster.is_opaque() {
        return raster.rgba.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    }
    let first = down.iter().map(|t| t.first).min().unwrap_or(0);
    let last = down.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(first);
    let mut line = vec![[0.0_f32; 3]; raster.width];
    let mut narrow: Vec<[f32; 3]> = Vec::with_capacity((last - first) * across.len());
    for y in first..last {
        let row = &raster.rgba[4 * y * raster.width..4 * (y + 1) * raster.width];
        for (out, pixel) in line.iter_mut().zip(row.chunks_exact(4)) {
            *out = std::array::from_fn(|c| over(pixel[c], pixel[3], background.0[c]));
        }
        narrow.extend(across.iter().map(|tap| blend(tap, |s| line[s])));
    }
    let at = |x: usize, y: usize| narrow[(y - first) * across.len() + x];
    let pixel = |x, tap| blend(tap, |s| at(x, s)).map(to_byte);
    down.iter().flat_map(|tap| (0..across.len()).flat_map(move |x| pixel(x, tap))).collect()
}

fn blend(tap: &Taps, sample: impl Fn(usize) -> [f32; 3]) -> [f32; 3] {
    let mut sum = [0.0; 3];
    for (i, &weight) in tap.weights.iter().enumerate() {
        let value = sample(tap.first + i);
        (0..3).for_each(|c| sum[c] += weight * value[c]);
    }
    sum
}

/// Composes one channel over the background, in linear light.
fn over(value: u8, alpha: u8, background: u8) -> f32 {
    match alpha {
        255 => LINEAR[usize::from(value)],
        0 => LINEAR[usize::from(background)],
        _ => {
            let a = f32::from(alpha) / 255.0;
            to_linear((a * f32::from(value) + (1.0 - a) * f32::from(background)) / 255.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITE: Rgb = Rgb([255; 3]);

    fn frame(size: usize, fit: Fit) -> Frame {
        Frame { size, background: WHITE, fit, margin: 0.0, grey: false }
    }

    fn raster(width: usize, height: usize, pixel: impl Fn(usize, usize) -> [u8; 4]) -> Raster {
        let rgba = (0..width * height).flat_map(|i| pixel(i % width, i / width)).collect();
        Raster { width, height, rgba, _lent: None }
    }

    #[test]
    fn same_size_is_exact() {
        let source = raster(9, 9, |x, y| [(x * 28) as u8, (y * 31) as u8, (x * y * 3) as u8, 255]);
        let image = fit(&source, &frame(9, Fit::Crop));
        let opaque: Vec<u8> = source.rgba.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
        assert_eq!(image.pixels, opaque);
    }

    #[test]
    fn a_constant_stays_constant_at_every_size() {
        for (w, h, size) in [(72, 72, 32), (5, 300, 17), (1, 1, 64), (640, 480, 1), (31, 33, 32)] {
            let source = raster(w, h, |_, _| [200, 30, 7, 255]);
            for shape in [Fit::Crop, Fit::Stretch] {
                let image = fit(&source, &frame(size, shape));
                assert!(image.pixels.chunks_exact(3).all(|p| p == [200, 30, 7]), "{w}x{h} to {size}");
            }
        }
    }

    /// A red disc with black in its transparent surroundings, as is common in artwork; none of it may show.
    #[test]
    fn hidden_colours_leave_no_fringe() {
        let disc = |x: usize, y: usize| {
            let (dx, dy) = (x as f64 - 35.5, y as f64 - 35.5);
            if dx * dx + dy * dy < 900.0 { [255, 0, 0, 255] } else { [0, 0, 0, 0] }
        };
        let image = fit(&raster(72, 72, disc), &frame(32, Fit::Crop));
        for p in image.pixels.chunks_exact(3) {
            assert!(p[0] == 255 && p[1] == p[2], "between red and white only: {p:?}");
        }
        assert_eq!(image.pixel(0, 0), [255; 3]);
        assert_eq!(image.pixel(16, 16), [255, 0, 0]);
    }

    #[test]
    fn half_transparent_black_on_white_is_middle_grey() {
        let image = fit(&raster(4, 4, |_, _| [0, 0, 0, 128]), &frame(4, Fit::Crop));
        assert!(image.pixels.iter().all(|&v| v == 127));
    }

    #[test]
    fn a_checkerboard_shrinks_to_the_light_it_sends() {
        let checks = raster(64, 64, |x, y| [((x + y) % 2 * 255) as u8, 0, 0, 255]);
        let image = fit(&checks, &frame(16, Fit::Crop));
        assert!(image.pixels.chunks_exact(3).all(|p| p[0].abs_diff(188) <= 1), "half the light is 188");
    }

    #[test]
    fn shrinking_an_edge_never_overshoots() {
        let edge = raster(100, 100, |x, _| if x < 47 { [50, 60, 70, 255] } else { [180, 190, 200, 255] });
        let image = fit(&edge, &frame(32, Fit::Crop));
        assert!(image.pixels.chunks_exact(3).all(|p| (50..=180).contains(&p[0])));
    }

    #[test]
    fn crop_pad_and_margin() {
        let wide =
            raster(30, 10, |x, _| if (10..20).contains(&x) { [0, 0, 0, 255] } else { [255, 0, 0, 255] });
        assert!(fit(&wide, &frame(10, Fit::Crop)).pixels.iter().all(|&v| v == 0));
        let padded = fit(&wide, &frame(30, Fit::Pad));
        assert_eq!([padded.pixel(15, 9), padded.pixel(15, 10)], [[255; 3], [0; 3]]);
        assert_eq!([padded.pixel(0, 19), padded.pixel(0, 20)], [[255, 0, 0], [255; 3]]);
        let margin = fit(&wide, &Frame { margin: 0.1, ..frame(10, Fit::Crop) });
        assert_eq!(
            [margin.pixel(0, 5), margin.pixel(1, 5), margin.pixel(9, 9)],
            [[255; 3], [0; 3], [255; 3]]
        );
    }
}
