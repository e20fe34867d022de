//! The image on which a job works: what the network sees of it, and how the result gets back into it.

use tweedie_data::{Rgb, open_picture};
use tweedie_media::{Image, Picture};

use super::{
    Edited, Known, MaskSpec,
    change::change,
    seam::Blend,
    window::{Sizes, Window},
};
use crate::PipelineError;

/// Behind transparent pixels, as in data sets.
const BACKGROUND: Rgb = Rgb([255; 3]);

/// An image, extended by the new pixels beyond its border, with the part to change and the window of the network.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    picture: Picture,
    /// For each pixel, 0 to 1.
    change: Vec<f32>,
    window: Window,
    /// Channels of the network's images.
    channels: usize,
    feather: usize,
    /// Whether changed pixels become opaque.
    opaque: bool,
}

/// How a picture is seen and changed.
pub(crate) struct Shape {
    pub sizes: Sizes,
    /// Height and width of the window, if they are given.
    pub size: Option<[usize; 2]>,
    pub channels: usize,
    pub feather: usize,
    pub opaque: bool,
}

impl Canvas {
    /// Reads the files of a request for a network with these sizes and channels. With `size`, the window has this height and
    /// width.
    ///
    /// # Errors
    /// If a file cannot be read or has changed, or the mask or the image do not suit.
    pub fn open(
        known: &Known,
        sizes: Sizes,
        size: Option<[usize; 2]>,
        channels: usize,
    ) -> Result<Self, PipelineError> {
        let fail = |reason: String| PipelineError::request("image", reason);
        let path = &known.image.path;
        known.image.check()?;
        let own = open_picture(path).map_err(|e| fail(e.to_string()))?;
        let area = own.width() * own.height();
        let is_colored = |i: usize| own.pixel(i)[..own.colors()].iter().any(|v| *v != own.pixel(i)[0]);
        if channels == 1 && (0..area).any(is_colored) {
            return Err(fail(format!(
                "{}: the image has colours, but this model makes grey images",
                path.display()
            )));
        }
        let (change, picture, mask) = match &known.mask {
            Some(mask) => (change(mask, &own)?, extended(own, mask.extend)?, mask.clone()),
            None => (vec![1.0; area], own, MaskSpec::default()),
        };
        let shape = Shape { sizes, size, channels, feather: mask.feather, opaque: mask.transparent };
        Self::of(picture, change.clone(), &change, &shape)
    }

    /// A picture, the part of it to change, and a window for all that is marked.
    ///
    /// # Errors
    /// If the network only supports a size that is too small.
    pub fn of(
        picture: Picture,
        change: Vec<f32>,
        marks: &[f32],
        shape: &Shape,
    ) -> Result<Self, PipelineError> {
        let &Shape { sizes, size, channels, feather, opaque } = shape;
        let (height, width) = (picture.height(), picture.width());
        let marked = |i: &usize| marks[*i] > 0.0;
        let rows = (0..height).filter(|y| (0..width).any(|x| marked(&(y * width + x))));
        let columns = (0..width).filter(|x| (0..height).any(|y| marked(&(y * width + x))));
        let part = [range(rows), range(columns)];
        let sizes = match size {
            Some(native) => Sizes { native, fixed: true, ..sizes },
            None => sizes,
        };
        let window = Window::around(part, [height, width], sizes);
        let window = window.map_err(|e| PipelineError::request("mask", e))?;
        Ok(Self { picture, change, window, channels, feather, opaque })
    }

    /// The whole picture.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether anything is changed.
    pub fn changes(&self) -> bool {
        self.change.iter().any(|m| *m > 0.0)
    }

    /// Height and width of the window.
    pub fn size(&self) -> [usize; 2] {
        [self.window.height, self.window.width]
    }

    /// Height and width of the image.
    pub(crate) fn whole(&self) -> [usize; 2] {
        [self.picture.height(), self.picture.width()]
    }

    /// Whether nothing is known.
    pub fn is_all_changed(&self) -> bool {
        self.change.iter().all(|m| *m > 0.0)
    }

    /// How much each pixel of the window is changed, 0 to 1.
    pub fn change(&self) -> Vec<f32> {
        (0..self.window.area()).map(|i| self.change[self.window.pixel(i, self.whole()).0]).collect()
    }

    /// What the network sees: `[channels, height, width]` in `-1..=1`.
    pub fn planes(&self) -> Vec<f32> {
        let color = |i| self.picture.color(self.window.pixel(i, self.whole()).0, BACKGROUND);
        let colors: Vec<[f32; 3]> = (0..self.window.area()).map(color).collect();
        (0..self.channels).flat_map(|c| colors.iter().map(move |color| color[c])).collect()
    }

    /// The window of a picture of this size, as an image.
    pub fn seen(&self, picture: &Picture) -> Image {
        let Window { height, width, .. } = self.window;
        let whole = picture.to_image(BACKGROUND);
        let pixel = |i| {
            let (place, _) = self.window.pixel(i, self.whole());
            whole.pixel(place % whole.width, place / whole.width)
        };
        Image { width, height, pixels: (0..self.window.area()).flat_map(pixel).collect() }
    }

