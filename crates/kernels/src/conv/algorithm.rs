//! Algorithms for `f32` convolutions.

use super::Conv;
use crate::winograd::{self, Edge};

/// The algorithm of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Directly by the definition.
    Direct,
    /// Winograd's F(2×2, 3×3): 16 products instead of 36 per tile of 2×2 outputs.
    Tiles2,
    /// Winograd's F(4×4, 3×3): 36 products instead of 144 per tile of 4×4 outputs.
    Tiles4,
}

/// Pixels of the largest map for which F(2×2) is used.
const SMALL: usize = 16;

impl Algorithm {
    /// The algorithm for a layer. It only depends on the layer and its map size, so that the bits of an image do not
    /// depend on its batch.
    pub fn of(c: &Conv) -> Self {
        Self::summing(c, c.in_channels)
    }

    /// The algorithm for a sum over `depth` channels, as in a gradient.
    pub(super) fn summing(c: &Conv, depth: usize) -> Self {
        if !c.is_same3x3() || depth < 12 || c.size.iter().any(|&s| s < 3) {
            Self::Direct
        } else if c.size[0] * c.size[1] <= SMALL {
            Self::Tiles2
        } else {
            Self::Tiles4
        }
    }

    /// All algorithms that support a layer.
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

    /// Number of multiply-adds for `c`.
    pub fn products(self, c: &Conv) -> usize {
        let per_point = c.in_channels / c.groups * c.out_channels;
        match self.edge() {
            Some(edge) => winograd::points(c, edge) * per_point,
            None => c.batch * c.out_size().iter().product::<usize>() * c.kernel[0] * c.kernel[1] * per_point,
        }
    }
}
