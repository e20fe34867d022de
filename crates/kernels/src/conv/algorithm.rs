//! How a convolution in `f32` is computed.

use super::Conv;
use crate::winograd::{self, Edge};

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// By its definition.
    Direct,
    /// 3×3 kernels by minimal filtering in tiles of 2×2 outputs: 16 products where the definition takes 36.
    Tiles2,
    /// The same in tiles of 4×4: 36 where it takes 144.
    Tiles4,
}

/// Pixels of the largest map in tiles of 2×2.
const SMALL: usize = 16;

impl Algorithm {
    /// The one that a layer takes: a rule of the layer and its map alone, so that a row's bits do not depend on its
    /// batch.
    pub fn of(c: &Conv) -> Self {
        Self::summing(c, c.in_channels)
    }

    /// The same for a sum over `depth` channels: those of a gradient.
    pub(super) fn summing(c: &Conv, depth: usize) -> Self {
        if !c.is_same3x3() || depth < 12 || c.size.iter().any(|&s| s < 3) {
            Self::Direct
        } else if c.size[0] * c.size[1] <= SMALL {
            Self::Tiles2
        } else {
            Self::Tiles4
        }
    }

    /// All that compute a layer.
    pub fn all(c: &Conv) -> &'static [Self] {
        if c.is_same3x3() { &[Self::Tiles4, Self::Tiles2, Self::Direct] } else { &[Self::Direct] }
    }

    pub(crate) fn edge(self) -> Option<Edge> {
        match self {
            Self::Direct => None,
            Self::Tiles2 => Some(Edge::Two),
            Self::Tiles4 => Some(Edge::Four),
        }
    }

    /// Multiply-adds of `c`.
    pub fn products(self, c: &Conv) -> usize {
        let per_point = c.in_channels / c.groups * c.out_channels;
        match self.edge() {
            Some(edge) => winograd::points(c, edge) * per_point,
            None => c.batch * c.out_size().iter().product::<usize>() * c.kernel[0] * c.kernel[1] * per_point,
        }
    }
}
