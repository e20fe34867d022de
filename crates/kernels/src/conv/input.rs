//! What convolutions read and add, so that it need not be made first.

use super::Conv;
use crate::maps::{Maps, Parts};

/// What a convolution reads as one map: the channels of one or two, each pixel perhaps four times.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    maps: Maps<'a>,
    doubled: bool,
}

impl<'a> Input<'a> {
    /// Maps of half the convolution's input size, each pixel taken twice along height and width: what
    /// [`crate::resample::upsample`] makes of them.
    pub fn doubled(maps: impl Into<Maps<'a>>) -> Self {
        Self { maps: maps.into(), doubled: true }
    }

    pub(crate) fn check(&self, c: &Conv) {
        let fits = !self.doubled || c.size.iter().all(|s| s.is_multiple_of(2));
        assert!(fits, "doubled maps have even sizes: {c:?}");
        assert!(c.groups == 1 || self.maps.single().is_some(), "two maps are read without groups: {c:?}");
        let pixels = c.batch * (c.size[0] >> self.shift()) * (c.size[1] >> self.shift());
        self.maps.parts(pixels, c.in_channels);
    }

    /// The maps, if each pixel is taken once.
    pub fn plain(&self) -> Option<Maps<'a>> {
        (!self.doubled).then_some(self.maps)
    }

    /// Powers of two that coordinates are divided by.
    pub(crate) fn shift(&self) -> usize {
        usize::from(self.doubled)
    }

    /// Where the maps are, of so many `pixels`, as they lie in memory, and `channels`.
    pub(crate) fn parts(&self, pixels: usize, channels: usize) -> Parts {
        self.maps.parts(pixels, channels)
    }

    /// Each map by itself, and its channels of so many together.
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

/// What joins a convolution's sums before they are stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number per output channel, or per sample and output channel (`[batch, channels]`: a bias to which each
    /// sample's embedding was added).
    pub bias: Option<&'a [f32]>,
    /// Of the output's shape: the other branch of a residual block.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    pub(crate) fn check(&self, batch: usize, channels: usize, out: usize) {
        let fits = self.bias.is_none_or(|b| b.len() == channels || b.len() == batch * channels);
        assert!(fits, "a bias per output channel, or per sample and output channel");
        assert!(self.residual.is_none_or(|r| r.len() == out), "a residual of the output's shape");
    }

    /// Numbers between the biases of one sample and those of the next.
    pub(crate) fn bias_row(&self, channels: usize) -> usize {
        if self.bias.is_some_and(|b| b.len() > channels) { channels } else { 0 }
    }
}
