//! 3×3 convolutions with stride 1 and padding 1 by the minimal filtering algorithms F(4×4, 3×3) and F(2×2, 3×3).
//!
//! A tile of 4×4 outputs needs a 6×6 patch `d` of the input: `y = Aᵀ[(G·g·Gᵀ) ⊙ (Bᵀ·d·B)]·A`, 36
//! products where the definition takes 144 (Winograd 1980; Lavin & Gray 2016, arXiv:1509.09308).
//! Interpolation points 0, ±3/4, ±3/2, ∞: their matrices are exact in `f32` and small, which keeps the
//! error at a direct convolution's. The products over channels are 36 matrix products.
//!
//! Where a map has few tiles, reading its kernels, four times as large as the weights, takes longer than the products:
//! there it is tiles of 2×2 outputs, points 0, ±1, ∞, with 16 products for 36 and kernels of 1.8 times the weights.

mod forward;
mod groups;
mod kernels;
mod source;
mod store;
mod transform;
mod weight;

pub(crate) use forward::{Prepared, data_gradient, forward, forward_bytes, forward_prepared, prepare};
pub(crate) use weight::weight_gradient;

use crate::conv::Conv;

/// Outputs of a tile, per dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    Two,
    Four,
}

impl Edge {
    fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Points of a tile; transformed kernels have as many numbers, for 9.
    pub(crate) fn points(self) -> usize {
        (self.outputs() + 2).pow(2)
    }
}

/// The tiles of a batch of maps, numbered image by image, row by row.
#[derive(Clone, Copy)]
struct Tiles {
    edge: Edge,
    size: [usize; 2],
    per: [usize; 2],
    count: usize,
}

impl Tiles {
    fn new(c: &Conv, edge: Edge) -> Self {
        let per = c.size.map(|s| s.div_ceil(edge.outputs()));
        Self { edge, size: c.size, per, count: c.batch * per[0] * per[1] }
    }

    /// Whether transforming a kernel takes no time beside the products that it is used in.
    fn are_many(&self) -> bool {
        self.count >= 96
    }

    /// Image, and the tile's first row and column.
    fn place(&self, t: usize) -> (usize, usize, usize) {
        let (rest, x) = (t / self.per[1], t % self.per[1]);
        let edge = self.edge.outputs();
        (rest / self.per[0], rest % self.per[0] * edge, x * edge)
    }
}

/// Whether so many tiles meet each kernel that transforming it takes no time beside.
pub(crate) fn has_many_tiles(c: &Conv, edge: Edge) -> bool {
    Tiles::new(c, edge).are_many()
}

/// Points of all tiles.
pub(crate) fn points(c: &Conv, edge: Edge) -> usize {
    Tiles::new(c, edge).count * edge.points()
}
