//! Scaled dot-product attention `softmax(q·kᵀ·scale)·v` in `bf16`.
//!
//! A block of queries is combined with all keys. Scores are summed in `f32`, their exponentials are rounded to
//! `bf16` to weight the values, and the result is divided by the sum of the exponentials in `f32` before it is
//! rounded. Only a strip of the `queries × keys` matrix of scores exists at a time.

use super::{
    Bf16,
    micro::{Job, rows},
    simd::{self, Dot, dispatch16, panel_width},
};
pub use crate::attention::Attention;
use crate::{
    Isa,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split,
};

/// Strided view of `[batch, heads, positions, width]` in a buffer; the last dimension is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The buffer.
    pub data: &'a [Bf16],
    /// Strides of batch, head and position, in elements.
    pub strides: [usize; 3],
}

impl Heads<'_> {
    fn check(&self, a: &Attention, positions: usize) {
        let ends = [a.batch, a.heads, positions].into_iter().zip(self.strides);
        let last: usize = ends.map(|(n, s)| n.saturating_sub(1) * s).sum();
        let empty = a.batch * a.heads * positions * a.width == 0;
        assert!(empty || last + a.width <= self.data.len(), "strides reach beyond the buffer of {a:?}");
    }

    /// The vectors of one head.
    fn rows(&self, b: usize, h: usize) -> Rows {
        let start = self.data.as_ptr().wrapping_add(b * self.strides[0] + h * self.strides[1]);
        Rows { start: Ptr::from_const(start), row: self.strides[2] }
    }
}

/// The matrix of one head, with rows at distance `row`.
#[derive(Clone, Copy)]
struct Rows {
    start: Ptr<Bf16>,
    row: usize,
}

impl Rows {
    fn at(self, i: usize) -> *const Bf16 {
        self.start.get().cast_const().wrapping_add(i * self.row)
    }
}

/// Columns rounded up to panels; the last panel may be one vector wide.
fn padded(n: usize, width: usize) -> usize {
    if n % width <= LANES { n.next_multiple_of(LANES) } else { n.next_multiple_of(width) }
}

/// Offset of the column strip `first..first + 16` of a factor with `pairs` in its panels, and the distance to its
/// next pair.
fn strip(first: usize, [columns, width, pairs]: [usize; 3]) -> (usize, usize) {
    let panel = first / width * width;
    (2 * (panel * pairs + first - panel), 2 * width.min(columns - panel))
}

/// Queries in a block, such that their scores fit the L2 cache.
fn block_of(keys: usize) -> usize {
    match keys {
        0..=1024 => 48,
        1025..=4096 => 24,
        _ => 12,
    }
}

/// Attention of all heads. `out: [batch, queries, heads, width]`, contiguous.
pub fn forward(isa: Isa, a: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>, out: &mut [Bf16]) {
    q.check(a, a.queries);
    k.check(a, a.keys);
    v.check(a, a.keys);
    assert_eq!(out.len(), a.batch * a.heads * a.queries * a.width, "attention: length of the output");
    if out.is_empty() || a.keys == 0 {
        out.fill(Bf16::ZERO);
        return;
    }
    let shape = Shape::new(isa, a);
    let packed = Scratch::take((a.batch * a.heads * shape.head()).div_ceil(2));
    let (packed, out) = (packed.ptr(), Ptr::new(out));
    let head = |i: usize| Ptr::from_const(packed.get().cast::<Bf16>().wrapping_add(i * shape.head()));
    let of = |i: usize| (i / a.heads, i % a.heads);
    // Multiplications, in units that take as long as touching one value.
    let work = a.batch * a.heads * a.queries * a.keys * a.width / 64;
    split::for_each(a.batch * a.heads, work, |i| {
        let (b, h) = of(i);
        let (keys, values, to) = (k.rows(b, h), v.rows(b, h), head(i).get());
        // SAFETY: strides are checked above; each task has its own part of the buffer. The same holds below.
        unsafe { dispatch16!(isa, pack[](shape: Shape, keys: Rows, values: Rows, to: *mut Bf16)) }
    });
    let block = block_of(a.keys);
    let blocks = a.queries.div_ceil(block);
    split::for_each(a.batch * a.heads * blocks, work, |t| {
        let ((b, h), from) = (of(t / blocks), t % blocks * block);
        let count = block.min(a.queries - from);
        let q = q.rows(b, h);
        let queries = Rows { start: Ptr::from_const(q.at(from)), ..q };
        let place = ((b * a.queries + from) * a.heads + h) * a.width;
        let result = Rows { start: Ptr::from_const(out.get().wrapping_add(place)), row: a.heads * a.width };
        let (panels, scale) = (head(t / blocks).get().cast_const(), a.scale);
        unsafe {
            dispatch16!(isa, meet[](shape: Shape, scale: f32, queries: Rows, count: usize, panels: *const Bf16, result: Rows))
        }
    });
}

