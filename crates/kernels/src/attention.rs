//! Scaled dot-product attention `softmax(q·kᵀ·scale)·v` and its gradients.
//!
//! A block of queries meets all keys at once, so that a block's scores fit the cache; the scores are
//! computed anew for the gradients, and no `queries × keys` matrix outlives its block.

use crate::{
    Isa,
    gemm::{ColsJob, Factor, RowsJob, cols, pack, packed_len, panel_width, rows},
    isa::dispatch,
    par::{self, Ptr, Scratch},
    simd::{LANES, Simd},
};

/// Queries of a block. Fixed: gradients of keys and values are summed block by block.
const QUERIES: usize = 48;

/// Shape of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Samples.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Query positions.
    pub queries: usize,
    /// Key and value positions.
    pub keys: usize,
    /// Numbers per head.
    pub width: usize,
    /// Factor of the scores.
    pub scale: f32,
}

/// Vectors `[batch, heads, positions, width]` in a buffer, through strides; the last dimension is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Strides of batch, head and position.
    pub strides: [usize; 3],
}

impl Heads<'_> {
    fn check(&self, a: &Attention, positions: usize) {
        let last = [a.batch, a.heads, positions].into_iter().zip(self.strides);
        let last: usize = last.map(|(n, s)| n.saturating_sub(1) * s).sum();
        let empty = a.batch * a.heads * positions * a.width == 0;
        assert!(empty || last + a.width <= self.data.len(), "strides inside the buffer of {a:?}");
    }

    fn pointer(&self, b: usize, h: usize) -> Ptr<f32> {
        Ptr::from_const(self.data.as_ptr().wrapping_add(b * self.strides[0] + h * self.strides[1]))
    }
}

/// One head's matrix: rows of stride `row`.
#[derive(Clone, Copy)]
struct Rows {
    start: Ptr<f32>,
    row: usize,
}

impl Rows {
    fn table(self, from: usize, count: usize) -> Vec<Ptr<f32>> {
        (from..from + count).map(|i| Ptr::from_const(self.start.get().wrapping_add(i * self.row))).collect()
    }

    /// As the factor `[width, n]` (`turned`) or `[n, width]` of a product.
    fn factor(self, n: usize, width: usize, turned: bool) -> Factor {
        let row = self.row as isize;
        let (k, n, k_stride, n_stride) = if turned { (width, n, 1, row) } else { (n, width, row, 1) };
        Factor { start: self.start.get(), taps: 1, k, n, tap_stride: 0, k_stride, n_stride }
    }
}

unsafe fn multiply(isa: Isa, a: &[Ptr<f32>], k: usize, b: Ptr<f32>, n: usize, out: &[Ptr<f32>]) {
    let job = RowsJob {
        rows: a.as_ptr().cast(),
        a_offset: 0,
        m: a.len(),
        taps: 1,
        k,
        b: b.get(),
        width: panel_width(isa, n),
        n,
        out: out.as_ptr().cast(),
        out_offset: 0,
        bias: std::ptr::null(),
        accumulate: false,
    };
    rows(isa, &job);
}

/// Attention of all heads; `out: [batch, queries, heads, width]`, contiguous.
pub fn forward(isa: Isa, a: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>, out: &mut [f32]) {
    q.check(a, a.queries);
    k.check(a, a.keys);
    v.check(a, a.keys);
    assert_eq!(out.len(), a.batch * a.heads * a.queries * a.width, "length of an attention");
    if out.is_empty() || a.keys == 0 {
        out.fill(0.0);
        return;
    }
    let out = Ptr::new(out);
    let blocks = a.queries.div_ceil(QUERIES);
    let ld = a.keys.next_multiple_of(LANES);
    par::for_each(a.batch * a.heads, |i| {
        let (b, h) = (i / a.heads, i % a.heads);
        let [q_of, k_of, v_of] = [q, k, v].map(|x| Rows { start: x.pointer(b, h), row: x.strides[2] });
        let target = Rows {
            start: Ptr::from_const(out.get().wrapping_add((b * a.queries * a.heads + h) * a.width)),
            row: a.heads * a.width,
        };
        let keys = Scratch::take(packed_len(isa, 1, a.width, a.keys));
        let values = Scratch::take(packed_len(isa, 1, a.keys, a.width));
        // SAFETY: strides are checked above; blocks write their own rows of `out`.
        unsafe {
            pack(isa, k_of.factor(a.keys, a.width, true), keys.ptr());
            pack(isa, v_of.factor(a.keys, a.width, false), values.ptr());
        }
        par::for_each(blocks, |block| {
            let from = block * QUERIES;
            let count = QUERIES.min(a.queries - from);
            let scores = Scratch::take(QUERIES * ld);
            let score_rows = Rows { start: scores.ptr(), row: ld }.table(0, count);
            let out_rows = target.table(from, count);
            // SAFETY: as above.
            unsafe {
                multiply(isa, &q_of.table(from, count), a.width, keys.ptr(), a.keys, &score_rows);
                let (s, n, scale) = (scores.ptr().get(), a.keys, a.scale);
                let mut inverse = [0.0f32; QUERIES];
                let to = inverse.as_mut_ptr();
                dispatch!(isa, softmax(
                    s: *mut f32, count: usize, ld: usize, n: usize, scale: f32, to: *mut f32
                ));
                multiply(isa, &score_rows, a.keys, values.ptr(), a.width, &out_rows);
                for (row, inverse) in out_rows.iter().zip(inverse) {
                    let row = std::slice::from_raw_parts_mut(row.get(), a.width);
                    row.iter_mut().for_each(|x| *x *= inverse);
                }
            }
        });
    });
}

