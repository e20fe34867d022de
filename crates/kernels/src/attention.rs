//! Scaled dot-product attention `softmax(q·kᵀ·scale)·v` and its gradients.
//!
//! Forward, a block of queries is combined with the keys block by block, with a running maximum and sum
//! (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135), so only a tile of the
//! `queries × keys` matrix of scores exists at a time. Backward, a block of queries is combined with all keys.

use crate::{
    Isa,
    gemm::{ColsJob, RowsJob, cols, panel_width, rows},
    isa::dispatch,
    par::{Ptr, Scratch},
    simd::{LANES, Simd},
    split::{self, first},
};

/// Queries in a block.
const QUERIES: usize = 48;
/// Keys in a block, forward: the sums of a row are combined block by block.
const KEYS: usize = 256;

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

    fn table(self, from: usize, count: usize) -> [Ptr<f32>; QUERIES] {
        std::array::from_fn(|i| self.at(from + i.min(count - 1)))
    }
}

/// Columns of a panel, chosen to waste the fewest multiplications.
fn width(isa: Isa, n: usize) -> usize {
    let wide = panel_width(isa, n);
    if n < 4 * wide && n.next_multiple_of(LANES) < n.next_multiple_of(wide) { LANES } else { wide }
}

/// Length of the panels of a factor `[k, n]`.
fn panels_len(isa: Isa, k: usize, n: usize) -> usize {
    n.next_multiple_of(width(isa, n)) * k
}

/// Packs the factor `[k, n]` whose rows are `x` into panels `[panels][k][width]`, zero beyond `n`.
unsafe fn panels(isa: Isa, x: Rows, k: usize, n: usize, to: *mut f32) {
    let width = width(isa, n);
    for (panel, column) in (0..n).step_by(width).enumerate() {
        let lanes = width.min(n - column);
        for i in 0..k {
            let to = to.add((panel * k + i) * width);
            std::ptr::copy_nonoverlapping(x.at(i).get().add(column), to, lanes);
            to.add(lanes).write_bytes(0, width - lanes);
        }
    }
}

/// Packs the factor `[k, n]` whose columns are the rows of `x`.
unsafe fn turned_panels(isa: Isa, x: Rows, k: usize, n: usize, to: *mut f32) {
    let width = width(isa, n);
    dispatch!(isa, turn(x: Rows, k: usize, n: usize, width: usize, to: *mut f32))
}

#[inline(always)]
unsafe fn turn<S: Simd>(x: Rows, k: usize, n: usize, width: usize, to: *mut f32) {
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
                S::store(to.add((i + j) * width), row);
            }
        }
    }
}

/// `out = a·b`, or added to `out`, with `b: [k, n]` in panels of `width`.
unsafe fn multiply(
    isa: Isa,
    a: &[Ptr<f32>],
    k: usize,
    b: *const f32,
    [n, width]: [usize; 2],
    out: &[Ptr<f32>],
    accumulate: bool,
) {
    let job = RowsJob {
        rows: a.as_ptr().cast(),
        a_offset: 0,
        m: a.len(),
        taps: 1,
        k: [k; 2],
        b,
        width,
        n,
        out: out.as_ptr().cast(),
        out_offset: 0,
        bias: std::ptr::null(),
        residual: std::ptr::null(),
        accumulate,
    };
    rows(isa, &job);
}

/// The largest score of a row so far, the sum of `exp(score - largest)`, and the factor that rescales earlier sums.
#[derive(Clone, Copy)]
struct Running {
    largest: f32,
    sum: f32,
    shrink: f32,
}

const NONE: Running = Running { largest: f32::NEG_INFINITY, sum: 0.0, shrink: 0.0 };

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
        let value_block = panels_len(isa, KEYS, a.width);
        let keys = Scratch::take(panels_len(isa, a.width, a.keys));
        let values = Scratch::take(a.keys.div_ceil(KEYS) * value_block);
        let (keys, values) = (keys.ptr(), values.ptr());
        // SAFETY: strides are checked above; blocks write their own rows of `out`.
        unsafe {
            turned_panels(isa, k, a.width, a.keys, keys.get());
            for block in 0..a.keys.div_ceil(KEYS) {
                let from = Rows { start: v.at(block * KEYS), ..v };
                let count = KEYS.min(a.keys - block * KEYS);
                panels(isa, from, count, a.width, values.get().add(block * value_block));
            }
        }
        split::for_each(a.queries.div_ceil(QUERIES), a.work(), |block| {
            let count = QUERIES.min(a.queries - block * QUERIES);
            let (q, out) = (q.table(block * QUERIES, count), out.table(block * QUERIES, count));
            let tile = Scratch::take(QUERIES * KEYS);
            // SAFETY: as above.
            unsafe { query_block(isa, a, &q[..count], keys.get(), values.get(), tile.ptr(), &out[..count]) }
        });
    });
}

