//! Images that kernels read, or gradients that they write, where they are: one batch of maps, or two whose channels
//! follow one another, which then need not be joined.

use crate::par::Ptr;

/// One batch of maps `[batch, pixels, channels]`, or two of the same size, read as one with the channels of the
/// second after those of the first.
#[derive(Clone, Copy, Debug)]
pub struct Maps<'a> {
    parts: [&'a [f32]; 2],
    /// Channels of the second.
    second: usize,
}

impl<'a> Maps<'a> {
    /// `first`, then the `channels` of `second`.
    pub fn two(first: &'a [f32], second: &'a [f32], channels: usize) -> Self {
        Self { parts: [first, second], second: channels }
    }

    /// The parts, of so many `pixels` in all and `channels` together.
    pub(crate) fn parts(&self, pixels: usize, channels: usize) -> Parts {
        let [first, second] = self.parts;
        check([first.len(), second.len()], self.second, pixels, channels);
        Parts::new(first.as_ptr(), second.as_ptr(), [channels - self.second, self.second])
    }

    /// The part alone that is not joined with another.
    pub(crate) fn single(&self) -> Option<&'a [f32]> {
        (self.second == 0).then_some(self.parts[0])
    }

    /// The numbers of each part, and its channels of so many together.
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

/// As [`Maps`], to be written.
#[derive(Debug)]
pub struct MapsMut<'a> {
    parts: [&'a mut [f32]; 2],
    second: usize,
}

impl<'a> MapsMut<'a> {
    /// `first`, then the `channels` of `second`.
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

/// Where the parts of maps are. A second part without channels is none.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    starts: [Ptr<f32>; 2],
    channels: [usize; 2],
}

/// A part: its channels start at `first` among those of all.
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
