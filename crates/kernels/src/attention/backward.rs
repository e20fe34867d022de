//! The gradients: a block of queries meets all keys.

use super::{Attention, Heads, Rows, turned_panels};
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

/// `out = a·b`, with `b: [k, n]` in panels of `width`.
unsafe fn multiply(
    isa: Isa,
    a: &[Ptr<f32>],
    k: usize,
    b: *const f32,
    [n, width]: [usize; 2],
    out: &[Ptr<f32>],
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
        accumulate: false,
    };
    rows(isa, &job);
}

/// The rows from `from` on; beyond `count`, the last of them.
fn table(rows: Rows, from: usize, count: usize) -> [Ptr<f32>; QUERIES] {
    std::array::from_fn(|i| rows.at(from + i.min(count - 1)))
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
            turned_panels(isa, k_of, [a.width, a.keys], width(isa, a.keys), 1.0, keys_t);
            turned_panels(isa, v_of, [a.width, a.keys], width(isa, a.keys), 1.0, values_t);
            panels(isa, k_of, a.keys, a.width, keys);
            let (over_keys, over_width) = ([a.keys, width(isa, a.keys)], [a.width, width(isa, a.width)]);
            for from in (0..a.queries).step_by(queries) {
                let count = queries.min(a.queries - from);
                let tables =
                    [table(q_of, from, count), table(dy_of, from, count), table(target, from, count)];
                let [q_rows, dy_rows, dq_rows] = tables.each_ref().map(|t| &t[..count]);
                let tables = [table(p, 0, count), table(ds, 0, count)];
                let [p_rows, ds_rows] = tables.each_ref().map(|t| &t[..count]);
                multiply(isa, q_rows, a.width, keys_t, over_keys, p_rows);
                multiply(isa, dy_rows, a.width, values_t, over_keys, ds_rows);
                let (p, ds, n, scale) = (p.start.get(), ds.start.get(), a.keys, a.scale);
                dispatch!(isa, score_gradient(
                    p: *mut f32, ds: *mut f32, count: usize, ld: usize, n: usize, scale: f32
                ));
                multiply(isa, ds_rows, a.keys, keys, over_width, dq_rows);
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

/// Replaces rows of scores `s` by `exp(s·scale - largest)`, and writes the sum of each. Rows have room for whole
/// vectors.
#[inline(always)]
unsafe fn softmax<S: Simd>(s: *mut f32, rows: usize, ld: usize, n: usize, scale: f32, sums: *mut f32) {
    let factor = S::splat(scale);
    let padded = n.next_multiple_of(LANES);
    for r in 0..rows {
        let s = s.add(r * ld);
        for i in n..padded {
            *s.add(i) = *s.add(n - 1);
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for i in (0..padded).step_by(LANES) {
            largest = S::max(largest, S::mul(S::load(s.add(i)), factor));
        }
        let minus = S::splat(-S::largest(largest));
        let mut sum = S::zero();
        for i in (0..padded).step_by(LANES) {
            let e = S::exp(S::fma(S::load(s.add(i)), factor, minus));
            S::store(s.add(i), e);
            sum = S::add(sum, first::<S>(e, n - i));
        }
        sums.add(r).write(S::sum(sum));
    }
}

/// Converts scores `p` to probabilities, and the probabilities' gradient `ds` to that of the products `q·k`.
#[inline(always)]
unsafe fn score_gradient<S: Simd>(p: *mut f32, ds: *mut f32, rows: usize, ld: usize, n: usize, scale: f32) {
    let mut sums = [0.0f32; QUERIES];
    softmax::<S>(p, rows, ld, n, scale, sums.as_mut_ptr());
    for r in 0..rows {
        let (p, ds) = (p.add(r * ld), ds.add(r * ld));
        let normalize = S::splat(1.0 / sums[r]);
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
