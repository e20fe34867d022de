//! Attention of `bf16` queries, keys and values: they are brought to `f32`, where scores, weights and sums
//! are computed, and the result is rounded once.

use super::{Bf16, convert};
pub use crate::attention::Attention;
use crate::{
    Isa, attention,
    par::{self, Ptr, Scratch},
};

/// Vectors `[batch, heads, positions, width]` in a buffer, through strides; the last dimension is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The buffer.
    pub data: &'a [Bf16],
    /// Strides of batch, head and position.
    pub strides: [usize; 3],
}

impl Heads<'_> {
    /// Writes `[batch, heads, positions, width]` to `to`.
    fn widen(&self, isa: Isa, a: &Attention, positions: usize, to: Ptr<f32>) {
        let [batch, head, position] = self.strides;
        let ends = [(a.batch, batch), (a.heads, head), (positions, position)];
        let last: usize = ends.into_iter().map(|(n, s)| n.saturating_sub(1) * s).sum();
        let empty = a.batch * a.heads * positions * a.width == 0;
        assert!(empty || last + a.width <= self.data.len(), "strides inside the buffer of {a:?}");
        let (x, n) = (Ptr::from_const(self.data.as_ptr()), a.width);
        par::for_each(a.batch * a.heads, |i| {
            let start = i / a.heads * batch + i % a.heads * head;
            for p in 0..positions {
                // SAFETY: strides are checked above; tasks own their heads.
                unsafe {
                    let x = x.get().add(start + p * position).cast_const();
                    convert::piece(isa, x, to.get().add((i * positions + p) * n), n);
                }
            }
        });
    }
}

/// Attention of all heads; `out: [batch, queries, heads, width]`, contiguous.
pub fn forward(isa: Isa, a: &Attention, q: Heads<'_>, k: Heads<'_>, v: Heads<'_>, out: &mut [Bf16]) {
    let (per_query, per_key) =
        (a.batch * a.heads * a.queries * a.width, a.batch * a.heads * a.keys * a.width);
    assert_eq!(out.len(), per_query, "length of an attention");
    let wide = Scratch::take(2 * per_query + 2 * per_key);
    let at = |offset: usize| Ptr::from_const(wide.ptr().get().wrapping_add(offset).cast_const());
    let starts = [at(0), at(per_query), at(per_query + per_key), at(per_query + 2 * per_key)];
    q.widen(isa, a, a.queries, starts[0]);
    k.widen(isa, a, a.keys, starts[1]);
    v.widen(isa, a, a.keys, starts[2]);
    let heads = |start: Ptr<f32>, positions: usize| attention::Heads {
        // SAFETY: written just above, whole.
        data: unsafe {
            std::slice::from_raw_parts(start.get().cast_const(), a.batch * a.heads * positions * a.width)
        },
        strides: [a.heads * positions * a.width, positions * a.width, a.width],
    };
    // SAFETY: `per_query` numbers of the buffer are left, which nothing else refers to.
    let result = unsafe {
        starts[3].get().write_bytes(0, per_query);
        std::slice::from_raw_parts_mut(starts[3].get(), per_query)
    };
    let (queries, keys, values) =
        (heads(starts[0], a.queries), heads(starts[1], a.keys), heads(starts[2], a.keys));
    attention::forward(isa, a, queries, keys, values, result);
    convert::from_f32(isa, result, out);
}
