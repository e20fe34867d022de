//! Convolutions of pixels in eight bits with weights in eight bits, by their definition.
//!
//! A pixel is `s·(u - z)` with `u` in 0..=255, `z` the `u` of zero, and an `s` of its own: its numbers may lie on one
//! side of zero, as after SiLU, and still use all eight bits. The weights of an output channel under one tap are `s·q`
//! with `q` in -127..=127. The sum of a tap's products is exact; it joins those of the other taps in `f32`.

use super::{
    MOST,
    quantize::{self, Steps, load},
    simd::{self, Bytes, GROUP, dispatch8},
};
use crate::{
    Isa,
    conv::{Conv, Epilogue, Input},
    gemm::{blocks, offset_unless_null, panel_width},
    maps::Parts,
    par::{self, Ptr, Scratch},
    simd::{LANES, Simd},
};

/// The weights of a convolution, in eight bits, for products of bytes.
pub struct Direct {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    kernel: [usize; 2],
    /// `[panels][taps][groups][width][4]`, zeros beyond the last output and the last input.
    bytes: Scratch,
    /// `[panels][taps][2][width]`: the `s` of an output and a tap, and the sum of its `q`.
    factors: Vec<f32>,
    /// `[panels][taps][width]`: what sums start with.
    starts: Vec<i32>,
}

impl Direct {
    /// Whether products of eight bits with eight bits are exact: those that AVX2 and AVX-512 without VNNI add up in
    /// sixteen bits are not.
    pub fn serves(isa: Isa) -> bool {
        isa.has_vnni() || isa.adds_bytes_in_32_bits()
    }

    /// From PyTorch's layout, `w: [outputs, inputs, kernel height, kernel width]`.
    ///
    /// # Panics
    /// If [`Direct::serves`] says no, or the length is not a multiple of the outputs and the kernel.
    pub fn new(isa: Isa, w: &[f32], outputs: usize, kernel: [usize; 2]) -> Self {
        assert!(Self::serves(isa), "exact products of bytes on {}", isa.name());
        let taps = kernel[0] * kernel[1];
        let inputs = w.len() / (outputs * taps).max(1);
        assert!(inputs > 0, "at least one input");
        assert_eq!(w.len(), outputs * inputs * taps, "weights of {outputs} outputs and {taps} taps");
        let width = panel_width(isa, outputs);
        let (panels, groups) = (outputs.div_ceil(width), inputs.div_ceil(GROUP));
        let len = taps * groups * width * GROUP;
        let bytes = Scratch::allocate(panels * len / size_of::<f32>());
        let mut factors = vec![0.0f32; panels * taps * 2 * width];
        let mut starts = vec![0i32; panels * taps * width];
        // SAFETY: an `Isa` exists only where the machine has it.
        let less = unsafe { dispatch8!(isa, less() -> i32) };
        let to = (bytes.ptr().cast::<i8>(), Ptr::new(&mut factors), Ptr::new(&mut starts));
        par::for_each(panels, |panel| {
            let (bytes, factors, starts) = to;
            let (mut numbers, mut row) = (vec![0.0f32; inputs], vec![0i8; groups * GROUP]);
            // SAFETY: within what is allocated; each task owns its panel.
            unsafe {
                let bytes = bytes.get().add(panel * len);
                bytes.write_bytes(0, len);
                for lane in 0..width.min(outputs - panel * width) {
                    let kernels = &w[(panel * width + lane) * inputs * taps..][..inputs * taps];
                    for tap in 0..taps {
                        for (to, from) in numbers.iter_mut().zip(kernels[tap..].iter().step_by(taps)) {
                            *to = *from;
                        }
                        let s = quantize::weights(isa, &numbers, MOST, &mut row[..inputs]);
                        for (i, group) in row.chunks_exact(GROUP).enumerate() {
                            let to = bytes.add(((tap * groups + i) * width + lane) * GROUP);
                            std::ptr::copy_nonoverlapping(group.as_ptr(), to, GROUP);
                        }
                        let sum: i32 = row.iter().map(|q| i32::from(*q)).sum();
                        let at = panel * taps + tap;
                        factors.get().add(2 * at * width + lane).write(s);
                        factors.get().add((2 * at + 1) * width + lane).write(sum as f32);
                        starts.get().add(at * width + lane).write(less * sum);
                    }
                }
            }
        });
        Self { isa, inputs, outputs, kernel, bytes, factors, starts }
    }