    /// The window as an image, and the part to change in white.
    pub fn shown(&self) -> [Image; 2] {
        let Window { height, width, .. } = self.window;
        let three = |planes: Vec<f32>| Image::from_planes(width, height, &planes.repeat(3 / self.channels));
        let mask: Vec<f32> = self.change().iter().map(|m| 2.0 * m - 1.0).collect();
        [three(self.planes()), Image::from_planes(width, height, &mask.repeat(3))]
    }

    /// Puts a result for the window, `[channels, height, width]`, into the image. With `solve`, new pixels are moved such that
    /// they meet the known ones.
    pub fn compose(&self, made: &[f32], solve: bool) -> Edited {
        let area = self.window.area();
        let change = self.change();
        let new: Vec<bool> = change.iter().map(|m| *m > 0.0).collect();
        let blend = Blend { dims: [self.channels, self.window.height, self.window.width], new: &new };
        let known = self.planes();
        let mut values = made.to_vec();
        if solve {
            blend.solve(&mut values, &known);
        }
        let share = self.shares(&new);
        for (i, v) in values.iter_mut().enumerate() {
            let share = share[i % area];
            *v = share * v.clamp(-1.0, 1.0) + (1.0 - share) * known[i];
        }
        let mut picture = self.picture.clone();
        for i in (0..area).filter(|i| new[*i]) {
            let (place, true) = self.window.pixel(i, self.whole()) else { continue };
            let color: [f32; 3] = std::array::from_fn(|c| values[(c % self.channels) * area + i]);
            self.paint(&mut picture, place, color);
        }
        Edited { picture, seam: blend.score(&values) }
    }

    fn paint(&self, picture: &mut Picture, place: usize, color: [f32; 3]) {
        let (colors, alpha, most) = (picture.colors(), picture.has_alpha(), picture.depth().most());
        let levels: [u16; 3] = match colors {
            1 => [picture.level(0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]); 3],
            _ => color.map(|v| picture.level(v)),
        };
        let pixel = picture.pixel_mut(place);
        pixel[..colors].copy_from_slice(&levels[..colors]);
        if alpha && self.opaque {
            pixel[colors] = most;
        }
    }

    /// The share of the result in each pixel: 0 outside the mask; inside it grows with the distance from known pixels.
    fn shares(&self, new: &[bool]) -> Vec<f32> {
        let mut share: Vec<f32> = new.iter().map(|new| f32::from(u8::from(*new))).collect();
        if self.feather == 0 {
            return share;
        }
        let (height, width) = (self.window.height as isize, self.window.width as isize);
        let reach = self.feather as isize;
        let steps: Vec<(isize, isize)> =
            (-reach..=reach).flat_map(|y| (-reach..=reach).map(move |x| (y, x))).collect();
        for i in (0..new.len()).filter(|i| new[*i]) {
            let (y, x) = (i as isize / width, i as isize % width);
            let known = |(dy, dx): &&(isize, isize)| {
                let (y, x) = (y + dy, x + dx);
                (0..height).contains(&y) && (0..width).contains(&x) && !new[(y * width + x) as usize]
            };
            let distance = |(y, x): &(isize, isize)| (*y as f32).hypot(*x as f32);
            let nearest = steps.iter().filter(known).map(distance).fold(f32::INFINITY, f32::min);
            share[i] = (nearest / (self.feather + 1) as f32).min(1.0);
        }
        share
    }
}

/// The first and the one after the last.
fn range(mut all: impl Iterator<Item = usize>) -> (usize, usize) {
    let first = all.next().unwrap_or(0);
    (first, all.last().unwrap_or(first) + 1)
}

/// The image with new pixels beyond its left, top, right and bottom border. They continue the border's colours and are opaque.
pub(super) fn extended(
    picture: Picture,
    [left, top, right, bottom]: [usize; 4],
) -> Result<Picture, PipelineError> {
    if [left, top, right, bottom] == [0; 4] {
        return Ok(picture);
    }
    let (width, height) = (picture.width(), picture.height());
    let (wide, high) = (left + width + right, top + height + bottom);
    let mut values = Vec::new();
    for y in 0..high {
        for x in 0..wide {
            let inside = (top..top + height).contains(&y) && (left..left + width).contains(&x);
            let (from_y, from_x) =
                (y.saturating_sub(top).min(height - 1), x.saturating_sub(left).min(width - 1));
            let start = values.len();
            values.extend(picture.pixel(from_y * width + from_x));
            if !inside && picture.has_alpha() {
                values[start + picture.colors()] = picture.depth().most();
            }
        }
    }
    Picture::new([high, wide, picture.channels()], picture.depth(), values)
        .map_err(|e| PipelineError::request("mask", e))
}