/// Replaces rows of scores `s` by `exp(s·scale - largest)`, and stores the reciprocals of their sums.
#[inline(always)]
unsafe fn softmax<S: Simd>(s: *mut f32, rows: usize, ld: usize, n: usize, scale: f32, inverse: *mut f32) {
    let factor = S::splat(scale);
    for r in 0..rows {
        let s = s.add(r * ld);
        let whole = n / LANES * LANES;
        let mut largest = S::splat(f32::NEG_INFINITY);
        let mut i = 0;
        while i < whole {
            largest = S::max(largest, S::mul(S::load(s.add(i)), factor));
            i += LANES;
        }
        let mut top = S::largest(largest);
        for j in whole..n {
            top = top.max(*s.add(j) * scale);
        }
        let top = S::splat(top);
        let mut sum = S::zero();
        i = 0;
        while i < whole {
            let e = S::exp(S::sub(S::mul(S::load(s.add(i)), factor), top));
            S::store(s.add(i), e);
            sum = S::add(sum, e);
            i += LANES;
        }
        let mut total = S::sum(sum);
        if whole < n {
            let left = n - whole;
            let e = S::exp(S::sub(S::mul(S::load_n(s.add(whole), left), factor), top));
            S::store_n(s.add(whole), e, left);
            let mut lanes = [0.0f32; LANES];
            S::store(lanes.as_mut_ptr(), e);
            total += lanes[..left].iter().sum::<f32>();
        }
        *inverse.add(r) = 1.0 / total;
    }
}

/// Gradients of queries, keys and values, each `[batch, positions, heads, width]`, contiguous.
pub fn backward(isa: Isa, a: &Attention, [q, k, v, dy]: [Heads<'_>; 4], [dq, dk, dv]: [&mut [f32]; 3]) {
    for (x, positions) in [(q, a.queries), (k, a.keys), (v, a.keys), (dy, a.queries)] {
        x.check(a, positions);
    }
    let vectors = a.batch * a.heads * a.width;
    assert_eq!(dq.len(), vectors * a.queries, "length of the queries' gradient");
    assert!(
        dk.len() == vectors * a.keys && dv.len() == dk.len(),
        "lengths of the keys' and values' gradients"
    );
    if dq.is_empty() || dk.is_empty() {
        [dq, dk, dv].into_iter().for_each(|d| d.fill(0.0));
        return;
    }
    let (dq, dk, dv) = (Ptr::new(dq), Ptr::new(dk), Ptr::new(dv));
    let ld = a.keys.next_multiple_of(LANES);
    let row = a.heads * a.width;
    par::for_each(a.batch * a.heads, |i| {
        let (b, h) = (i / a.heads, i % a.heads);
        let of = [q, k, v, dy].map(|x| Rows { start: x.pointer(b, h), row: x.strides[2] });
        let [q_of, k_of, v_of, dy_of] = of;
        let own = |p: Ptr<f32>, positions: usize| {
            Ptr::from_const(p.get().wrapping_add((b * positions * a.heads + h) * a.width))
        };
        let target = Rows { start: own(dq, a.queries), row };
        let (dk, dv) = (own(dk, a.keys), own(dv, a.keys));
        let turned = packed_len(isa, 1, a.width, a.keys);
        let (keys_t, values_t) = (Scratch::take(turned), Scratch::take(turned));
        let keys = Scratch::take(packed_len(isa, 1, a.keys, a.width));
        let scratch = Scratch::take(2 * QUERIES * ld);
        let p = Rows { start: scratch.ptr(), row: ld };
        let ds = Rows { start: Ptr::from_const(p.start.get().wrapping_add(QUERIES * ld)), row: ld };
        // SAFETY: strides are checked above; every head writes its own rows.
        unsafe {
            pack(isa, k_of.factor(a.keys, a.width, true), keys_t.ptr());
            pack(isa, v_of.factor(a.keys, a.width, true), values_t.ptr());
            pack(isa, k_of.factor(a.keys, a.width, false), keys.ptr());
            for from in (0..a.queries).step_by(QUERIES) {
                let count = QUERIES.min(a.queries - from);
                let (q_rows, dy_rows) = (q_of.table(from, count), dy_of.table(from, count));
                let (p_rows, ds_rows) = (p.table(0, count), ds.table(0, count));
                multiply(isa, &q_rows, a.width, keys_t.ptr(), a.keys, &p_rows);
                multiply(isa, &dy_rows, a.width, values_t.ptr(), a.keys, &ds_rows);
                let (p, ds, n, scale) = (p.start.get(), ds.start.get(), a.keys, a.scale);
                dispatch!(isa, score_gradient(
                    p: *mut f32, ds: *mut f32, count: usize, ld: usize, n: usize, scale: f32
                ));
                multiply(isa, &ds_rows, a.keys, keys.ptr(), a.width, &target.table(from, count));
                for (left, right, out) in [(&p_rows, &dy_rows, dv), (&ds_rows, &q_rows, dk)] {
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

/// Turns scores `p` into probabilities, and the probabilities' gradient `ds` into that of the products `q·k`.
#[inline(always)]
unsafe fn score_gradient<S: Simd>(p: *mut f32, ds: *mut f32, rows: usize, ld: usize, n: usize, scale: f32) {
    let mut inverse = [0.0f32; QUERIES];
    softmax::<S>(p, rows, ld, n, scale, inverse.as_mut_ptr());
    for r in 0..rows {
        let (p, ds) = (p.add(r * ld), ds.add(r * ld));
        let normalize = S::splat(inverse[r]);
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
