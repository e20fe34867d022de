//! Matrix products over tables of row pointers: linear layers, and convolutions of any shape.

use super::{
    Bf16, Element, Epilogue,
    micro::{Job, product},
    pack::Packed,
};
use crate::{
    Isa,
    par::{self, Ptr, Scratch},
};

/// Rows of a task.
const ROWS: usize = 96;
/// Terms per tap below which patches are copied, to avoid sums of many short parts.
const FEW: usize = 16;

/// The layout of a row's terms in memory.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub taps: usize,
    /// Terms per tap.
    pub k: usize,
}

impl Terms {
    /// Whether rows are copied, because products read whole pairs from memory.
    pub(super) fn copied(&self) -> bool {
        !self.k.is_multiple_of(2) || (self.k < FEW && self.taps > 1)
    }

    /// Taps and terms per tap after packing.
    pub(super) fn packed(&self) -> [usize; 2] {
        if self.copied() { [1, self.taps * self.k] } else { [self.taps, self.k] }
    }
}

/// Destination of a product's rows.
#[derive(Clone, Copy)]
pub(super) struct Target<O> {
    pub out: Ptr<O>,
    /// Number of rows.
    pub m: usize,
    /// Distance between rows.
    pub ld: usize,
    /// First column.
    pub column: usize,
}

/// `out[i] = Σ_tap Σ_k row(i, tap)[k]·w[tap][k]` with the epilogue applied. A `row` of `None` is zero.
///
/// # Safety
/// Rows must point to `k` values, `target` must hold `m` rows, and the epilogue must have been checked.
pub(super) unsafe fn rows<O: Element>(
    isa: Isa,
    w: &Packed,
    terms: Terms,
    row: impl Fn(usize, usize) -> Option<*const Bf16> + Sync + Send,
    target: Target<O>,
    epilogue: &Epilogue<'_>,
    rows_per_bias: usize,
) {
    let Target { out, m, ld, column } = target;
    let zeros = vec![Bf16::ZERO; terms.k];
    let zeros = &zeros;
    let residual = Ptr::from_const(epilogue.residual.map_or(std::ptr::null(), <[Bf16]>::as_ptr));
    blocks(w, m, |i, count, columns| {
        let mut table: Vec<*const Bf16> = Vec::with_capacity(terms.taps * count);
        let copies = if terms.copied() { count * w.pairs } else { 0 };
        let scratch = Scratch::take(copies);
        if terms.copied() {
            for r in 0..count {
                let to = scratch.ptr().get().cast::<Bf16>().add(r * 2 * w.pairs);
                for tap in 0..terms.taps {
                    let from = row(i + r, tap).unwrap_or(zeros.as_ptr());
                    std::ptr::copy_nonoverlapping(from, to.add(tap * terms.k), terms.k);
                }
                let len = terms.taps * terms.k;
                to.add(len).write_bytes(0, 2 * w.pairs - len);
                table.push(to);
            }
        } else {
            for tap in 0..terms.taps {
                table.extend((i..i + count).map(|r| row(r, tap).unwrap_or(zeros.as_ptr())));
            }
        }
        let bias: Vec<*const f32> = epilogue.bias.map_or(Vec::new(), |bias| {
            (i..i + count).map(|r| bias.as_ptr().add(r / rows_per_bias * ld + column)).collect()
        });
        let place = i * ld + column;
        let residual = residual.get().cast_const();
        let job = Job {
            rows: table.as_ptr(),
            offset: 0,
            m: count,
            taps: w.taps,
            pairs: w.pairs,
            b: w.panels(columns.start).get(),
            first: columns.start,
            end: columns.end,
            out: out.get().add(place),
            ld,
            bias: if bias.is_empty() { std::ptr::null() } else { bias.as_ptr() },
            residual: if residual.is_null() { residual } else { residual.add(place) },
        };
        product(isa, &job);
    });
}

/// Runs `f(first row, rows, columns)` over blocks of the output; column ranges are whole panels.
fn blocks(w: &Packed, m: usize, f: impl Fn(usize, usize, std::ops::Range<usize>) + Sync + Send) {
    if m == 0 || w.n == 0 {
        return;
    }
    let (panels, row_blocks) = (w.n.div_ceil(w.width), m.div_ceil(ROWS));
    let small = m * w.n * w.pairs * w.taps < 1 << 17;
    let wanted = if small { 1 } else { 4 * par::threads() };
    let parts = if row_blocks >= wanted { 1 } else { panels.min(wanted.div_ceil(row_blocks)) };
    let step = panels.div_ceil(parts) * w.width;
    let parts = w.n.div_ceil(step);
    let one = |t: usize| {
        let (i, j) = (t / parts * ROWS, t % parts * step);
        f(i, ROWS.min(m - i), j..w.n.min(j + step));
    };
    if small { (0..row_blocks * parts).for_each(one) } else { par::for_each(row_blocks * parts, one) }
}