/// Sizes of one head.
#[derive(Clone, Copy)]
struct Shape {
    keys: usize,
    width: usize,
    /// Width of a panel.
    panel: usize,
}

impl Shape {
    fn new(isa: Isa, a: &Attention) -> Self {
        Self { keys: a.keys, width: a.width, panel: panel_width(isa) }
    }

    /// Columns, panel width and pairs of the keys as a factor.
    fn key_panels(&self) -> [usize; 3] {
        [padded(self.keys, self.panel), self.panel, self.width.div_ceil(2)]
    }

    /// Columns, panel width and pairs of the values as a factor.
    fn value_panels(&self) -> [usize; 3] {
        [padded(self.width, self.panel), self.panel, self.keys.div_ceil(2)]
    }

    /// Length of the keys' panels.
    fn values_at(&self) -> usize {
        let [columns, _, pairs] = self.key_panels();
        2 * columns * pairs
    }

    /// Length of all panels of a head.
    fn head(&self) -> usize {
        let [columns, _, pairs] = self.value_panels();
        self.values_at() + 2 * columns * pairs
    }
}

/// Packs the keys, then the values, of one head into panels.
#[inline(always)]
unsafe fn pack<D: Dot>(shape: Shape, keys: Rows, values: Rows, to: *mut Bf16) {
    let panels @ [columns, _, pairs] = shape.key_panels();
    for first in (0..columns).step_by(LANES) {
        let (at, step) = strip(first, panels);
        for pair in (0..pairs).step_by(LANES) {
            // Pairs are moved as values of twice the size.
            let mut square = [[0.0f32; LANES]; LANES];
            let count = (shape.width - 2 * pair).min(2 * LANES);
            for lane in 0..LANES.min(shape.keys.saturating_sub(first)) {
                let from = keys.at(first + lane).add(2 * pair);
                let to = square[lane].as_mut_ptr().cast::<Bf16>();
                if count == 2 * LANES {
                    std::ptr::copy_nonoverlapping(from, to, 2 * LANES);
                } else {
                    std::ptr::copy_nonoverlapping(from, to, count);
                }
            }
            let mut rows = [D::S::zero(); LANES];
            for lane in 0..LANES {
                rows[lane] = D::S::load(square[lane].as_ptr());
            }
            let turned = D::S::transpose(rows);
            for i in 0..LANES {
                if pair + i < pairs {
                    D::S::store(to.add(at + (pair + i) * step).cast(), turned[i]);
                }
            }
        }
    }
    let to = to.add(shape.values_at());
    let panels @ [columns, _, pairs] = shape.value_panels();
    for first in (0..columns).step_by(LANES) {
        let (at, step) = strip(first, panels);
        let count = LANES.min(shape.width.saturating_sub(first));
        for pair in 0..pairs {
            let mut terms = [[Bf16::ZERO; LANES]; 2];
            for i in 0..2 {
                if 2 * pair + i < shape.keys {
                    let from = values.at(2 * pair + i).add(first);
                    if count == LANES {
                        std::ptr::copy_nonoverlapping(from, terms[i].as_mut_ptr(), LANES);
                    } else {
                        std::ptr::copy_nonoverlapping(from, terms[i].as_mut_ptr(), count);
                    }
                }
            }
            let to = to.add(at + pair * step);
            for i in 0..LANES {
                *to.add(2 * i) = terms[0][i];
                *to.add(2 * i + 1) = terms[1][i];
            }
        }
    }
}

