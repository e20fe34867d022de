//! Inputs and epilogues of convolutions that avoid intermediate copies.

use super::Conv;
use crate::maps::{Maps, Parts};

/// The input of a convolution: one map, or two that are concatenated by channels, optionally upsampled by 2.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    maps: Maps<'a>,
    doubled: bool,
}

impl<'a> Input<'a> {
    /// Maps of half the convolution's input size, with each pixel repeated in height and width, which equals
    /// [`crate::resample::upsample`].
    pub fn doubled(maps: impl Into<Maps<'a>>) -> Self {
        Self { maps: maps.into(), doubled: true }
    }

    pub(crate) fn check(&self, c: &Conv) {
        let fits = !self.doubled || c.size.iter().all(|s| s.is_multiple_of(2));
        assert!(fits, "doubled maps must have even sizes: {c:?}");
        assert!(c.groups == 1 || self.maps.single().is_some(), "two maps require a single group: {c:?}");
        let pixels = c.batch * (c.size[0] >> self.shift()) * (c.size[1] >> self.shift());
        self.maps.parts(pixels, c.in_channels);
    }

    /// The maps, unless they are doubled.
    pub fn plain(&self) -> Option<Maps<'a>> {
        (!self.doubled).then_some(self.maps)
    }

    /// Number of bits by which coordinates are shifted right.
    pub(crate) fn shift(&self) -> usize {
        usize::from(self.doubled)
    }

    /// The maps in memory, given the total `pixels` and `channels`.
    pub(crate) fn parts(&self, pixels: usize, channels: usize) -> Parts {
        self.maps.parts(pixels, channels)
    }

    /// Each map separately, with its number of channels out of `channels`.
    pub(super) fn each(&self, channels: usize) -> [(Self, usize); 2] {
        self.maps.slices(channels).map(|(x, channels)| (Self { maps: x.into(), ..*self }, channels))
    }
}

impl<'a> From<&'a [f32]> for Input<'a> {
    fn from(x: &'a [f32]) -> Self {
        Self { maps: x.into(), doubled: false }
    }
}

impl<'a> From<Maps<'a>> for Input<'a> {
    fn from(maps: Maps<'a>) -> Self {
        Self { maps, doubled: false }
    }
}

/// What is added to a convolution's sums before they are stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One value per output channel, or per sample and output channel (`[batch, channels]`: a bias that includes each
    /// sample's embedding).
    pub bias: Option<&'a [f32]>,
    /// The other branch of a residual block, of the output's shape.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    pub(crate) fn check(&self, batch: usize, channels: usize, out: usize) {
        let fits = self.bias.is_none_or(|b| b.len() == channels || b.len() == batch * channels);
        assert!(fits, "expected a bias per output channel, or per sample and output channel");
        assert!(self.residual.is_none_or(|r| r.len() == out), "the residual must have the output's shape");
    }

    /// Distance between the biases of consecutive samples.
    pub(crate) fn bias_row(&self, channels: usize) -> usize {
        if self.bias.is_some_and(|b| b.len() > channels) { channels } else { 0 }
    }
}
