//! Kernels in panels of output channels, transformed: what the products of a convolution read.

use super::{
    Edge,
    transform::{Planes, kernel_vectors},
};
use crate::{
    Isa,
    gemm::panel_width,
    isa::dispatch,
    par::{self, Ptr},
    simd::{LANES, Simd},
};

/// Taps of a kernel.
const TAPS: usize = 9;
/// Kernels per output channel that are gathered before they are transformed: a multiple of the lanes.
const GATHERED: usize = LANES;
/// Output channels of the widest panel.
const WIDEST: usize = 2 * LANES;

const _: () = assert!(DEPTH.is_multiple_of(GATHERED));

/// Weights seen as `[k][n][3][3]` through strides. `n_stride` is 9 where they are `turned` by 180°, `k_stride`
/// where they are not.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub numbers: Numbers,
    pub k_stride: usize,
    pub n_stride: usize,
    pub turned: bool,
}

/// What weights are held in.
#[derive(Clone, Copy)]
pub(super) enum Numbers {
    F32(Ptr<f32>),
    /// Eight bits, with a vector's length beyond the last, and a factor per output channel.
    Bytes(Ptr<i8>, Ptr<f32>),
}

impl Numbers {
    /// `len` numbers of output channel `n`; what follows them may be anything.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, at: usize, n: usize, len: usize) -> S::V {
        match self {
            Self::F32(start) => S::load_n(start.get().add(at), len),
            Self::Bytes(start, scales) => {
                let bytes = start.get().add(at).cast::<[i8; LANES]>().read_unaligned();
                let lanes = bytes.map(f32::from);
                S::mul(S::load(lanes.as_ptr()), S::splat(*scales.get().add(n)))
            }
        }
    }
}

/// Where weights come from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Kernels(Kernels),
    /// All pieces, transformed.
    Transformed(Ptr<f32>),
}

/// Channels that are added up before they join the rest: the kernels that they need, of one panel, stay in a
/// core's cache.
const DEPTH: usize = 128;

/// How the weights of a layer with `k` and `n` channels are cut: into panels of output channels, and those into
/// pieces `[points][depth][width]`, zeros beyond `n`.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    pub edge: Edge,
    pub k: usize,
    pub n: usize,
    pub width: usize,
    pub count: usize,
}

impl Panels {
    pub(super) fn new(isa: Isa, edge: Edge, [k, n]: [usize; 2]) -> Self {
        let width = panel_width(isa, n);
        Self { edge, k, n, width, count: n.div_ceil(width) }
    }

    /// Numbers from one point to the next: one line more than a power of two, so that the planes do not
    /// share cache sets.
    pub(super) fn plane(&self) -> usize {
        DEPTH.min(self.k) * self.width + LANES
    }

    /// Numbers of a piece.
    pub(super) fn len(&self) -> usize {
        self.edge.points() * self.plane()
    }

    /// Pieces of a panel.
    pub(super) fn pieces(&self) -> usize {
        self.k.div_ceil(DEPTH)
    }

    /// The channels of a piece.
    pub(super) fn channels(&self, piece: usize) -> [usize; 2] {
        [piece * DEPTH, self.k.min((piece + 1) * DEPTH)]
    }

    /// Numbers of all pieces.
    pub(super) fn all(&self) -> usize {
        self.count * self.pieces() * self.len()
    }

    /// Where a piece of panel `p` starts among all.
    pub(super) fn at(&self, p: usize, piece: usize) -> usize {
        (p * self.pieces() + piece) * self.len()
    }

    /// The transformed kernels of a piece of panel `p`: made in `own`, unless they are there.
    pub(super) unsafe fn transform(
        &self,
        isa: Isa,
        source: Source,
        p: usize,
        piece: usize,
        own: *mut f32,
    ) -> *const f32 {
        match source {
            Source::Transformed(all) => all.get().add(self.at(p, piece)),
            Source::Kernels(g) => {
                let (panels, to) = (*self, Planes { start: own, plane: self.plane(), row: self.width });
                let range = self.channels(piece);
                dispatch!(isa, transform(panels: Panels, g: Kernels, p: usize, range: [usize; 2], to: Planes));
                own
            }
        }
    }

    /// Transforms the kernels of all pieces into `all`.
    pub(super) unsafe fn transform_all(&self, isa: Isa, kernels: Kernels, all: Ptr<f32>) {
        let pieces = self.pieces();
        par::for_each(self.count * pieces, |i| {
            let (p, piece) = (i / pieces, i % pieces);
            self.transform(isa, Source::Kernels(kernels), p, piece, all.get().add(self.at(p, piece)));
        });
    }
}

#[inline(always)]
unsafe fn transform<S: Simd>(panels: Panels, g: Kernels, p: usize, range: [usize; 2], to: Planes) {
    let mut some = [0.0f32; GATHERED * TAPS * WIDEST];
    for start in (range[0]..range[1]).step_by(GATHERED) {
        gather::<S>(panels, g, p, start, some.as_mut_ptr());
        let to = Planes { start: to.start.add((start - range[0]) * to.row), ..to };
        kernel_vectors::<S>(panels.edge, some.as_ptr(), GATHERED.min(range[1] - start), to);
    }
}

/// `[k][9][width]` for up to [`GATHERED`] `k` from `start` on.
#[inline(always)]
unsafe fn gather<S: Simd>(panels: Panels, g: Kernels, p: usize, start: usize, to: *mut f32) {
    let Panels { k, n, width, .. } = panels;
    let count = GATHERED.min(k - start);
    for half in (0..width).step_by(LANES) {
        let first = p * width + half;
        let valid = n.saturating_sub(first).min(LANES);
        let from = Turn { g, first, valid };
        let to = to.add(half);
        if g.turned {
            for i in 0..count {
                let columns = from.columns::<S>((start + i) * g.k_stride, TAPS);
                for tap in 0..TAPS {
                    S::store(to.add((i * TAPS + TAPS - 1 - tap) * width), columns[tap]);
                }
            }
        } else {
            // All taps of a few `k` follow each other.
            let len = count * TAPS;
            for i in (0..len).step_by(LANES) {
                let left = LANES.min(len - i);
                let columns = from.columns::<S>(start * g.k_stride + i, left);
                for j in 0..left {
                    S::store(to.add((i + j) * width), columns[j]);
                }
            }
        }
    }
}

/// Kernels of `valid` output channels from `first` on.
struct Turn {
    g: Kernels,
    first: usize,
    valid: usize,
}

impl Turn {
    /// The transpose of `len` numbers of each, from `at` on.
    #[inline(always)]
    unsafe fn columns<S: Simd>(&self, at: usize, len: usize) -> [S::V; LANES] {
        let mut rows = [S::zero(); LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            if lane < self.valid {
                let n = self.first + lane;
                *row = self.g.numbers.load::<S>(n * self.g.n_stride + at, n, len);
            }
        }
        S::transpose(rows)
    }
}
