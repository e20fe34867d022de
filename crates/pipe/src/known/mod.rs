//! Requests about an image, a clip or a sound that exists: what of it is known, and what is to be made.

mod canvas;
mod change;
mod clip;
mod degradation;
mod restoration;
mod seam;
mod setup;
mod sound;
mod spread;
mod window;

use serde::{Deserialize, Serialize};

use crate::{RecordedFile, posterior::Method};

pub(crate) use canvas::Canvas;
pub(crate) use clip::Footage;
pub use degradation::Degradation;
pub(crate) use restoration::Work;
pub use seam::Seam;
pub(crate) use setup::{recipe_for, sampling_for};
pub(crate) use sound::{Sound, initial, length};
pub use spread::{Spread, spread};
pub use tweedie_media::{Depth, Picture, Recording};
pub(crate) use window::Sizes;

/// An existing image, clip or sound and what of it is to be changed or restored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The image; for models of sounds the sound, for models of clips the clip.
    pub image: RecordedFile,
    /// The part to change; without it, all of it. With degradations, the part that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskSpec>,
    /// What has happened to it, in this order, if all of it is to be restored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degradations: Vec<Degradation>,
    /// The standard deviation of its noise: of an image in 1/255, of a sound as a part of the largest possible value.
    #[serde(default, skip_serializing_if = "is_clean")]
    pub noise: f64,
    /// How the change follows from what is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

/// The part of an image, a clip or a sound to change: the union of all that is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskSpec {
    /// Images of the same size, for all frames of a clip: white is changed, black is kept, and grey is changed less, like a lower strength. In a file
    /// with transparency, transparent pixels are changed and opaque ones kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<RecordedFile>,
    /// Rectangles: left, top, width and height in pixels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rectangles: Vec<[usize; 4]>,
    /// Ellipses that fill such rectangles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ellipses: Vec<[usize; 4]>,
    /// The transparent pixels of the image itself, which are opaque afterwards.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub transparent: bool,
    /// New pixels beyond the left, top, right and bottom border.
    #[serde(skip_serializing_if = "is_zero")]
    pub extend: [usize; 4],
    /// Parts of a sound, or all pixels of the frames of a clip that begin in them: beginning and end in seconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<[f64; 2]>,
    /// Number of new frames between each two of a clip.
    #[serde(skip_serializing_if = "is_none")]
    pub between: usize,
    /// Number of new frames that lead from the last frame of a clip back to its first.
    #[serde(skip_serializing_if = "is_none")]
    pub close: usize,
    /// Width in pixels, inside the mask, over which the change sets in.
    #[serde(skip_serializing_if = "is_none")]
    pub feather: usize,
}

fn is_zero(sides: &[usize; 4]) -> bool {
    *sides == [0; 4]
}

fn is_clean(noise: &f64) -> bool {
    *noise == 0.0
}

fn is_none(width: &usize) -> bool {
    *width == 0
}

/// An image after its change.
#[derive(Clone, Debug, PartialEq)]
pub struct Edited {
    /// The whole image. Values outside the mask are those of the original.
    pub picture: Picture,
    /// How visible the border of the mask is; `None` if nothing is known beside it.
    pub seam: Option<Seam>,
}

/// A sound after its change.
#[derive(Clone, Debug, PartialEq)]
pub struct Mended {
    /// The whole sound. Values that were known are those of the original.
    pub recording: Recording,
    /// How many new values were clipped to what the file can store.
    pub clipped: usize,
}
