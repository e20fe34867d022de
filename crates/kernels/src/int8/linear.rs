//! Linear layers, and convolutions with 1×1 kernels, which are the same on channels-last maps.

use super::{
    MOST, MOST_OF_PAIRS,
    quantize::{self, Steps, load},
    simd::{self, Bytes, GROUP, dispatch8},
};
use crate::{
    Isa,
    conv::Epilogue,
    gemm::{blocks, offset_unless_null, panel_width},
    maps::{Maps, Parts},
    par::{self, Ptr, Scratch},
    simd::{LANES, Simd},
};

/// What is added to a `q` so that it is an unsigned byte.
const MIDDLE: i32 = 128;

/// The weight of a linear layer, in eight bits.
pub struct Linear {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    /// Panels `[panels][groups][width][4]` of bytes, zeros beyond the last column and the last input.
    panels: Scratch,
    /// One `s` per column, and what its sums start with: they have [`MIDDLE`] of every weight too many. Both up to
    /// the last panel's end.
    scales: Vec<f32>,
    starts: Vec<i32>,
}

impl Linear {
    /// From PyTorch's layout, `weight: [outputs, inputs]`.
    pub fn new(isa: Isa, weight: &[f32], outputs: usize, inputs: usize) -> Self {
        assert!(inputs > 0, "at least one input");
        assert_eq!(weight.len(), outputs * inputs, "a weight of {outputs} outputs and {inputs} inputs");
        let width = panel_width(isa, outputs);
        let columns = outputs.next_multiple_of(width);
        let groups = inputs.div_ceil(GROUP);
        let panels = Scratch::allocate(columns * groups * GROUP / size_of::<f32>());
        let (mut scales, mut starts) = (vec![0.0f32; columns], vec![0i32; columns]);
        // SAFETY: an `Isa` exists only where the machine has it.
        let less = unsafe { dispatch8!(isa, less() -> i32) };
        let to = (panels.ptr().cast::<i8>(), Ptr::new(&mut scales), Ptr::new(&mut starts));
        par::for_each(columns / width, |panel| {
            let (panels, scales, starts) = to;
            // SAFETY: within what is allocated; each task owns its columns.
            unsafe {
                let start = panels.get().add(panel * groups * width * GROUP);
                start.write_bytes(0, groups * width * GROUP);
                let mut row = vec![0i8; groups * GROUP];
                for lane in 0..width.min(outputs - panel * width) {
                    let column = panel * width + lane;
                    let weights = &weight[column * inputs..][..inputs];
                    let s = quantize::weights(isa, weights, MOST_OF_PAIRS, &mut row[..inputs]);
                    for (i, group) in row.chunks_exact(GROUP).enumerate() {
                        let to = start.add((i * width + lane) * GROUP);
                        std::ptr::copy_nonoverlapping(group.as_ptr(), to, GROUP);
                    }
                    let sum: i32 = row.iter().map(|q| i32::from(*q)).sum();
                    scales.get().add(column).write(s);
                    starts.get().add(column).write((less - MIDDLE) * sum);
                }
            }
        });
        Self { isa, inputs, outputs, panels, scales, starts }
    }

    /// `x·weightᵀ`, joined by the epilogue, whose biases may be those of each sample, of as many rows each.
    /// `x: [rows, inputs]`, in one part or two; `out: [rows, outputs]`.
    pub fn forward<'a>(&self, x: impl Into<Maps<'a>>, epilogue: Epilogue<'_>, out: &mut [f32]) {
        let (k, n) = (self.inputs, self.outputs);
        let m = out.len() / n.max(1);
        assert!(out.len() == m * n, "{} outputs in rows of {n}", out.len());
        let x = x.into().parts(m, k);
        let samples = epilogue.bias.map_or(1, |b| b.len() / n.max(1)).max(1);
        assert!(m.is_multiple_of(samples), "{m} rows of {samples} samples");
        epilogue.check(samples, n, out.len());
        if out.is_empty() {
            return;
        }
        let row = k.next_multiple_of(GROUP);
        let bytes = Scratch::take((m * row).div_ceil(size_of::<f32>()));
        let bytes = bytes.ptr().cast::<u8>();
        let mut scales = vec![0.0f32; m];
        let to = Ptr::new(&mut scales);
        // About as many numbers as are worth a task.
        par::for_each_piece(m, (1 << 15) / k.max(1) + 1, |from, end| {
            let to = Rows { bytes, row, scales: to };
            // SAFETY: rows and what they become have been matched.
            unsafe { dispatch8!(self.isa, quantize_rows(x: Parts, from: usize, end: usize, to: Rows)) }
        });
        let (out, starts) = (Ptr::new(out), Ptr::from_const(self.starts.as_ptr()));
        let rows = Rows { bytes, row, scales: to };
        let scales = Ptr::from_const(self.scales.as_ptr());
        let bias = Ptr::from_const(epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
        let residual = Ptr::from_const(epilogue.residual.map_or(std::ptr::null(), <[f32]>::as_ptr));
        let (bias_row, per_sample) = (epilogue.bias_row(n), m / samples);
        let width = panel_width(self.isa, n);
        let panels = self.panels.ptr().cast::<i8>();
        blocks(self.isa, m, n, k, |first, count, columns| {
            let start = columns.start;
            // SAFETY: tasks write disjoint blocks of `out`.
            unsafe {
                let job = Job {
                    a: rows,
                    rows: [first, first + count],
                    groups: row / GROUP,
                    b: panels.get().add(start * row),
                    starts: starts.get().add(start),
                    scales: scales.get().add(start),
                    width,
                    columns: columns.len(),
                    out: out.get().add(start),
                    n,
                    bias: offset_unless_null(bias.get(), start),
                    bias_row,
                    per_sample,
                    residual: offset_unless_null(residual.get(), start),
                };
                dispatch8!(self.isa, block(job: Job))
            }
        });
    }
}