unsafe fn query_block(
    isa: Isa,
    a: &Attention,
    q: &[Ptr<f32>],
    keys: *const f32,
    values: *const f32,
    tile: Ptr<f32>,
    out: &[Ptr<f32>],
) {
    let (count, d, scale) = (q.len(), a.width, a.scale);
    let scores = Rows { start: tile, row: KEYS }.table(0, count);
    let (key_width, value_width) = (width(isa, a.keys), width(isa, d));
    let mut running = [NONE; QUERIES];
    for (block, from) in (0..a.keys).step_by(KEYS).enumerate() {
        let n = KEYS.min(a.keys - from);
        multiply(isa, q, d, keys.add(from * d), [n, key_width], &scores[..count], false);
        let (s, ld, running) = (tile.get(), KEYS, running.as_mut_ptr());
        dispatch!(
            isa,
            softmax(s: *mut f32, count: usize, ld: usize, n: usize, scale: f32, running: *mut Running)
        );
        if block > 0 {
            shrink(out, d, |r| (*running.add(r)).shrink);
        }
        let values = values.add(block * panels_len(isa, KEYS, d));
        multiply(isa, &scores[..count], n, values, [d, value_width], out, block > 0);
    }
    shrink(out, d, |r| 1.0 / running[r].sum);
}

/// Multiplies each row of `d` values by its own factor.
unsafe fn shrink(rows: &[Ptr<f32>], d: usize, factor: impl Fn(usize) -> f32) {
    for (r, row) in rows.iter().enumerate() {
        let factor = factor(r);
        std::slice::from_raw_parts_mut(row.get(), d).iter_mut().for_each(|x| *x *= factor);
    }
}

/// Replaces rows of scores `s` by `exp(s·scale - largest)`, where `largest` and the sums cover these and earlier
/// scores. Rows are padded to whole vectors.
#[inline(always)]
unsafe fn softmax<S: Simd>(s: *mut f32, rows: usize, ld: usize, n: usize, scale: f32, running: *mut Running) {
    let factor = S::splat(scale);
    let padded = n.next_multiple_of(LANES);
    for r in 0..rows {
        let (s, running) = (s.add(r * ld), running.add(r));
        for i in n..padded {
            *s.add(i) = *s.add(n - 1);
        }
        let mut largest = S::splat((*running).largest);
        for i in (0..padded).step_by(LANES) {
            largest = S::max(largest, S::mul(S::load(s.add(i)), factor));
        }
        let top = S::largest(largest);
        let minus = S::splat(-top);
        let mut sum = S::zero();
        for i in (0..padded).step_by(LANES) {
            let e = S::exp(S::fma(S::load(s.add(i)), factor, minus));
            S::store(s.add(i), e);
            sum = S::add(sum, first::<S>(e, n - i));
        }
        let mut shrink = [0.0f32; LANES];
        S::store(shrink.as_mut_ptr(), S::exp(S::splat((*running).largest - top)));
        let shrink = shrink[0];
        *running = Running { largest: top, sum: (*running).sum * shrink + S::sum(sum), shrink };
    }
}

