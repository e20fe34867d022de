//! The attention itself.
//!
//! Scores are laid out with queries along the lanes: what turns them into weights goes lane by lane, they are a factor
//! of the values' product as they are, and no width of a head wastes lanes.

use super::{Attention, Heads, Rows, turned_panels};
use crate::{
    Isa,
    gemm::{RowsJob, panel_width, rows},
    isa::dispatch,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split,
};

/// Queries in a block.
const QUERIES: usize = 64;
/// Keys of a block: whole tiles of every microkernel. A query's sums join block by block.
const KEYS: usize = 240;

/// Attention of all heads. `out: [batch, queries, heads, width]`, contiguous.
pub fn forward(isa: Isa, a: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>, out: &mut [f32]) {
    q.check(a, a.queries);
    k.check(a, a.keys);
    v.check(a, a.keys);
    assert_eq!(out.len(), a.batch * a.heads * a.queries * a.width, "attention: length of the output");
    if out.is_empty() || a.keys == 0 {
        out.fill(0.0);
        return;
    }
    let out = Ptr::new(out);
    split::for_each(a.batch * a.heads, a.work(), |i| {
        let (b, h) = (i / a.heads, i % a.heads);
        let [q, k, v] = [q, k, v].map(|x| Rows { start: x.pointer(b, h), row: x.strides[2] });
        let start = out.get().wrapping_add((b * a.queries * a.heads + h) * a.width);
        let out = Rows { start: Ptr::from_const(start), row: a.heads * a.width };
        let values = Scratch::take(a.keys.next_multiple_of(KEYS) * a.width);
        let values = values.ptr();
        // SAFETY: strides are checked above; blocks write their own rows of `out`.
        unsafe { turned_panels(isa, v, [a.width, a.keys], KEYS, 1.0, values.get()) };
        split::for_each(a.queries.div_ceil(QUERIES), a.work(), |block| {
            let from = block * QUERIES;
            let count = QUERIES.min(a.queries - from);
            let [q, out] = [q, out].map(|x| Rows { start: x.at(from), ..x });
            // SAFETY: as above.
            unsafe { query_block(isa, a, count, [q, k, out], values.get()) }
        });
    });
}

/// `values`: turned, `[blocks of keys][width][KEYS]`.
unsafe fn query_block(isa: Isa, a: &Attention, count: usize, [q, k, out]: [Rows; 3], values: *const f32) {
    let (d, width) = (a.width, panel_width(isa, count));
    let (panels, columns) = (count.div_ceil(width), count.next_multiple_of(width));
    let scratch = Scratch::take(columns * (2 * d + KEYS));
    let queries = scratch.ptr().get();
    let sums = queries.add(columns * d);
    let scores = sums.add(columns * d);
    // Weights are powers of two.
    let scale = a.scale * std::f32::consts::LOG2_E;
    turned_panels(isa, q, [d, count], width, scale, queries);
    let table = |start: *mut f32, row: usize, count: usize| -> Vec<*mut f32> {
        (0..count).map(|i| start.wrapping_add(i * row)).collect()
    };
    let values = table(values.cast_mut(), KEYS, d);
    let (score_rows, sum_rows) = (table(scores, width, KEYS.min(a.keys)), table(sums, width, d));
    let mut running = Running { largest: [f32::NEG_INFINITY; QUERIES], sum: [0.0; QUERIES] };
    for (block, from) in (0..a.keys).step_by(KEYS).enumerate() {
        let n = KEYS.min(a.keys - from);
        let keys = table(k.at(from).get(), k.row, n);
        for panel in 0..panels {
            let job = RowsJob {
                rows: keys.as_ptr().cast(),
                a_offset: 0,
                m: n,
                taps: 1,
                k: [d; 2],
                b: queries.add(panel * width * d),
                width,
                n: width,
                out: score_rows.as_ptr(),
                out_offset: panel * width * KEYS,
                bias: std::ptr::null(),
                residual: std::ptr::null(),
                accumulate: false,
            };
            rows(isa, &job);
            let scores = scores.add(panel * width * KEYS);
            let sums = sums.add(panel * width * d);
            let at = Panel { scores, n, width, sums, d, first: block == 0, column: panel * width };
            let running = &mut running;
            dispatch!(isa, weigh(at: Panel, running: &mut Running));
            let job = RowsJob {
                rows: values.as_ptr().cast(),
                a_offset: block * KEYS * d,
                m: d,
                k: [n; 2],
                b: scores,
                out: sum_rows.as_ptr(),
                out_offset: panel * width * d,
                accumulate: block > 0,
                ..job
            };
            rows(isa, &job);
        }
    }
    let running = &running;
    dispatch!(isa, divide(sums: *const f32, width: usize, d: usize, running: &Running, count: usize, out: Rows));
}