#[inline(always)]
unsafe fn less<B: Bytes>() -> i32 {
    B::LESS
}

/// Rows of unsigned bytes, and the `s` of each.
#[derive(Clone, Copy)]
struct Rows {
    bytes: Ptr<u8>,
    row: usize,
    scales: Ptr<f32>,
}

#[inline(always)]
unsafe fn quantize_rows<B: Bytes>(x: Parts, from: usize, end: usize, to: Rows) {
    for r in from..end {
        let bytes = to.bytes.get().add(r * to.row);
        let (mut most, mut odd) = (0.0f32, 0.0);
        for part in x.each() {
            let of_part = quantize::largest::<B::S>(part.start.get().add(r * part.channels), part.channels);
            (most, odd) = (most.max(of_part.0), odd + of_part.1);
        }
        let (s, inverse) = quantize::scale(most, MOST);
        to.scales.get().add(r).write(s + odd);
        let steps = Steps { inverse, low: -MOST, high: MOST, shift: MIDDLE as u8 };
        let mut at = 0;
        for part in x.each() {
            let row = part.start.get().add(r * part.channels);
            quantize::round::<B::S>(row, part.channels, steps, bytes.add(at));
            at += part.channels;
        }
        bytes.add(at).write_bytes(MIDDLE as u8, to.row - at);
    }
}

/// Some rows of the product, and some columns, which start where a panel does.
#[derive(Clone, Copy)]
struct Job {
    a: Rows,
    rows: [usize; 2],
    groups: usize,
    /// From the first column on, as all that follow.
    b: *const i8,
    starts: *const i32,
    scales: *const f32,
    width: usize,
    columns: usize,
    /// Row 0.
    out: *mut f32,
    /// From a row of `out` and of `residual` to the next.
    n: usize,
    /// Of sample 0, or null.
    bias: *const f32,
    bias_row: usize,
    per_sample: usize,
    /// Row 0, or null.
    residual: *const f32,
}

#[inline(always)]
unsafe fn block<B: Bytes>(job: Job) {
    if job.width == LANES || B::S::NV == 1 { panels::<B, 1>(job) } else { panels::<B, 2>(job) }
}

#[inline(always)]
unsafe fn panels<B: Bytes, const NV: usize>(job: Job) {
    for first in (0..job.columns).step_by(NV * LANES) {
        let [mut i, end] = job.rows;
        while i < end {
            i += match (end - i).min(B::MR) {
                12.. => tile::<B, 12, NV>(job, i, first),
                8..12 => tile::<B, 8, NV>(job, i, first),
                4..8 => tile::<B, 4, NV>(job, i, first),
                2..4 => tile::<B, 2, NV>(job, i, first),
                _ => tile::<B, 1, NV>(job, i, first),
            };
        }
    }
}

#[inline(always)]
unsafe fn tile<B: Bytes, const MR: usize, const NV: usize>(job: Job, i: usize, first: usize) -> usize {
    let b = job.b.add(first * job.groups * GROUP);
    let a = std::array::from_fn(|r| job.a.bytes.get().add((i + r) * job.a.row).cast_const());
    let start = std::array::from_fn(|v| B::load(job.starts.add(first + v * LANES)));
    let acc: [[B::Sums; NV]; MR] = simd::sums::<B, MR, NV>(a, b, job.groups, start);
    // Only constant indices into `acc`: anything else would move it from registers to the stack.
    let mut sums = [[[0.0f32; LANES]; NV]; MR];
    for r in 0..MR {
        for v in 0..NV {
            B::S::store(sums[r][v].as_mut_ptr(), B::to_f32(acc[r][v]));
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let (row, s) = (i + r, B::S::splat(*job.a.scales.get().add(i + r)));
        for (v, sums) in sums.iter().enumerate() {
            let column = first + v * LANES;
            let valid = job.columns.saturating_sub(column).min(LANES);
            let scale = B::S::mul(s, B::S::load(job.scales.add(column)));
            let mut value = B::S::mul(B::S::load(sums.as_ptr()), scale);
            if !job.bias.is_null() {
                let bias = job.bias.wrapping_add(row / job.per_sample * job.bias_row + column);
                value = B::S::add(value, load::<B::S>(bias, valid));
            }
            let at = row * job.n + column;
            if !job.residual.is_null() {
                value = B::S::add(load::<B::S>(job.residual.wrapping_add(at), valid), value);
            }
            if valid == LANES {
                B::S::store(job.out.add(at), value);
            } else {
                B::S::store_n(job.out.wrapping_add(at), value, valid);
            }
        }
    }
    MR
}
