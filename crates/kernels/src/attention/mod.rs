//! Scaled dot-product attention `softmax(q·kᵀ·scale)·v` and its gradients.
//!
//! Forward, a block of queries is combined with the keys block by block, with a running maximum and sum
//! (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135), so only a tile of the
//! `queries × keys` matrix of scores exists at a time. Backward, a block of queries is combined with all keys.

mod backward;
mod forward;

pub use backward::backward;
pub use forward::forward;

use crate::{
    Isa,
    isa::dispatch,
    par::Ptr,
    simd::{LANES, Simd},
};

/// Shape of an attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Batch size.
    pub batch: usize,
    /// Number of heads.
    pub heads: usize,
    /// Number of query positions.
    pub queries: usize,
    /// Number of key and value positions.
    pub keys: usize,
    /// Dimension of a head.
    pub width: usize,
    /// Factor of the scores, applied before the softmax.
    pub scale: f32,
}

impl Attention {
    /// Multiplications, in units that take as long as touching one value.
    fn work(&self) -> usize {
        self.batch * self.heads * self.queries * self.keys * self.width / 64
    }
}

/// Strided view of `[batch, heads, positions, width]` in a buffer; the last dimension is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Strides of batch, head and position, in elements.
    pub strides: [usize; 3],
}

impl Heads<'_> {
    fn check(&self, a: &Attention, positions: usize) {
        let last = [a.batch, a.heads, positions].into_iter().zip(self.strides);
        let last: usize = last.map(|(n, s)| n.saturating_sub(1) * s).sum();
        let empty = a.batch * a.heads * positions * a.width == 0;
        assert!(empty || last + a.width <= self.data.len(), "strides reach beyond the buffer of {a:?}");
    }

    fn pointer(&self, b: usize, h: usize) -> Ptr<f32> {
        Ptr::from_const(self.data.as_ptr().wrapping_add(b * self.strides[0] + h * self.strides[1]))
    }
}

/// The matrix of one head, with rows at distance `row`.
#[derive(Clone, Copy)]
struct Rows {
    start: Ptr<f32>,
    row: usize,
}

impl Rows {
    fn at(self, i: usize) -> Ptr<f32> {
        Ptr::from_const(self.start.get().wrapping_add(i * self.row))
    }
}

/// Panels of `width` columns of the factor `[k, n]` whose columns are the rows of `x`, times `scale`.
unsafe fn turned_panels(isa: Isa, x: Rows, [k, n]: [usize; 2], width: usize, scale: f32, to: *mut f32) {
    dispatch!(isa, turn(x: Rows, k: usize, n: usize, width: usize, scale: f32, to: *mut f32))
}

#[inline(always)]
unsafe fn turn<S: Simd>(x: Rows, k: usize, n: usize, width: usize, scale: f32, to: *mut f32) {
    let scale = S::splat(scale);
    for column in (0..n.next_multiple_of(width)).step_by(LANES) {
        let to = to.add(column / width * width * k + column % width);
        for i in (0..k).step_by(LANES) {
            let depth = LANES.min(k - i);
            let mut square = [S::zero(); LANES];
            for lane in 0..LANES {
                if column + lane < n {
                    square[lane] = S::load_n(x.at(column + lane).get().add(i), depth);
                }
            }
            let square = S::transpose(square);
            for (j, row) in square.into_iter().enumerate().take(depth) {
                S::store(to.add((i + j) * width), S::mul(row, scale));
            }
        }
    }
}
