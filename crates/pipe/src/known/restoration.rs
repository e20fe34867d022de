//! An image of which every value is known after a degradation.

use std::sync::Arc;

use tweedie_data::{Rgb, open_picture};
use tweedie_media::{Depth, Image, Picture, Video};

use super::{
    Degradation, Edited, Known, Mended, Seam,
    change::change,
    degradation::{factor, operator},
    window::{Sizes, reflected},
};
use crate::{
    PipelineError,
    operators::{Chain, Mask, Operator},
    posterior::Measurement,
};

/// A degraded image and what the network makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Restoration {
    /// What the network works on: `[channels, height, width]`. The result is its part at the top left.
    window: [usize; 3],
    /// Height, width and channels of the result.
    result: [usize; 3],
    depth: Depth,
    /// The degraded image, continued by reflection.
    degraded: Image,
    /// Which of its values are not known, in white.
    mask: Vec<bool>,
    measurement: Measurement,
}

impl Restoration {
    /// Reads the files of a request for a network with these sizes and channels.
    ///
    /// # Errors
    /// If a file cannot be read or has changed, or the image or the degradations do not suit.
    pub fn open(known: &Known, sizes: Sizes, channels: usize) -> Result<Self, PipelineError> {
        let path = known.image.path.display();
        let fail = |reason: String| PipelineError::request("image", format!("{path}: {reason}"));
        known.image.check()?;
        let own =
            open_picture(&known.image.path).map_err(|e| PipelineError::request("image", e.to_string()))?;
        if own.is_transparent() {
            return Err(fail("it has transparent pixels; expected an opaque image to restore".into()));
        }
        let area = own.width() * own.height();
        let is_colored = |i: usize| own.pixel(i)[..own.colors()].iter().any(|v| *v != own.pixel(i)[0]);
        let colorless = known.degradations.contains(&Degradation::Grey);
        if (channels == 1 || colorless) && (0..area).any(is_colored) {
            let but = if colorless { "already" } else { "but this model makes grey images" };
            return Err(fail(format!("it has colours {but}")));
        }
        let factor = factor(&known.degradations)?;
        let result = [own.height() * factor, own.width() * factor];
        let unit = sizes.unit / gcd(sizes.unit, factor) * factor;
        let sides: [usize; 2] = std::array::from_fn(|k| match sizes.fixed {
            true => sizes.native[k],
            false => result[k].max(sizes.native[k]).next_multiple_of(unit),
        });
        if sides[0] < result[0] || sides[1] < result[1] || sides.iter().any(|n| !n.is_multiple_of(factor)) {
            let [height, width] = sizes.native;
            return Err(fail(format!(
                "the restored image has {}×{} pixels, but this model only supports images of {width}×{height}",
                result[1], result[0]
            )));
        }
        let window = [channels, sides[0], sides[1]];
        let (steps, measured) = operator(&known.degradations, window)?;

        // Beyond the image, its reflection is as well known.
        let [planes, rows, columns] = measured;
        let place = |i: usize| {
            let [y, x] = [i / columns, i % columns].map(|n| n as isize);
            reflected(y, own.height()) * own.width() + reflected(x, own.width())
        };
        let colors: Vec<[f32; 3]> = (0..rows * columns).map(|i| own.color(place(i), Rgb([255; 3]))).collect();
        let all = (0..planes).flat_map(|c| colors.iter().map(move |color| f64::from(color[c])));
        let mut measurement = Measurement { operator: steps, y: all.collect(), sigma: known.sigma()? };
        let mut mask = vec![false; rows * columns];
        if let Some(spec) = &known.mask {
            if spec.extend != [0; 4] || spec.feather > 0 || spec.transparent {
                let reason =
                    "`extend`, `feather` and `transparent` have no effect with degradations; remove them";
                return Err(PipelineError::request("mask", reason));
            }
            let change = change(spec, &own)?;
            mask = (0..rows * columns).map(|i| change[place(i)] > 0.0).collect();
            if mask.iter().all(|m| *m) {
                return Err(PipelineError::request("mask", "nothing of the image is known"));
            }
            let known: Vec<bool> = mask.iter().map(|m| !m).collect::<Vec<_>>().repeat(planes);
            let select = Mask::new(&known);
            measurement.y = select.apply(&measurement.y);
            measurement.operator = Arc::new(Chain::new(measurement.operator, Arc::new(select)));
        }
        let degraded = Image {
            width: columns,
            height: rows,
            pixels: colors.iter().flatten().map(|v| ((v + 1.0) * 127.5).round() as u8).collect(),
        };
        let kept = if colorless { 3 } else { own.colors().min(channels.max(own.colors())) };
        let result = [result[0], result[1], kept];
        Ok(Self { window, result, depth: own.depth(), degraded, mask, measurement })
    }

