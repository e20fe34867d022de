//! Maps that kernels read or write in place: one batch of maps, or two that are concatenated by channels without a copy.

use crate::par::Ptr;

/// One batch of maps `[batch, pixels, channels]`, or two of the same size, read as one with the channels of the second
/// after those of the first.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    parts: [&'a [f32]; 2],
    /// Channels of the second map.
    second: usize,
}

impl<'a> Maps<'a> {
    /// The maps `first` and `second`; `channels` are those of `second`.
    pub fn two(first: &'a [f32], second: &'a [f32], channels: usize) -> Self {
        Self { parts: [first, second], second: channels }
    }

    /// The parts, given the total `pixels` and `channels`.
    pub(crate) fn parts(&self, pixels: usize, channels: usize) -> Parts {
        let [first, second] = self.parts;
        check([first.len(), second.len()], self.second, pixels, channels);
        Parts::new(first.as_ptr(), second.as_ptr(), [channels - self.second, self.second])
    }

    /// The only map, if there is no second.
    pub(crate) fn single(&self) -> Option<&'a [f32]> {
        (self.second == 0).then_some(self.parts[0])
    }

    /// The data of each map, and its number of channels out of `channels`.
    pub(crate) fn slices(&self, channels: usize) -> [(&'a [f32], usize); 2] {
        [(self.parts[0], channels - self.second), (self.parts[1], self.second)]
    }
}

impl<'a> From<&'a [f32]> for Maps<'a> {
    fn from(x: &'a [f32]) -> Self {
        Self::two(x, &[], 0)
    }
}

impl<'a> From<&'a Vec<f32>> for Maps<'a> {
    fn from(x: &'a Vec<f32>) -> Self {
        Self::two(x, &[], 0)
    }
}

/// Like [`Maps`], for writing.
#[derive(Debug)]
pub struct MapsMut<'a> {
    parts: [&'a mut [f32]; 2],
    second: usize,
}

impl<'a> MapsMut<'a> {
    /// The maps `first` and `second`; `channels` are those of `second`.
    pub fn two(first: &'a mut [f32], second: &'a mut [f32], channels: usize) -> Self {
        Self { parts: [first, second], second: channels }
    }

    pub(crate) fn parts(&mut self, pixels: usize, channels: usize) -> Parts {
        let [first, second] = &mut self.parts;
        check([first.len(), second.len()], self.second, pixels, channels);
        Parts::new(first.as_mut_ptr(), second.as_mut_ptr(), [channels - self.second, self.second])
    }
}

impl<'a> From<&'a mut [f32]> for MapsMut<'a> {
    fn from(x: &'a mut [f32]) -> Self {
        Self::two(x, &mut [], 0)
    }
}

impl<'a> From<&'a mut Vec<f32>> for MapsMut<'a> {
    fn from(x: &'a mut Vec<f32>) -> Self {
        Self::two(x, &mut [], 0)
    }
}

fn check(lens: [usize; 2], second: usize, pixels: usize, channels: usize) {
    let fits = second <= channels && lens == [pixels * (channels - second.min(channels)), pixels * second];
    assert!(fits, "lengths {lens:?} of {pixels} pixels with {channels} channels, {second} of the second map");
}

/// Pointers to the parts of maps. A second part with zero channels is absent.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    starts: [Ptr<f32>; 2],
    channels: [usize; 2],
}

/// One part; its channels start at `first` among all channels.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    pub start: Ptr<f32>,
    pub first: usize,
    pub channels: usize,
}

impl Parts {
    fn new(first: *const f32, second: *const f32, channels: [usize; 2]) -> Self {
        Self { starts: [Ptr::from_const(first), Ptr::from_const(second)], channels }
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = Part> + use<> {
        let Self { starts: [a, b], channels: [n, m] } = *self;
        let parts = [Part { start: a, first: 0, channels: n }, Part { start: b, first: n, channels: m }];
        parts.into_iter().filter(|part| part.channels > 0)
    }

    pub(crate) fn channels(&self) -> [usize; 2] {
        self.channels
    }
}