    /// The convolution `c` of `x` with these weights, joined by the epilogue.
    ///
    /// # Panics
    /// If `c` has groups, or other channels or another kernel than these weights, or a length does not match it.
    pub fn forward(&self, c: &Conv, x: Input<'_>, epilogue: Epilogue<'_>, out: &mut [f32]) {
        let of = (c.in_channels, c.out_channels, c.kernel, c.groups);
        assert_eq!(of, (self.inputs, self.outputs, self.kernel, 1), "channels and kernel of the weights");
        c.check(c.lens()[1], out.len());
        x.check(c);
        epilogue.check(c.batch, c.out_channels, out.len());
        if out.is_empty() {
            return;
        }
        let places = Places::new(c, x.shift());
        let (row, taps) = (self.inputs.next_multiple_of(GROUP), self.kernel[0] * self.kernel[1]);
        // One more than there are: the zeros around the maps.
        let bytes = Scratch::take(((places.pixels + 1) * row).div_ceil(size_of::<f32>()));
        let mut steps = vec![[0.0f32; 2]; places.pixels + 1];
        let pixels = Pixels { bytes: bytes.ptr().cast(), row, steps: Ptr::new(&mut steps) };
        let parts = x.parts(places.pixels, self.inputs);
        // About as many numbers as are worth a task.
        par::for_each_piece(places.pixels, (1 << 15) / row.max(1) + 1, |from, end| {
            // SAFETY: pixels and what they become have been matched.
            unsafe {
                dispatch8!(self.isa, pixels_in_bytes(parts: Parts, from: usize, end: usize, pixels: Pixels))
            }
        });
        // SAFETY: the last row of those just taken.
        unsafe { pixels.bytes.get().add(places.pixels * row).write_bytes(0, row) };
        let (n, m) = (self.outputs, out.len() / self.outputs);
        let width = panel_width(self.isa, n);
        let (out, weights) = (Ptr::new(out), self.bytes.ptr().cast::<i8>());
        let factors = Ptr::from_const(self.factors.as_ptr());
        let starts = Ptr::from_const(self.starts.as_ptr());
        let bias = Ptr::from_const(epilogue.bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
        let residual = Ptr::from_const(epilogue.residual.map_or(std::ptr::null(), <[f32]>::as_ptr));
        let (bias_row, per_sample) = (epilogue.bias_row(n), m / c.batch);
        blocks(self.isa, m, n, self.inputs * taps, |first, count, columns| {
            let table = places.table(first, count);
            let start = columns.start;
            // SAFETY: tasks write disjoint blocks of `out`.
            unsafe {
                let job = Job {
                    pixels,
                    table: table.as_ptr(),
                    rows: [first, count],
                    taps,
                    b: weights.get().add(start * taps * row),
                    factors: factors.get().add(start * taps * 2),
                    starts: starts.get().add(start * taps),
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

/// Which pixels an output meets.
struct Places {
    pixels: usize,
    batch_row: [usize; 2],
    out: [usize; 2],
    kernel: [usize; 2],
    /// `[out][kernel]` along height and width: the coordinate that is met, if it is within the map.
    along: [Vec<Option<u32>>; 2],
}

impl Places {
    /// Coordinates in maps are those of `c` divided by two to the power of `shift`.
    fn new(c: &Conv, shift: usize) -> Self {
        let (out, size) = (c.out_size(), c.size.map(|s| s >> shift));
        let along = [0, 1].map(|i| {
            let met = |at: usize, tap: usize| {
                let place = (at * c.stride[i] + tap * c.dilation[i]).checked_sub(c.pad_before[i])?;
                (place < c.size[i]).then_some((place >> shift) as u32)
            };
            (0..out[i]).flat_map(|at| (0..c.kernel[i]).map(move |tap| met(at, tap))).collect()
        });
        let batch_row = [size[0] * size[1], size[1]];
        Self { pixels: c.batch * batch_row[0], batch_row, out, kernel: c.kernel, along }
    }

    /// `[taps][count]`: the pixel that each output from `first` on meets; beyond the last where there is none.
    fn table(&self, first: usize, count: usize) -> Vec<u32> {
        let ([h, w], [kh, kw]) = (self.out, self.kernel);
        let mut table = vec![self.pixels as u32; kh * kw * count];
        for r in 0..count {
            let at = first + r;
            let (sample, y, x) = (at / (h * w), at / w % h, at % w);
            let ys = &self.along[0][y * kh..][..kh];
            let xs = &self.along[1][x * kw..][..kw];
            for (i, y) in ys.iter().enumerate() {
                let Some(y) = y else { continue };
                let row = (sample * self.batch_row[0]) as u32 + y * self.batch_row[1] as u32;
                for (j, x) in xs.iter().enumerate() {
                    if let Some(x) = x {
                        table[(i * kw + j) * count + r] = row + x;
                    }
                }
            }
        }
        table
    }
}

#[inline(always)]
unsafe fn less<B: Bytes>() -> i32 {
    B::LESS
}

/// Pixels of unsigned bytes, and of each its `s` and `-z`.
#[derive(Clone, Copy)]
struct Pixels {
    bytes: Ptr<u8>,
    row: usize,
    steps: Ptr<[f32; 2]>,
}

#[inline(always)]
unsafe fn pixels_in_bytes<B: Bytes>(x: Parts, from: usize, end: usize, to: Pixels) {
    for p in from..end {
        let bytes = to.bytes.get().add(p * to.row);
        let ([mut low, mut high], mut odd) = ([0.0f32; 2], 0.0);
        for part in x.each() {
            let (range, more) =
                quantize::range::<B::S>(part.start.get().add(p * part.channels), part.channels);
            (low, high, odd) = (low.min(range[0]), high.max(range[1]), odd + more);
        }
        // One step fewer than there are: zero and both ends are rounded each.
        let (s, inverse) = quantize::scale(high - low, 254.0);
        let zero = if odd.is_nan() { 0.0 } else { (-low * inverse).round_ties_even() };
        to.steps.get().add(p).write([s + odd, -zero]);
        let steps = Steps { inverse, low: -zero, high: 255.0 - zero, shift: zero as u8 };
        let mut at = 0;
        for part in x.each() {
            quantize::round::<B::S>(
                part.start.get().add(p * part.channels),
                part.channels,
                steps,
                bytes.add(at),
            );
            at += part.channels;
        }
        bytes.add(at).write_bytes(0, to.row - at);
    }
}

/// Some rows of outputs, and some columns, which start where a panel does.
#[derive(Clone, Copy)]
struct Job {
    pixels: Pixels,
    /// `[taps][rows]`, from the first row on.
    table: *const u32,
    /// The first, and how many.
    rows: [usize; 2],
    taps: usize,
    /// From the first column on, as all that follow.
    b: *const i8,
    factors: *const f32,
    starts: *const i32,
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
        let mut i = 0;
        while i < job.rows[1] {
            i += match (job.rows[1] - i).min(B::MR) {
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
    let (width, row) = (NV * LANES, job.pixels.row);
    let b = job.b.add(first * job.taps * row);
    let mut totals = [[[0.0f32; LANES]; NV]; MR];
    for tap in 0..job.taps {
        let at: [usize; MR] = std::array::from_fn(|r| *job.table.add(tap * job.rows[1] + i + r) as usize);
        let a: [*const u8; MR] =
            std::array::from_fn(|r| job.pixels.bytes.get().add(at[r] * row).cast_const());
        let starts = job.starts.add(first * job.taps + tap * width);
        let start = std::array::from_fn(|v| B::load(starts.add(v * LANES)));
        let acc: [[B::Sums; NV]; MR] =
            simd::sums::<B, MR, NV>(a, b.add(tap * width * row), row / GROUP, start);
        let factors = job.factors.add(2 * (first * job.taps + tap * width));
        let scales: [_; NV] = std::array::from_fn(|v| B::S::load(factors.add(v * LANES)));
        let weights: [_; NV] = std::array::from_fn(|v| B::S::load(factors.add(width + v * LANES)));
        // Only constant indices into `acc`: anything else would move it from registers to the stack.
        for r in 0..MR {
            let [s, zero] = *job.pixels.steps.get().add(at[r]);
            let (s, zero) = (B::S::splat(s), B::S::splat(zero));
            for v in 0..NV {
                let sum = B::S::fma(zero, weights[v], B::to_f32(acc[r][v]));
                let total = totals[r][v].as_mut_ptr();
                B::S::store(total, B::S::fma(sum, B::S::mul(s, scales[v]), B::S::load(total)));
            }
        }
    }
    for (r, totals) in totals.iter().enumerate() {
        let position = job.rows[0] + i + r;
        for (v, total) in totals.iter().enumerate() {
            let column = first + v * LANES;
            let valid = job.columns.saturating_sub(column).min(LANES);
            let mut value = B::S::load(total.as_ptr());
            if !job.bias.is_null() {
                let bias = job.bias.wrapping_add(position / job.per_sample * job.bias_row + column);
                value = B::S::add(value, load::<B::S>(bias, valid));
            }
            let at = position * job.n + column;
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