    /// Height and width of the samples.
    pub fn size(&self) -> [usize; 2] {
        [self.window[1], self.window[2]]
    }

    /// What is known of the samples.
    pub fn measurement(&self) -> &Measurement {
        &self.measurement
    }

    /// The result for a sample `[channels, height, width]` in `-1..=1`.
    pub fn compose(&self, made: &[f32]) -> Edited {
        let [channels, tall, wide] = self.window;
        let [height, width, kept] = self.result;
        let most = f64::from(self.depth.most());
        let level = |v: f64| ((v + 1.0) / 2.0 * most).round().clamp(0.0, most) as u16;
        let pixel = |i: usize| {
            let (y, x) = (i / width, i % width);
            let color: [f64; 3] =
                std::array::from_fn(|c| f64::from(made[(c % channels) * tall * wide + y * wide + x]));
            match kept {
                1 => vec![level(0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2])],
                _ => color.map(level).to_vec(),
            }
        };
        let values = (0..height * width).flat_map(pixel).collect();
        let picture = Picture::new([height, width, kept], self.depth, values);
        Edited { picture: picture.expect("as many values as the result has"), seam: None }
    }

    /// The degraded image and the part that is not known, at the size of the result.
    pub fn shown(&self) -> [Image; 2] {
        let [height, width, _] = self.result;
        let factor = self.window[1] / self.degraded.height.max(1);
        let enlarged = |pixel: &dyn Fn(usize) -> [u8; 3]| {
            let at = |i: usize| pixel(i / width / factor * self.degraded.width + i % width / factor);
            Image { width, height, pixels: (0..height * width).flat_map(at).collect() }
        };
        let image = |i: usize| self.degraded.pixel(i % self.degraded.width, i / self.degraded.width);
        [enlarged(&image), enlarged(&|i| [if self.mask[i] { 255 } else { 0 }; 3])]
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What a job works on.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A part of an image.
    Part(super::Canvas),
    /// All of a degraded image.
    Whole(Restoration),
    /// A sound.
    Sound(super::Sound),
    /// A clip.
    Clip(super::Footage),
}

impl Work {
    /// The axes of the media: height and width, or the length.
    pub fn size(&self) -> Vec<usize> {
        match self {
            Self::Part(canvas) => canvas.size().to_vec(),
            Self::Whole(restoration) => restoration.size().to_vec(),
            Self::Sound(sound) => vec![sound.length()],
            Self::Clip(footage) => footage.size(),
        }
    }

    /// What is known, if it is not a part of the values themselves.
    pub fn measurement(&self) -> Option<&Measurement> {
        match self {
            Self::Part(_) | Self::Clip(_) => None,
            Self::Whole(restoration) => Some(restoration.measurement()),
            Self::Sound(sound) => sound.measurement(),
        }
    }

    /// What was done to the file, one sentence each.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Sound(sound) => sound.notes(),
            Self::Clip(footage) => footage.notes(),
            _ => &[],
        }
    }

    /// The image with the result for a sample in its place; new pixels of a part meet the known ones if `solve` is set.
    pub fn compose(&self, made: &[f32], solve: bool) -> Option<Edited> {
        match self {
            Self::Part(canvas) => Some(canvas.compose(made, solve)),
            Self::Whole(restoration) => Some(restoration.compose(made)),
            Self::Sound(_) | Self::Clip(_) => None,
        }
    }

    /// The clip with the result for a sample in its place, as [`Self::compose`].
    pub fn recut(&self, made: &[f32], solve: bool) -> Option<(Video, Option<Seam>)> {
        match self {
            Self::Clip(footage) => Some(footage.compose(made, solve)),
            _ => None,
        }
    }

    /// The sound with the result for a sample in its place.
    pub fn mend(&self, made: &[f32]) -> Option<Mended> {
        match self {
            Self::Sound(sound) => Some(sound.compose(made)),
            _ => None,
        }
    }

    /// What is seen of an image before, and what is not known, in white.
    pub fn shown(&self) -> Option<[Image; 2]> {
        match self {
            Self::Part(canvas) => Some(canvas.shown()),
            Self::Whole(restoration) => Some(restoration.shown()),
            Self::Sound(_) | Self::Clip(_) => None,
        }
    }

    /// What the network worked on, in a result.
    pub fn seen(&self, picture: &Picture) -> Image {
        match self {
            Self::Part(canvas) => canvas.seen(picture),
            _ => picture.to_image(Rgb([255; 3])),
        }
    }
}
