//! Where a convolution's input is read from.

use super::{
    Tiles,
    transform::{Patch, Planes, doubled_input_tiles, input_tiles},
};
use crate::{
    Isa,
    conv::{Conv, Input},
    isa::dispatch,
    maps::Parts,
};

/// The maps that a convolution reads.
#[derive(Clone, Copy)]
pub(super) struct Source {
    parts: Parts,
    doubled: bool,
}

impl Source {
    pub(super) fn new(c: &Conv, x: &Input<'_>) -> Self {
        let pixels = c.batch * (c.size[0] >> x.shift()) * (c.size[1] >> x.shift());
        Self { parts: x.parts(pixels, c.in_channels), doubled: x.shift() > 0 }
    }

    /// `x: [.., channels]`, as it is.
    pub(super) fn plain(x: &[f32], pixels: usize, channels: usize) -> Self {
        Self { parts: crate::maps::Maps::from(x).parts(pixels, channels), doubled: false }
    }

    /// Transforms the patches of tiles `from..to` into `v`, whose rows have room for a vector more than the channels.
    pub(super) unsafe fn transform(&self, isa: Isa, tiles: &Tiles, [from, to]: [usize; 2], v: Planes) {
        // A part's last vector writes beyond its channels, and the next part over that.
        for part in self.parts.each() {
            let at = Patch { tiles, from, to, channels: part.channels, range: [0, part.channels] };
            let (x, v) = (part.start.get().cast_const(), Planes { start: v.start.add(part.first), ..v });
            if self.doubled {
                dispatch!(isa, doubled_input_tiles(at: Patch<'_>, x: *const f32, v: Planes));
            } else {
                dispatch!(isa, input_tiles(at: Patch<'_>, x: *const f32, v: Planes));
            }
        }
    }
}