/// Each query's largest score so far and the sum of `2^(score - largest)`.
struct Running {
    largest: [f32; QUERIES],
    sum: [f32; QUERIES],
}

/// The scores of a panel of queries, and their sums of values.
#[derive(Clone, Copy)]
struct Panel {
    /// `[n][width]`.
    scores: *mut f32,
    n: usize,
    width: usize,
    /// `[d][width]`.
    sums: *mut f32,
    d: usize,
    /// Whether there are no sums yet.
    first: bool,
    /// The panel's first among the block's queries.
    column: usize,
}

/// Turns scores into weights `2^(score - largest)`, where `largest` is over these and earlier scores, and shrinks what
/// was summed up with an earlier `largest`.
#[inline(always)]
unsafe fn weigh<S: Simd>(at: Panel, running: &mut Running) {
    for column in (0..at.width).step_by(LANES) {
        let scores = at.scores.add(column);
        let largest = running.largest.as_mut_ptr().add(at.column + column);
        let sum = running.sum.as_mut_ptr().add(at.column + column);
        let before = S::load(largest);
        // Two chains, as far as there are pairs.
        let mut top = [before; 2];
        for key in 0..at.n / 2 {
            for i in 0..2 {
                top[i] = S::max(top[i], S::load(scores.add((2 * key + i) * at.width)));
            }
        }
        if !at.n.is_multiple_of(2) {
            top[0] = S::max(top[0], S::load(scores.add((at.n - 1) * at.width)));
        }
        let top = S::max(top[0], top[1]);
        let mut total = S::zero();
        for key in 0..at.n {
            let to = scores.add(key * at.width);
            let weight = S::exp2(S::sub(S::load(to), top));
            S::store(to, weight);
            total = S::add(total, weight);
        }
        S::store(largest, top);
        if !at.first {
            let shrink = S::exp2(S::sub(before, top));
            total = S::fma(S::load(sum), shrink, total);
            for i in 0..at.d {
                let to = at.sums.add(i * at.width + column);
                S::store(to, S::mul(S::load(to), shrink));
            }
        }
        S::store(sum, total);
    }
}

/// Sums `[panels][d][width]` divided by those of the weights, to rows of `out`.
#[inline(always)]
unsafe fn divide<S: Simd>(
    sums: *const f32,
    width: usize,
    d: usize,
    running: &Running,
    count: usize,
    out: Rows,
) {
    for column in (0..count).step_by(LANES) {
        let sums = sums.add(column / width * width * d + column % width);
        let factor = S::div(S::splat(1.0), S::load(running.sum.as_ptr().add(column)));
        for i in (0..d).step_by(LANES) {
            let depth = LANES.min(d - i);
            let mut square = [S::zero(); LANES];
            for (j, row) in square.iter_mut().enumerate().take(depth) {
                *row = S::mul(S::load(sums.add((i + j) * width)), factor);
            }
            let square = S::transpose(square);
            for (lane, row) in square.into_iter().enumerate().take(count - column) {
                S::store_n(out.at(column + lane).get().add(i), row, depth);
            }
        }
    }
}
