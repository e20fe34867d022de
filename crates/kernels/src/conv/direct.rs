//! Convolutions of any shape as matrix products over tables of pixel pointers: no unfolded input.

use super::Conv;
use crate::{
    Isa,
    gemm::{Factor, RowsJob, blocks, offset_unless_null, pack, packed_len, panel_width, reduce_rows, rows},
    par::{self, Lease, Ptr, Scratch},
    simd::LANES,
};

/// Channels below which a weight gradient copies patches, so that its rows fill the microkernel.
const FEW_CHANNELS: usize = 12;

struct Places {
    size: [usize; 2],
    out: [usize; 2],
    taps: usize,
}

impl Places {
    fn new(c: &Conv) -> Self {
        Self { size: c.size, out: c.out_size(), taps: c.kernel[0] * c.kernel[1] }
    }

    /// Image, row and column of a position.
    fn split(index: usize, size: [usize; 2]) -> (usize, usize, usize) {
        let (rest, x) = (index / size[1], index % size[1]);
        (rest / size[0], rest % size[0], x)
    }
}

/// Index of the input pixel that output pixel `(b, y, x)` meets under tap `(ky, kx)`; `None` in the padding.
fn input_pixel(c: &Conv, b: usize, at: [usize; 2], tap: [usize; 2]) -> Option<usize> {
    let y = (at[0] * c.stride[0] + tap[0] * c.dilation[0]).checked_sub(c.pad_before[0])?;
    let x = (at[1] * c.stride[1] + tap[1] * c.dilation[1]).checked_sub(c.pad_before[1])?;
    (y < c.size[0] && x < c.size[1]).then(|| (b * c.size[0] + y) * c.size[1] + x)
}

/// The weights of a layer without groups, packed for products.
pub(super) struct Prepared(Scratch);

pub(super) fn prepare(isa: Isa, c: &Conv, w: &[f32]) -> Prepared {
    let taps = c.kernel[0] * c.kernel[1];
    let packed = Scratch::allocate(packed_len(isa, taps, c.in_channels, c.out_channels));
    // SAFETY: `Conv` has matched the weight's length and shape.
    unsafe { pack(isa, factor(c, w, 0), packed.ptr()) };
    Prepared(packed)
}