/// Gradients of queries, keys and values, each contiguous `[batch, positions, heads, width]`.
pub fn backward(isa: Isa, a: &Attention, [q, k, v, dy]: [Heads<'_>; 4], [dq, dk, dv]: [&mut [f32]; 3]) {
    for (x, positions) in [(q, a.queries), (k, a.keys), (v, a.keys), (dy, a.queries)] {
        x.check(a, positions);
    }
    let vectors = a.batch * a.heads * a.width;
    assert_eq!(dq.len(), vectors * a.queries, "attention: length of the queries' gradient");
    assert!(
        dk.len() == vectors * a.keys && dv.len() == dk.len(),
        "attention: lengths of the keys' and values' gradients"
    );
    if dq.is_empty() || dk.is_empty() {
        [dq, dk, dv].into_iter().for_each(|d| d.fill(0.0));
        return;
    }
    let (dq, dk, dv) = (Ptr::new(dq), Ptr::new(dk), Ptr::new(dv));
    let ld = a.keys.next_multiple_of(LANES);
    let row = a.heads * a.width;
    // Two rows of scores per query fit the L2 cache. The block only depends on the shape, since it defines the order of sums.
    let queries = if a.keys > 2048 { QUERIES / 2 } else { QUERIES };
    split::for_each(a.batch * a.heads, a.work(), |i| {
        let (b, h) = (i / a.heads, i % a.heads);
        let of = [q, k, v, dy].map(|x| Rows { start: x.pointer(b, h), row: x.strides[2] });
        let [q_of, k_of, v_of, dy_of] = of;
        let own = |p: Ptr<f32>, positions: usize| {
            Ptr::from_const(p.get().wrapping_add((b * positions * a.heads + h) * a.width))
        };
        let target = Rows { start: own(dq, a.queries), row };
        let (dk, dv) = (own(dk, a.keys), own(dv, a.keys));
        let turned = panels_len(isa, a.width, a.keys);
        let (keys_t, values_t) = (Scratch::take(turned), Scratch::take(turned));
        let keys = Scratch::take(panels_len(isa, a.keys, a.width));
        let scratch = Scratch::take(2 * queries * ld);
        let p = Rows { start: scratch.ptr(), row: ld };
        let ds = Rows { start: Ptr::from_const(p.start.get().wrapping_add(queries * ld)), row: ld };
        // SAFETY: strides are checked above; every head writes its own rows.
        unsafe {
            let (keys_t, values_t, keys) = (keys_t.ptr().get(), values_t.ptr().get(), keys.ptr().get());
            turned_panels(isa, k_of, a.width, a.keys, keys_t);
            turned_panels(isa, v_of, a.width, a.keys, values_t);
            panels(isa, k_of, a.keys, a.width, keys);
            let (over_keys, over_width) = ([a.keys, width(isa, a.keys)], [a.width, width(isa, a.width)]);
            for from in (0..a.queries).step_by(queries) {
                let count = queries.min(a.queries - from);
                let tables = [q_of.table(from, count), dy_of.table(from, count), target.table(from, count)];
                let [q_rows, dy_rows, dq_rows] = tables.each_ref().map(|t| &t[..count]);
                let tables = [p.table(0, count), ds.table(0, count)];
                let [p_rows, ds_rows] = tables.each_ref().map(|t| &t[..count]);
                multiply(isa, q_rows, a.width, keys_t, over_keys, p_rows, false);
                multiply(isa, dy_rows, a.width, values_t, over_keys, ds_rows, false);
                let (p, ds, n, scale) = (p.start.get(), ds.start.get(), a.keys, a.scale);
                dispatch!(isa, score_gradient(
                    p: *mut f32, ds: *mut f32, count: usize, ld: usize, n: usize, scale: f32
                ));
                multiply(isa, ds_rows, a.keys, keys, over_width, dq_rows, false);
                for (left, right, out) in [(p_rows, dy_rows, dv), (ds_rows, q_rows, dk)] {
                    let job = ColsJob {
                        a: left.as_ptr().cast(),
                        a_offset: 0,
                        b: right.as_ptr().cast(),
                        b_offset: 0,
                        k: count,
                        m: a.keys,
                        n: a.width,
                        out: out.get(),
                        ld: row,
                        accumulate: from > 0,
                    };
                    cols(isa, &job);
                }
            }
        }
    });
}

/// Converts scores `p` to probabilities, and the probabilities' gradient `ds` to that of the products `q·k`.
#[inline(always)]
unsafe fn score_gradient<S: Simd>(p: *mut f32, ds: *mut f32, rows: usize, ld: usize, n: usize, scale: f32) {
    let mut running = [NONE; QUERIES];
    softmax::<S>(p, rows, ld, n, scale, running.as_mut_ptr());
    for r in 0..rows {
        let (p, ds) = (p.add(r * ld), ds.add(r * ld));
        let normalize = S::splat(1.0 / running[r].sum);
        let mut dot = S::zero();
        let mut i = 0;
        while i < n {
            let m = (n - i).min(LANES);
            let y = S::mul(S::load_n(p.add(i), m), normalize);
            S::store_n(p.add(i), y, m);
            dot = S::fma(y, S::load_n(ds.add(i), m), dot);
            i += LANES;
        }
        let (dot, factor) = (S::splat(S::sum(dot)), S::splat(scale));
        i = 0;
        while i < n {
            let m = (n - i).min(LANES);
            let d = S::sub(S::load_n(ds.add(i), m), dot);
            S::store_n(ds.add(i), S::mul(S::mul(S::load_n(p.add(i), m), d), factor), m);
            i += LANES;
        }
    }
}