/// Attention of `count` queries over all keys.
#[inline(always)]
unsafe fn meet<D: Dot>(
    shape: Shape,
    scale: f32,
    queries: Rows,
    count: usize,
    panels: *const Bf16,
    result: Rows,
) {
    let (even_width, keys_row) = (shape.width.next_multiple_of(2), shape.keys.next_multiple_of(LANES));
    // Rows are padded by a cache line so that they do not share cache sets.
    let (score_row, weight_row) = (keys_row + LANES, keys_row + 2 * LANES);
    let sum_row = shape.width.next_multiple_of(LANES);
    let scratch = Scratch::take(count * (score_row + weight_row / 2 + sum_row + even_width / 2));
    let scores = scratch.ptr().get();
    let sums = scores.add(count * score_row);
    let weights = sums.add(count * sum_row).cast::<Bf16>();
    let copies = weights.add(count * weight_row);
    let mut table: Vec<*const Bf16> = (0..count).map(|i| queries.at(i)).collect();
    if even_width != shape.width {
        for (i, row) in table.iter_mut().enumerate() {
            let to = copies.add(i * even_width);
            std::ptr::copy_nonoverlapping(*row, to, shape.width);
            *to.add(shape.width) = Bf16::ZERO;
            *row = to;
        }
    }
    let job = Job {
        rows: table.as_ptr(),
        offset: 0,
        m: count,
        taps: 1,
        pairs: even_width / 2,
        b: panels,
        first: 0,
        end: shape.keys,
        out: scores,
        ld: score_row,
        bias: std::ptr::null(),
        residual: std::ptr::null(),
    };
    rows::<D, f32>(&job);
    let mut totals = [0.0f32; 48];
    for i in 0..count {
        let scores = scores.add(i * score_row);
        for beyond in shape.keys..keys_row {
            *scores.add(beyond) = *scores;
        }
        totals[i] = exponentials::<D>(scores, scale, shape.keys, weights.add(i * weight_row));
        table[i] = weights.add(i * weight_row);
    }
    let job = Job {
        rows: table.as_ptr(),
        pairs: shape.keys.div_ceil(2),
        b: panels.add(shape.values_at()),
        end: shape.width,
        out: sums,
        ld: sum_row,
        ..job
    };
    rows::<D, f32>(&job);
    for i in 0..count {
        let factor = D::S::splat(1.0 / totals[i]);
        let (from, to) = (sums.add(i * sum_row), result.at(i).cast_mut());
        for c in (0..shape.width).step_by(LANES) {
            let valid = shape.width - c;
            let y = D::S::mul(D::S::load_n(from.add(c), valid), factor);
            D::narrow_n(to.add(c), y, valid);
        }
    }
}

/// `2^(c·(score - largest))`, rounded, of `n` scores, with `2^c = e^scale`; returns their sum. Scores and results
/// are padded to whole vectors: scores beyond `n` are ignored, results are zero.
#[inline(always)]
unsafe fn exponentials<D: Dot>(scores: *const f32, scale: f32, n: usize, to: *mut Bf16) -> f32 {
    let c = D::S::splat(scale * std::f32::consts::LOG2_E);
    let mut largest = D::S::splat(f32::NEG_INFINITY);
    for i in (0..n).step_by(LANES) {
        largest = D::S::max(largest, D::S::mul(D::S::load(scores.add(i)), c));
    }
    let largest = D::S::splat(-D::S::largest(largest));
    let mut sum = D::S::zero();
    let mut i = 0;
    while i + LANES <= n {
        let e = simd::exp2::<D>(D::S::fma(D::S::load(scores.add(i)), c, largest));
        sum = D::S::add(sum, e);
        D::narrow(to.add(i), e);
        i += LANES;
    }
    if i < n {
        let e = simd::exp2::<D>(D::S::fma(D::S::load(scores.add(i)), c, largest));
        let e = split::first::<D::S>(e, n - i);
        sum = D::S::add(sum, e);
        D::narrow(to.add(i), e);
    }
    D::S::sum(sum)
}