fn factor(c: &Conv, w: &[f32], g: usize) -> Factor {
    let taps = c.kernel[0] * c.kernel[1];
    let (k, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
    Factor {
        start: w[g * n * k * taps..].as_ptr(),
        taps,
        k,
        n,
        tap_stride: 1,
        k_stride: taps as isize,
        n_stride: (k * taps) as isize,
    }
}

pub(super) fn forward(isa: Isa, c: &Conv, x: &[f32], w: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let (k, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
    let packed = Scratch::take(packed_len(isa, c.kernel[0] * c.kernel[1], k, n));
    for g in 0..c.groups {
        // SAFETY: `Conv::check` has matched lengths and shape.
        unsafe {
            pack(isa, factor(c, w, g), packed.ptr());
            group(isa, c, g, x, packed.ptr(), bias, out);
        }
    }
}

pub(super) fn forward_prepared(
    isa: Isa,
    c: &Conv,
    x: &[f32],
    w: &Prepared,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    // SAFETY: as above.
    unsafe { group(isa, c, 0, x, w.0.ptr(), bias, out) }
}

unsafe fn group(
    isa: Isa,
    c: &Conv,
    g: usize,
    x: &[f32],
    packed: Ptr<f32>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    let p = Places::new(c);
    let m = c.batch * p.out[0] * p.out[1];
    let (k, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
    let zeros = vec![0.0f32; k];
    let zeros = Ptr::from_const(zeros.as_ptr());
    let (x, out) = (Ptr::from_const(x.as_ptr()), Ptr::new(out));
    let bias = Ptr::from_const(bias.map_or(std::ptr::null(), <[f32]>::as_ptr));
    let width = panel_width(isa, n);
    // Tasks write disjoint blocks of `out`.
    blocks(isa, m, n, k * p.taps, |i, count, columns| {
        let mut table = vec![zeros.get().cast_const(); p.taps * count];
        let mut out_rows = Vec::with_capacity(count);
        for r in 0..count {
            let (b, oy, ox) = Places::split(i + r, p.out);
            for tap in 0..p.taps {
                let at = [tap / c.kernel[1], tap % c.kernel[1]];
                if let Some(pixel) = input_pixel(c, b, [oy, ox], at) {
                    table[tap * count + r] = x.get().add(pixel * c.in_channels + g * k);
                }
            }
            out_rows.push(out.get().add((i + r) * c.out_channels + g * n));
        }
        rows(
            isa,
            &RowsJob {
                rows: table.as_ptr(),
                a_offset: 0,
                m: count,
                taps: p.taps,
                k,
                b: packed.get().add(columns.start * k * p.taps),
                width,
                n: columns.len(),
                out: out_rows.as_ptr(),
                out_offset: columns.start,
                bias: offset_unless_null(bias.get(), g * n + columns.start),
                accumulate: false,
            },
        );
    });
}

pub(super) fn data_gradient(isa: Isa, c: &Conv, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    let p = Places::new(c);
    let (k, n) = (c.out_channels / c.groups, c.in_channels / c.groups);
    let zeros = vec![0.0f32; k];
    let zeros = Ptr::from_const(zeros.as_ptr());
    let packed = Scratch::take(packed_len(isa, p.taps, k, n));
    let (dy, dx) = (Ptr::from_const(dy.as_ptr()), Ptr::new(dx));
    let width = panel_width(isa, n);
    // With a stride, input pixels fall into phases, each met by its own taps.
    for g in 0..c.groups {
        for phase in 0..c.stride[0] * c.stride[1] {
            let offset = [phase / c.stride[1], phase % c.stride[1]];
            let part: [usize; 2] =
                std::array::from_fn(|i| c.size[i].saturating_sub(offset[i]).div_ceil(c.stride[i]));
            let meets = |i: usize, tap: usize| {
                let d = (offset[i] + c.pad_before[i]) as isize - (tap * c.dilation[i]) as isize;
                d.rem_euclid(c.stride[i] as isize) == 0
            };
            let taps: Vec<[usize; 2]> = (0..p.taps)
                .map(|t| [t / c.kernel[1], t % c.kernel[1]])
                .filter(|t| meets(0, t[0]) && meets(1, t[1]))
                .collect();
            // SAFETY: as in `forward`; phases and tasks write disjoint pixels of `dx`.
            unsafe {
                pack_taps(isa, c, g, w, &taps, packed.ptr());
                let m = c.batch * part[0] * part[1];
                blocks(isa, m, n, k * taps.len(), |i, count, columns| {
                    let mut table = vec![zeros.get().cast_const(); taps.len() * count];
                    let mut out_rows = Vec::with_capacity(count);
                    for r in 0..count {
                        let (b, ty, tx) = Places::split(i + r, part);
                        let (y, x) = (ty * c.stride[0] + offset[0], tx * c.stride[1] + offset[1]);
                        for (t, tap) in taps.iter().enumerate() {
                            let from = |i: usize, at: usize| {
                                let d = (at + c.pad_before[i]).checked_sub(tap[i] * c.dilation[i])?;
                                (d / c.stride[i] < p.out[i]).then_some(d / c.stride[i])
                            };
                            if let (Some(oy), Some(ox)) = (from(0, y), from(1, x)) {
                                let pixel = (b * p.out[0] + oy) * p.out[1] + ox;
                                table[t * count + r] = dy.get().add(pixel * c.out_channels + g * k);
                            }
                        }
                        let pixel = (b * p.size[0] + y) * p.size[1] + x;
                        out_rows.push(dx.get().add(pixel * c.in_channels + g * n));
                    }
                    rows(
                        isa,
                        &RowsJob {
                            rows: table.as_ptr(),
                            a_offset: 0,
                            m: count,
                            taps: taps.len(),
                            k,
                            b: packed.ptr().get().add(columns.start * k * taps.len()),
                            width,
                            n: columns.len(),
                            out: out_rows.as_ptr(),
                            out_offset: columns.start,
                            bias: std::ptr::null(),
                            accumulate: false,
                        },
                    );
                });
            }
        }
    }
}

/// Packs some taps of the transposed weights of one group: sums run over output channels.
unsafe fn pack_taps(isa: Isa, c: &Conv, g: usize, w: &[f32], taps: &[[usize; 2]], out: Ptr<f32>) {
    let all = c.kernel[0] * c.kernel[1];
    let (k, n) = (c.out_channels / c.groups, c.in_channels / c.groups);
    let width = panel_width(isa, n);
    let w = Ptr::from_const(w[g * k * n * all..].as_ptr());
    let taps: Vec<usize> = taps.iter().map(|t| t[0] * c.kernel[1] + t[1]).collect();
    par::for_each(n.div_ceil(width), |panel| {
        let first = panel * width;
        for (t, &tap) in taps.iter().enumerate() {
            for i in 0..k {
                let to = out.get().add(((panel * taps.len() + t) * k + i) * width);
                for lane in 0..width {
                    let inside = first + lane < n;
                    *to.add(lane) =
                        if inside { *w.get().add((i * n + first + lane) * all + tap) } else { 0.0 };
                }
            }
        }
    });
}

pub(super) fn weight_gradient(isa: Isa, c: &Conv, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let p = Places::new(c);
    let pixels = c.batch * p.out[0] * p.out[1];
    let (m, n) = (c.in_channels / c.groups, c.out_channels / c.groups);
    let sums = Scratch::take(p.taps * m * n);
    let zeros = vec![0.0f32; m.max(n)];
    let zeros = Ptr::from_const(zeros.as_ptr());
    let (x, dy) = (Ptr::from_const(x.as_ptr()), Ptr::from_const(dy.as_ptr()));
    let plain = c.kernel == [1; 2] && c.stride == [1; 2] && c.pad_before == [0; 2] && c.pad_after == [0; 2];
    for g in 0..c.groups {
        let x_at = |pixel: usize| Ptr::from_const(x.get().wrapping_add(pixel * c.in_channels + g * m));
        let dy_at = |pixel: usize| Ptr::from_const(dy.get().wrapping_add(pixel * c.out_channels + g * n));
        let dy_row = |i: usize| dy_at(i).get().cast_const();
        let taken = |b, at, tap| input_pixel(c, b, at, tap).map_or(zeros, x_at);
        // SAFETY: rows are pixels of `m` and `n` numbers; `sums` holds as many as the weight.
        unsafe {
            if plain {
                let x_row = |i: usize| x_at(i).get().cast_const();
                reduce_rows(isa, pixels, x_row, dy_row, [m, n], sums.ptr());
            } else if n < FEW_CHANNELS && n < m {
                // `[taps][n][m]`: pixels of the input with the outputs that they are taken for.
                let inputs = c.batch * c.size[0] * c.size[1];
                let met = |b, at, tap| output_pixel(c, p.out, b, at, tap).map_or(zeros, dy_at);
                let (patches, row) = (patches(c, c.size, n, met), p.taps * n);
                let a = patches.ptr();
                let a_row = |i: usize| a.get().wrapping_add(i * row).cast_const();
                let x_row = |i: usize| x_at(i).get().cast_const();
                reduce_rows(isa, inputs, a_row, x_row, [row, m], sums.ptr());
            } else if m < FEW_CHANNELS {
                let (patches, row) = (patches(c, p.out, m, taken), p.taps * m);
                let a = patches.ptr();
                let a_row = |i: usize| a.get().wrapping_add(i * row).cast_const();
                reduce_rows(isa, pixels, a_row, dy_row, [row, n], sums.ptr());
            } else {
                for tap in 0..p.taps {
                    let mut table = vec![zeros; pixels];
                    let to = Ptr::new(&mut table);
                    par::for_each_piece(pixels, 1024, |from, end| {
                        for i in from..end {
                            let (b, y, x) = Places::split(i, p.out);
                            *to.get().add(i) = taken(b, [y, x], [tap / c.kernel[1], tap % c.kernel[1]]);
                        }
                    });
                    let x_row = |i: usize| table[i].get().cast_const();
                    let to = Ptr::from_const(sums.ptr().get().add(tap * m * n));
                    reduce_rows(isa, pixels, x_row, dy_row, [m, n], to);
                }
            }
            let turned = !plain && n < FEW_CHANNELS && n < m;
            let strides = if turned { [m, 1] } else { [1, n] };
            let to = Ptr::new(&mut dw[g * n * m * p.taps..][..n * m * p.taps]);
            par::for_each_piece(n, LANES, |first, end| {
                for (i, tap) in (0..m * p.taps).map(|at| (at / p.taps, at % p.taps)) {
                    for o in first..end {
                        let sum = tap * m * n + o * strides[0] + i * strides[1];
                        *to.get().add((o * m + i) * p.taps + tap) = *sums.ptr().get().add(sum);
                    }
                }
            });
        }
    }
}

/// Index of the output pixel for which input pixel `(b, y, x)` is taken under `tap`, if there is one.
fn output_pixel(c: &Conv, out: [usize; 2], b: usize, at: [usize; 2], tap: [usize; 2]) -> Option<usize> {
    let of = |i: usize| {
        let d = (at[i] + c.pad_before[i]).checked_sub(tap[i] * c.dilation[i])?;
        if c.stride[i] == 1 {
            return (d < out[i]).then_some(d);
        }
        (d.is_multiple_of(c.stride[i]) && d / c.stride[i] < out[i]).then_some(d / c.stride[i])
    };
    let (y, x) = (of(0)?, of(1)?);
    Some((b * out[0] + y) * out[1] + x)
}

/// `[batch, size.., taps, channels]`, copied from where `pixel` of image, place and tap points, so that rows fill
/// the microkernel.
unsafe fn patches(
    c: &Conv,
    size: [usize; 2],
    channels: usize,
    pixel: impl Fn(usize, [usize; 2], [usize; 2]) -> Ptr<f32> + Sync + Send,
) -> Lease {
    let taps: Vec<[usize; 2]> =
        (0..c.kernel[0] * c.kernel[1]).map(|t| [t / c.kernel[1], t % c.kernel[1]]).collect();
    let count = c.batch * size[0] * size[1];
    let patches = Scratch::take(count * taps.len() * channels);
    let start = patches.ptr();
    par::for_each_piece(count, 512, |from, end| {
        let mut to = start.get().add(from * taps.len() * channels);
        for i in from..end {
            let (b, y, x) = Places::split(i, size);
            for &tap in &taps {
                let from = pixel(b, [y, x], tap).get();
                // Few numbers: a call to copy them would take longer.
                for channel in 0..channels {
                    to.add(channel).write(from.add(channel).read());
                }
                to = to.add(channels);
            }
        }
    });
    patches
}
